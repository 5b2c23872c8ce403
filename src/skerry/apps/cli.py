"""The `skerry` command. Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no platform answers.

Every command reads as: find the platform, ask it, print. What only one command needs is imported inside it, so
that the others start fast.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from skerry.apps import (
    cli_backup,
    cli_demand,
    cli_maintenance,
    cli_plan,
    cli_rollout,
    cli_run,
    cli_scale,
    cli_settings,
    cli_talk,
    cli_top,
)
from skerry.apps.cli_base import (
    AccountOption,
    AddressPoolOption,
    Before,
    DataDirOption,
    DiskLimitsOption,
    HookOption,
    ImagesMaxOption,
    JsonOption,
    MicrovmEngineOption,
    OvercommitCpuOption,
    WarmMicrovmsOption,
)
from skerry.apps.cli_base import chosen_account as _account
from skerry.apps.cli_base import connect as _client
from skerry.apps.cli_base import print_json as _print_json
from skerry.apps.cli_base import where as _data_dir
from skerry.apps.cli_help import Sections
from skerry.apps.sim.cli import app as sim_app
from skerry.apps.world.cli import app as world_app

EXPIRES_DAYS_MAX = 3650

app = typer.Typer(
    name="skerry",
    cls=Sections,
    help="An edge application platform on your own servers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
account_app = typer.Typer(help="Accounts: the tenants of the platform.", no_args_is_help=True, rich_markup_mode=None)
token_app = typer.Typer(help="Tokens: who may do what.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(account_app, name="account")
app.add_typer(token_app, name="token")
app.add_typer(sim_app, name="sim")
app.add_typer(world_app, name="world")
for commands in (
    cli_scale, cli_demand, cli_settings, cli_plan, cli_rollout, cli_run, cli_talk, cli_top, cli_maintenance, cli_backup,
):  # fmt: skip
    commands.add_to(app)


@app.callback()
def program(data_dir: DataDirOption = None) -> None:
    """An edge application platform on your own servers."""
    Before.data_dir = data_dir


@app.command(epilog="Example: skerry up --cities lhr:3,cur:3,sin:2 --port 8080")
def up(
    *,
    cities: Annotated[
        str, typer.Option(metavar="CODE:NODES,…", help="Cities by IATA code, each with its number of nodes.")
    ] = "lhr:3,cur:3,sin:2",
    data_dir: DataDirOption = None,
    port: Annotated[int, typer.Option(help="Where apps answer; the three ports after it are used too.")] = 8080,
    api_port: Annotated[int, typer.Option(help="Where the API answers.")] = 8787,
    suffix: Annotated[str, typer.Option(help="Apps answer at <app>.<account>.<suffix>.")] = "localhost",
    example: Annotated[bool, typer.Option("--example/--no-example", help="Deploy examples/hello-edge first.")] = True,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; returns when it serves.")] = False,
    node_cpu: Annotated[
        int | None, typer.Option(metavar="N", help="Millicores of each node (default: a share of the machine).")
    ] = None,
    node_memory: Annotated[
        int | None, typer.Option(metavar="N", help="MiB of each node (default: a share of the machine).")
    ] = None,
    overcommit_cpu: OvercommitCpuOption = None,
    overcommit_memory: Annotated[float, typer.Option(metavar="RATIO", help="The same of its memory.")] = 1.0,
    allow_egress: Annotated[
        list[str] | None, typer.Option(metavar="CIDR", help="A network that apps may reach besides the public internet.")
    ] = None,
    public_ports: Annotated[
        str, typer.Option(metavar="PORT-PORT,…", help="Ports of every city's address that TCP programs may have.")
    ] = "30000-30999",
    answer_seconds: Annotated[
        int, typer.Option(metavar="N", help="How long an app may take to begin its answer; one that is stuck is ended sooner.")
    ] = 60,
    sleep_after: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Without use, give an app's memory back (default: 10).")
    ] = None,
    dead_after: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Without use, end an app's process until the next request.")
    ] = None,
    microvm_engine: MicrovmEngineOption = "auto",
    warm_microvms: WarmMicrovmsOption = 2,
    address_pool: AddressPoolOption = "100.64.0.0/10",
    images_max: ImagesMaxOption = 20_480,
    disk_limits: DiskLimitsOption = "200,100,4000,2000",
    zram: Annotated[bool, typer.Option("--zram/--no-zram", help="As root: make swap in memory, for sleeping apps.")] = True,
    fine_turns: Annotated[
        bool, typer.Option("--fine-turns/--no-fine-turns", help="As root: let the kernel end turns on the CPU exactly (HRTICK).")
    ] = True,
    hook: HookOption = None,
    json: JsonOption = False,
) -> None:
    """Start every plane on this machine: control, cities, nodes. Ctrl-C ends all of it."""
    from skerry.apps import up as module
    from skerry.apps.config import MicrovmRules, ProgramsRules, Resting
    from skerry.apps.supervisor.layout import Options, parse_disk, parse_hook

    options = Options(
        data_dir=str(_data_dir(data_dir)),
        cities=cities,
        port=port,
        api_port=api_port,
        suffix=suffix,
        example=example,
        zram=zram,
        fine_turns=fine_turns,
        node_cpu_millicores=node_cpu,
        node_memory_mib=node_memory,
        overcommit_cpu=overcommit_cpu,
        overcommit_memory=overcommit_memory,
        egress_allow=tuple(allow_egress or ()),
        public_ports=public_ports,
        answer_s_max=answer_seconds,
        resting=Resting(sleep_after_ms=_ms(sleep_after), dead_after_ms=_ms(dead_after)),
        programs=ProgramsRules(
            images_mib_max=images_max,
            disk=parse_disk(disk_limits),
            address_pool=address_pool,
            microvm=MicrovmRules(engine=microvm_engine, warm_machines_max=warm_microvms),
        ),
        hooks=tuple(parse_hook(text) for text in hook or ()),
    )
    if not detach:
        raise typer.Exit(module.up(options, json=json))
    started = module.up_detached(options)
    if json:
        _print_json(started)
    else:
        print(f"Ready after {started.seconds:.1f} s (pid {started.pid}); API: {started.api_url}")
        print(f"`skerry status` shows it, `skerry down` ends it; logs: {started.data_dir}/logs")


@app.command(epilog="Example: skerry down")
def down(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """End the platform that runs in the background, and remove what a killed one left."""
    from skerry.apps import up as module

    said = module.down(_data_dir(data_dir))
    if json:
        _print_json({"done": said})
    else:
        print(said)


@app.command(epilog="Example: skerry status --json | jq .instances")
def status(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Show sites, nodes, apps and instances."""
    with _client(data_dir) as client:
        found = client.status()
    if json:
        return _print_json(found)
    from skerry.apps.tables import print_status

    return print_status(found)


