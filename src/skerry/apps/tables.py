"""The CLI's answers for people, as rich tables."""

import sys
import time
from collections.abc import Sequence
from typing import cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skerry.apps.supervisor.picture import STYLES
from skerry.core.types.plan import REASON_TEXT
from skerry.core.types.view import (
    AccountView,
    AppView,
    Explanation,
    InstanceView,
    NodeView,
    ScaleView,
    SiteView,
    Status,
    TokenView,
)

ID_CHARS_SHOWN = 8
PIPE_COLUMNS = 200


def console() -> Console:
    """As wide as the terminal; wide enough for every column where there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def print_status(status: Status) -> None:
    print_sites(status.sites)
    if status.nodes:
        print_nodes(status.nodes)
    print_apps(status.apps)
    if status.instances:
        print_instances(status.instances, status.now_ms)


def print_sites(sites: Sequence[SiteView]) -> None:
    table = make_table("site", "city", "state", "address", "nodes", "pid", "ingress")
    for site in sites:
        nodes = f"{site.nodes_up}/{site.nodes}"
        table.add_row(site.site, site.city, _health(site), site.address, nodes, _pid(site.pid), _pid(site.ingress_pid))
    console().print(table)
    for site in sites:
        for problem in site.problems:
            console().print(f"{site.site}: {problem}", markup=False)


def print_nodes(nodes: Sequence[NodeView]) -> None:
    table = make_table("node", "state", "address", "pid", "instances", "memory", "cpu")
    for node in nodes:
        memory = f"{node.reserved.memory_mib} of {node.capacity.memory_mib} MiB{_times(node.overcommit_memory_percent)}"
        cpu = f"{node.reserved.cpu_millicores} of {node.capacity.cpu_millicores} m{_times(node.overcommit_cpu_percent)}"
        table.add_row(node.node, _health(node), node.address, _pid(node.pid), str(node.instances), memory, cpu)
    console().print(table)


def _times(percent: int) -> str:
    """Of what it has, where it promises more, or less, than that."""
    return "" if percent == 100 else f" (\u00d7{percent / 100:g})"


def print_scale(found: ScaleView, *, changed: Sequence[str] = ()) -> None:
    """Fields that nobody set are grey."""
    table = make_table("field", "value", "")
    for field, value in found.scale.items():
        style = "" if field in found.set_fields else "dim"
        note = "changed" if field in changed else "default" if field not in found.set_fields else ""
        table.add_row(Text(field, style=style), Text(_scale_value(value), style=style), Text(note, style=style))
    console().print(table)
    for warning in found.warnings:
        console().print(Text(f"  {warning}", style="yellow"))
    if changed:
        console().print(f"`skerry explain {found.app}` tells what that means in each city.")


def _scale_value(value: object) -> str:
    """None and empty lists as "none", names with commas, pairs as NAME=NUMBER."""
    if value is None or value in ([], ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}={entry}" for name, entry in cast(dict[str, object], value).items()) or "none"
    if isinstance(value, list | tuple):
        entries = cast(Sequence[object], value)
        return ", ".join(
            "=".join(str(part) for part in cast(dict[str, object], entry).values()) if isinstance(entry, dict) else str(entry)
            for entry in entries
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_apps(apps: Sequence[AppView]) -> None:
    if not apps:
        console().print("no apps yet: deploy one with `skerry wrangler deploy` in a Worker project")
        return
    table = make_table("app", "version", "rollout", "serving", "cities", "URL")
    for app in apps:
        version = (app.version or "none")[:ID_CHARS_SHOWN]
        rollout = Text(app.rollout.state, style=STYLES.get(app.rollout.state, ""))
        if app.rollout.state == "running":
            rollout.append(f" {app.rollout.wave}/{app.rollout.waves}")
        cities = " ".join(app.sites) or "none"
        table.add_row(f"{app.account_name}/{app.app}", version, rollout, f"{app.serving}/{app.instances}", cities, app.url)
    console().print(table)
    for app in apps:
        if app.rollout.detail:
            console().print(f"{app.account_name}/{app.app}: {app.rollout.detail}", markup=False)


def print_instances(instances: Sequence[InstanceView], now_ms: int) -> None:
    table = make_table("instance", "app", "version", "node", "state", "pid", "since", "memory", "restarts")
    for item in instances:
        table.add_row(
            item.instance[:ID_CHARS_SHOWN],
            f"{item.account_name}/{item.app}",
            item.version[:ID_CHARS_SHOWN],
            item.node,
            _state(item.state),
            _pid(item.pid),
            _ago(now_ms - item.since_ms),
            f"{item.memory_bytes / (1 << 20):.1f} MiB" if item.memory_bytes else "",
            str(item.restarts) if item.restarts else "",
        )
    console().print(table)
    for item in instances:
        for note in (item.detail, *(strain.text for strain in item.strains)):
            if note:
                console().print(f"{item.instance[:ID_CHARS_SHOWN]} on {item.node}: {note}", markup=False)


def print_explanation(said: Explanation) -> None:
    out = console()
    out.print(Text(f"{said.app}: {_decision(said)}", style="bold"))
    if said.blocked_since_ms is not None:
        out.print(f"Some of it has found no place since {_when(said.blocked_since_ms)}.")
    if said.placements:
        table = make_table("city", "version", "instances", "serving")
        for placement in said.placements:
            table.add_row(placement.site, placement.version[:ID_CHARS_SHOWN], str(placement.count), str(placement.serving))
        out.print(table)
    for verdict in said.verdicts:
        mark = Text("chosen  ", style="green") if verdict.chosen else Text("not     ", style="yellow")
        out.print(Text.assemble(f"  {verdict.site:<6}", mark, "; ".join(verdict.reasons)))
    for node in said.nodes:
        held = f"{len(node.instances)} here" if node.instances else "none here"
        out.print(Text(f"    {node.node:<10}{held}  {'; '.join(node.reasons)}"))
    for found in said.strains:
        out.print(Text(f"  {found.instance[:ID_CHARS_SHOWN]} on {found.node}: {found.strain.text}", style="yellow"))
    if not said.verdicts:
        for rejection in said.rejections:
            text = REASON_TEXT.get(rejection.reason, str(rejection.reason))
            out.print(Text(f"  {rejection.place}: {text}{f' ({rejection.detail})' if rejection.detail else ''}"))
    for number, sentence in enumerate(said.report, start=1):
        out.print(Text(f"  {number}. {sentence}", style="dim"))


def print_accounts(accounts: Sequence[AccountView]) -> None:
    table = make_table("name", "account", "created")
    for account in accounts:
        table.add_row(account.name, account.account, _when(account.created_ms))
    console().print(table)


def print_tokens(tokens: Sequence[TokenView], names: dict[str, str]) -> None:
    """`names` are the accounts' by id."""
    table = make_table("token", "name", "scope", "account", "created", "expires")
    for token in tokens:
        account = "every account" if token.account is None else names.get(token.account, token.account)
        expires = _when(token.expires_ms) if token.expires_ms else "never"
        table.add_row(token.token, token.name, token.scope, account, _when(token.created_ms), expires)
    console().print(table)


def make_table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        # A URL or an id is copied by people: it is broken, never cut.
        table.add_column(column, overflow="fold", no_wrap=column not in ("URL", "cities", "account"))
    return table


def _state(state: str) -> Text:
    return Text(state, style=STYLES.get(state, ""))


def _health(place: SiteView | NodeView) -> Text:
    """A state, and what is suspected or done meanwhile."""
    text = _state(place.state)
    if place.suspected:
        text.append(f", suspected (φ {place.phi:.1f})", style="yellow")
    if isinstance(place, NodeView) and place.maintenance:
        text.append(f", {place.maintenance}", style="cyan")
    return text


def _pid(pid: int | None) -> str:
    return str(pid) if pid else ""


def _decision(said: Explanation) -> str:
    if said.plan is None:
        return "nothing is decided yet"
    when = f", decided {_when(said.decided_ms)}" if said.decided_ms else ""
    return f"plan {said.plan[:ID_CHARS_SHOWN]}, generation {said.generation}{when}, because of: {said.cause}"


def _when(ms: int | None) -> str:
    return "" if ms is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))


def _ago(ms: int) -> str:
    seconds = max(0, ms) // 1000
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
