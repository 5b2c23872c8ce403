"""`skerry run`, `skerry deploy`, `skerry delete`, `skerry instances`: programs from images."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skerry.apps.cli_base import AccountOption, DataDirOption, JsonOption, chosen_account, connect, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skerry.apps.client import Client
    from skerry.apps.programs.spec import ProgramSpec
    from skerry.core.types.view import AppView, SiteView

WAIT_S = 120.0


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: skerry run web.oci.tar --port 8080 --cities lhr,cur --memory 256M --env GREETING=hello")(run)
    app.command(epilog="Example: skerry deploy examples/services")(deploy)
    app.command(epilog="Example: skerry delete web")(delete)
    app.command(epilog="Example: skerry instances web")(instances)


WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it serves, and say what happens.")]
Words = list[str] | None


def run(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A file, a directory (OCI layout), or host/name:tag.")],
    args: Annotated[list[str] | None, typer.Argument(metavar="[-- ARGS]", help="In place of the image's arguments.")] = None,
    *,
    name: Annotated[str | None, typer.Option(help="The app's name (default: the image's).", show_default=False)] = None,
    isolation: Annotated[str | None, typer.Option(metavar="container|gvisor|microvm", help="The wall around it.")] = None,
    cities: Annotated[str | None, typer.Option(metavar="N|CODE,…", help="How many, or which (default: near users).")] = None,
    cpu: Annotated[str | None, typer.Option(metavar="CORES", help="Reserved for each instance: 0.5, 250m.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Of each instance: 256M, 1G.")] = None,
    disk: Annotated[str | None, typer.Option(metavar="SIZE", help="What each instance may write, besides its image.")] = None,
    port: Annotated[
        str | None,
        typer.Option(metavar="PORT[/tcp]", help="Where it listens for HTTP, or with /tcp for anything; none: it serves nobody."),
    ] = None,
    public_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Of every city, with /tcp (default: a free one).")
    ] = None,
    env: Annotated[Words, typer.Option(metavar="NAME=value", help="A variable; NAME alone takes yours.")] = None,
    secret: Annotated[Words, typer.Option(metavar="NAME", help="A variable that is shown nowhere; its value is yours.")] = None,
    health: Annotated[str | None, typer.Option(metavar="PATH", help="A GET of this path says whether it is well.")] = None,
    allow: Annotated[Words, typer.Option(metavar="CIDR|NAME", help="It may call this, and nothing else.")] = None,
    asleep_after: Annotated[str | None, typer.Option(metavar="TIME", help="Without traffic, end it until a request.")] = None,
    restart: Annotated[str | None, typer.Option(metavar="always|on-failure|never", help="When its process has ended.")] = None,
    user: Annotated[str | None, typer.Option(metavar="USER[:GROUP]", help="In place of the image's.")] = None,
    read_only: Annotated[bool | None, typer.Option("--read-only", help="Nothing is written but /tmp.")] = None,
    entrypoint: Annotated[str | None, typer.Option(metavar="WORDS", help="In place of the image's command.")] = None,
    min_total: Annotated[int | None, typer.Option("--min", metavar="N", help="Instances in all, at least.")] = None,
    max_total: Annotated[int | None, typer.Option("--max", metavar="N", help="Instances in all, at most.")] = None,
    wait: WaitOption = True,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Run an image as an app: a new version of it, if it is there already."""
    import shlex

    from skerry.apps.programs import words
    from skerry.apps.programs.spec import HealthWanted, NetworkWanted, ProgramSpec

    with _typed():
        spec = ProgramSpec(
            image=image,
            isolation=isolation,
            command=tuple(shlex.split(entrypoint)) if entrypoint else None,
            args=tuple(args) if args else None,
            user=user,
            port=port,
            public_port=public_port,
            cpu=cpu,
            memory=memory,
            disk=disk,
            read_only=read_only,
            env=dict(words.pairs(env or (), "--env", environment=os.environ)),
            secrets=words.names(secret or ()),
            health=HealthWanted(http=health) if health else None,
            network=NetworkWanted(allow=words.names(allow), only_allowed=True) if allow else None,
            restart=restart,
            asleep_after=asleep_after,
            cities=None if cities is None else int(cities) if cities.isdigit() else words.names((cities,)),
            min=min_total,
            max=max_total,
        )
    with connect(data_dir) as client:
        chosen = chosen_account(client, client.whoami(), account)
        made = _deployed(client, chosen.account, name or name_of(image), spec, base=Path.cwd(), quiet=json)
        _tell(client, chosen.account, [made], wait=wait, json=json)