@app.command(epilog='Example: eval "$(skerry env)" && npx wrangler deploy')
def env(data_dir: DataDirOption = None, account: AccountOption = None, json: JsonOption = False) -> None:
    """Print the variables that point wrangler at this platform, for `eval`."""
    from skerry.apps.wrangling import wrangler_env

    with _client(data_dir) as client:
        chosen = _account(client, client.whoami(), account)
        values = wrangler_env(client.target.dialect_url, client.target.token, chosen.account)
    if json:
        return _print_json(values)
    for name, value in values.items():
        print(f"export {name}={shlex.quote(value)}")
    return None


@app.command(
    epilog="Example: skerry wrangler deploy\n\nAnother platform: skerry wrangler --data-dir DIR deploy",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def wrangler(context: typer.Context, data_dir: DataDirOption = None, account: AccountOption = None) -> None:
    """Run the stock wrangler client that came with the installation, pointed at this platform.

    Everything from wrangler's command on is wrangler's own: `skerry wrangler deploy --help` is its help.
    """
    from skerry.apps import wrangling

    with _client(data_dir) as client:
        who = client.whoami()
        given = os.environ.get("CLOUDFLARE_ACCOUNT_ID")
        known = given if given in {item.account for item in who.accounts} else None
        chosen = _account(client, who, account or known)
        values = wrangling.wrangler_env(client.target.dialect_url, client.target.token, chosen.account)
        command = wrangling.command(context.args)
        with wrangling.output_file() as output:
            result = wrangling.run_in_foreground(command, {**os.environ, "WRANGLER_OUTPUT_FILE_PATH": str(output), **values})
            deployed = wrangling.read_deployed(output) if result == 0 else ()
        if deployed:
            wrangling.wait_until_served(client, chosen.account, deployed)
            wrangling.print_urls(client, chosen, tuple(dict.fromkeys(entry.worker_name or "" for entry in deployed)))
    raise typer.Exit(result)


@app.command(epilog="Example: skerry apps --where")
def apps(
    where: Annotated[bool, typer.Option("--where", help="In which cities each runs, and in which states.")] = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List the apps with their URLs and how far their rollouts are, or with their cities."""
    with _client(data_dir) as client:
        if where:
            from skerry.apps.where import print_where, where_of

            found = where_of(client.status())
            return _print_json({"apps": found}) if json else print_where(found)
        found = client.apps()
    if json:
        return _print_json({"apps": found})
    from skerry.apps.tables import print_apps

    return print_apps(found)


@app.command(epilog="Example: skerry explain hello-edge cur")
def explain(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app.")],
    site: Annotated[str | None, typer.Argument(metavar="[SITE]", help="Look inside this city too.", show_default=False)] = None,
    *,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Say where an app runs, and why there and not elsewhere."""
    with _client(data_dir) as client:
        chosen = _account(client, client.whoami(), account)
        said = client.explain(chosen.account, name, site)
    if json:
        return _print_json(said)
    from skerry.apps.tables import print_explanation

    return print_explanation(said)


@app.command("map", epilog="Example: skerry map --open\n\nAn app's users as data: skerry map hello-edge --json | jq .world")
def show_map(
    name: Annotated[
        str | None, typer.Argument(metavar="[APP]", help="With --json: this app's users.", show_default=False)
    ] = None,
    *,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = False,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Say where the world map is: cities, apps, their users' latency and the reasons. Or print what it draws, as JSON."""
    from skerry.apps.map import print_map

    with _client(data_dir) as client:
        if json and name is not None:
            return _print_json(client.app_map(_account(client, client.whoami(), account).account, name))
        return _print_json(client.world_map()) if json else print_map(client, open_browser=open_browser)


@app.command(epilog="Example: skerry sites")
def sites(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List the cities."""
    with _client(data_dir) as client:
        found = client.sites()
    if json:
        return _print_json({"sites": found})
    from skerry.apps.tables import print_sites

    return print_sites(found)


@app.command(epilog="Example: skerry nodes --json")
def nodes(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List the nodes with what they have and what is reserved."""
    with _client(data_dir) as client:
        found = client.nodes()
    if json:
        return _print_json({"nodes": found})
    from skerry.apps.tables import print_nodes

    return print_nodes(found)


TargetArgument = Annotated[str, typer.Argument(metavar="NODE|SITE", help="A node (lhr-1) or a whole city (lhr).")]


@app.command(epilog="Example: skerry drain lhr-1")
def drain(target: TargetArgument, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Move everything off a node or a city, and put nothing new there."""
    with _client(data_dir) as client:
        done = client.drain(target)
    if json:
        return _print_json(done)
    moving = f"; {done.moving} instances are moving away" if done.moving else ""
    return print(f"{done.kind} {done.target} is {done.state}{moving}. `skerry undrain {done.target}` takes it back.")


@app.command(epilog="Example: skerry undrain lhr-1")
def undrain(target: TargetArgument, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Take a drained node or city back into service."""
    with _client(data_dir) as client:
        done = client.undrain(target)
    return _print_json(done) if json else print(f"{done.kind} {done.target} is {done.state}")


@app.command(
    epilog="Example: skerry world make --out my-world --cities 20 --apps 100 && skerry place --world my-world --out plan.json\n\n"
    'Then: skerry place --world my-world --from plan.json --event "site-lost lhr" --out next.json\n\n'
    "What may move for the better: skerry place --world my-world --from next.json --rebalance 100 --out better.json"
)
def place(
    *,
    world: Annotated[Path, typer.Option(metavar="DIR", help="The world: sites.csv, metros.csv, apps.jsonl and so on.")],
    out: Annotated[Path, typer.Option(metavar="PLAN", help="Where the plan goes.")],
    before: Annotated[
        Path | None, typer.Option("--from", metavar="PLAN", help="What runs now: only what changed is decided again.")
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EVENT",
            help='What changed, may stand more than once: "site-lost SITE", "site-draining SITE", "site-cut-off SITE", '
            '"site-back SITE", "demand APP METRO RPS".',
        ),
    ] = None,
    rebalance: Annotated[
        int,
        typer.Option(metavar="STARTS", min=0, help="With --from: then a background pass, which may start so many instances."),
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Decide where every app of a world runs, and how far that is from the best at most."""
    if rebalance and before is None:
        raise typer.BadParameter("a background pass goes on from what runs; give that with --from", param_hint="--rebalance")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: our processes share the cores, and sums come out alike
    from skerry.apps.world.place import place as decide

    decide(world, out, before, event or (), starts_max=rebalance, json=json)


@account_app.command("create", epilog="Example: skerry account create team-a")
def account_create(
    name: Annotated[str, typer.Argument(help="Part of the apps' host names: lower-case letters, digits, hyphens.")],
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Create an account."""
    with _client(data_dir) as client:
        made = client.create_account(name)
    if json:
        return _print_json(made)
    print(f"account {made.name}: {made.account}")
    return print(f"`skerry token create NAME --account {made.name}` makes a token for it")


@account_app.command("list", epilog="Example: skerry account list")
def account_list(data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List the accounts."""
    with _client(data_dir) as client:
        found = client.accounts()
    if json:
        return _print_json({"accounts": found})
    from skerry.apps.tables import print_accounts

    return print_accounts(found)


@token_app.command("create", epilog="Example: skerry token create ci --account team-a --scope write --days 90")
def token_create(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    *,
    account: Annotated[str | None, typer.Option(help="The account it is for; without it: an operator's token.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="read, write or admin.", show_default="write, or admin without account")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, max=EXPIRES_DAYS_MAX, help="Days until it expires.")] = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Create a token. Its secret is shown once, now."""
    import time

    expires_ms = None if days is None else int(time.time() * 1000) + days * 86_400_000
    with _client(data_dir) as client:
        made = client.create_token(name, scope or ("write" if account else "admin"), account, expires_ms)
    if json:
        return _print_json(made)
    print(made.secret)
    return print(f"token {made.token} ({made.scope}); the secret above is not shown again", file=sys.stderr)


@token_app.command("list", epilog="Example: skerry token list --account team-a")
def token_list(account: AccountOption = None, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """List the tokens, without their secrets."""
    with _client(data_dir) as client:
        found = client.tokens(account)
        names: dict[str, str] = {item.account: item.name for item in client.accounts()}
    if json:
        return _print_json({"tokens": found})
    from skerry.apps.tables import print_tokens

    return print_tokens(found, names)


@token_app.command("revoke", epilog="Example: skerry token revoke 0123456789abcdef0123456789abcdef")
def token_revoke(
    token: Annotated[str, typer.Argument(help="The token's id, as `skerry token list` shows it.")],
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke a token: from now on nobody is let in with it."""
    with _client(data_dir) as client:
        gone = client.revoke_token(token)
    return _print_json(gone) if json else print(f"token {gone.token} ({gone.name}) is revoked")


@app.command(epilog="Example: skerry doctor --get microvm")
def doctor(
    json: JsonOption = False,
    required: Annotated[bool, typer.Option("--required", help="Only what keeps Skerry from running.")] = False,
    get: Annotated[
        Literal["gvisor", "microvm"] | None,
        typer.Option("--get", help="Bring what set-up does not: gVisor; guests' kernel and init."),
    ] = None,
) -> None:
    """Tell what this machine has, what it lacks, what that disables and how to get it."""
    from skerry.apps.doctor import doctor as examine
    from skerry.apps.doctor import get as build

    if get is not None:
        raise typer.Exit(build(get))
    raise typer.Exit(examine(json=json, required=required))


def main() -> None:
    from skerry.adapters.tools import ToolMissing
    from skerry.apps.client import ClientError
    from skerry.apps.supervisor.errors import UpError
    from skerry.core.worlds.faults import WorldError

    try:
        app()
    except ToolMissing as error:
        _fail(str(error), hint="`skerry doctor` tells what else this machine lacks", code=1)
    except WorldError as error:
        _fail(str(error), hint="", code=1)
    except UpError as error:
        _fail(str(error), hint=error.hint, code=error.code)
    except ClientError as error:
        _fail(str(error), hint=error.hint, code=error.exit_code)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _fail(message: str, *, hint: str, code: int) -> None:
    print(f"skerry: {message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