def deploy(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A skerry.toml, or the directory that has one.")] = Path(),
    *,
    only: Annotated[Words, typer.Option("--app", metavar="NAME", help="This app of it alone; may stand more than once.")] = None,
    wait: WaitOption = True,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Deploy the apps of a skerry.toml: images, and Workers by their wrangler configuration."""
    from skerry.apps.client import ClientError
    from skerry.apps.programs.file import WorkerSpec, read_apps

    found = read_apps(file)
    unknown = sorted(set(only or ()) - found.apps.keys())
    if unknown:
        raise ClientError(f"{file}: there is no app {unknown[0]!r} in it", hint=f"it has {', '.join(found.apps)}")
    made: list[dict[str, Any]] = []
    with connect(data_dir) as client:
        chosen = chosen_account(client, client.whoami(), account)
        for name, spec in found.apps.items():
            if only and name not in only:
                continue
            if isinstance(spec, WorkerSpec):
                _deploy_worker(found.base / spec.worker, name, client, chosen.account)
            else:
                made.append(_deployed(client, chosen.account, name, spec, base=found.base, quiet=json))
        _tell(client, chosen.account, made, wait=wait, json=json)


def delete(
    name: Annotated[str, typer.Argument(metavar="APP")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """Delete an app with all its versions; what runs of it ends."""
    with connect(data_dir) as client:
        chosen = chosen_account(client, client.whoami(), account).account
        if not yes and not json:
            typer.confirm(f"Delete {name} with all its versions?", abort=True)
        client.delete_app(chosen, name)
    if json:
        return print_json({"deleted": name})
    return print(f"{name} is deleted.")


def instances(
    name: Annotated[str, typer.Argument(metavar="APP")],
    *,
    data_dir: DataDirOption = None,
    account: AccountOption = None,
    json: JsonOption = False,
) -> None:
    """List the instances of an app: city, node, state, and what it last complained of."""
    with connect(data_dir) as client:
        chosen = chosen_account(client, client.whoami(), account).account
        found = client.instances(chosen, name)
        now_ms = client.status().now_ms
    if json:
        return print_json(found)
    from skerry.apps.tables import print_instances

    return print_instances(found, now_ms)


def name_of(image: str) -> str:
    """An app's name for an image: the last word of its path, without tag and ending."""
    import re

    last = image.rstrip("/").rpartition("/")[2].partition("@")[0].partition("#")[0]
    stem = last.partition(".")[0] if Path(image).exists() or last.endswith((".tar", ".tgz")) else last.partition(":")[0]
    return re.sub(r"[^a-z0-9-]+", "-", stem.lower()).strip("-")[:63] or "app"


def _deployed(client: "Client", account: str, name: str, spec: "ProgramSpec", *, base: Path, quiet: bool) -> dict[str, Any]:
    """Send the image, then the program. Returns the version as shown."""
    import msgspec

    from skerry.adapters.imagesources.opening import own_architecture
    from skerry.apps.client import ClientError
    from skerry.apps.programs.progress import Bar
    from skerry.apps.programs.sending import send_image
    from skerry.apps.programs.spec import body_of

    new = all(item.app != name or item.account != account for item in client.apps())
    with _typed():
        body = body_of(spec, environment=os.environ, base=base, new=new)
    local = base / spec.image
    reference = str(local) if local.exists() and not Path(spec.image).is_absolute() else spec.image
    with Bar(quiet=quiet) as bar:
        image = send_image(client, account, reference, architecture=own_architecture(), progress=bar.tell)
    try:
        version = client.put_program(account, name, {**body, "image": image.manifest, "image_name": spec.image[:512]})
    except ClientError as error:
        raise ClientError(f"{name}: {error}", hint=error.hint, code=error.code) from error
    return msgspec.structs.asdict(version)


def _deploy_worker(directory: Path, name: str, client: "Client", account: str) -> None:
    import subprocess

    from skerry.apps.client import ClientError
    from skerry.apps.wrangling import command, wrangler_env

    target = client.target
    environment = {**os.environ, **wrangler_env(target.dialect_url, target.token, account)}
    if subprocess.run(command(["deploy", "--name", name]), cwd=directory, env=environment, check=False).returncode:
        raise ClientError(f"{name}: wrangler could not deploy {directory}", hint="what it said is above")


def _tell(client: "Client", account: str, made: list[dict[str, Any]], *, wait: bool, json: bool) -> None:
    from skerry.apps.programs.progress import wait_until_served

    for version in made:
        if wait:
            wait_until_served(client, account, version["app"], version["version"], seconds=WAIT_S, quiet=json)
    if json:
        return print_json(made[0] if len(made) == 1 else made)
    status = client.status()
    found = {item.app: item for item in status.apps if item.account == account}
    for version in made:
        where = "; it serves nobody, since no port was named (--port)"
        if version["port"] and version["app"] in found:
            where = f" at {_answers_at(found[version['app']], status.sites)}"
        print(f"{version['app']}: version {version['number']} ({version['isolation']}){where}")
    return None


def _answers_at(app: "AppView", sites: "Sequence[SiteView]") -> str:
    if app.public_port is None:
        return app.url
    cities = ", ".join(f"{site.address.rpartition(':')[0]}:{app.public_port} ({site.site})" for site in sites)
    return f"TCP port {app.public_port} of every city: {cities}"


class _typed:
    """What was typed wrongly becomes an error for people."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from skerry.apps.client import ClientError
        from skerry.apps.programs.words import BadWord

        if isinstance(error, BadWord):
            raise ClientError(str(error)) from error
