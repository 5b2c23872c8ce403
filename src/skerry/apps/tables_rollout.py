"""A rollout for people."""

from collections.abc import Sequence
from math import exp

from rich.text import Text

from skerry.apps.supervisor.picture import STYLES
from skerry.apps.tables import ID_CHARS_SHOWN, console, make_table
from skerry.core.types.view import AppView, RolloutDetail

SITES_SHOWN = 12  # of a wave, by name; of the others only those with something to say
EVIDENCE_SHOWN_MAX = 1e6


def print_rollout(found: RolloutDetail) -> None:
    out = console()
    state = found.rollout.state
    title = Text(f"{found.app}: ", style="bold")
    title.append(state.replace("_", " "), style=STYLES.get(state, ""))
    if found.new_versions:
        before = ", ".join(name[:ID_CHARS_SHOWN] for name in found.old_versions) or "nothing"
        title.append(f"  {before} → {', '.join(name[:ID_CHARS_SHOWN] for name in found.new_versions)}")
    out.print(title)
    if found.rollout.detail:
        out.print(found.rollout.detail, markup=False)
    if not found.waves:
        out.print("no city takes part in it")
        return
    _print_waves(found)
    _print_gate(found)


def print_rollouts(apps: Sequence[AppView]) -> None:
    """Each app's, in a line."""
    rows = make_table("app", "rollout", "wave", "detail")
    for item in apps:
        state = Text(item.rollout.state.replace("_", " "), style=STYLES.get(item.rollout.state, ""))
        rows.add_row(f"{item.account_name}/{item.app}", state, f"{item.rollout.wave}/{item.rollout.waves}", item.rollout.detail)
    console().print(rows)


def _print_waves(found: RolloutDetail) -> None:
    rows = make_table("wave", "state", "demand", "ready", "cities")
    for wave in found.waves:
        sites = [site for site in found.sites if site.wave == wave.wave]
        ready = sum(site.ready for site in sites)
        names = " ".join(wave.sites[:SITES_SHOWN])
        more = f" and {len(wave.sites) - SITES_SHOWN} more" if len(wave.sites) > SITES_SHOWN else ""
        style = {"done": "green", "current": "cyan", "waiting": "dim"}[wave.state]
        rows.add_row(str(wave.wave), Text(wave.state, style=style), f"{wave.share:.1%}", f"{ready}/{len(sites)}", names + more)
    console().print(rows)
    for site in found.sites:
        if site.detail:
            console().print(f"  {site.site}: {site.detail}", markup=False)


def _print_gate(found: RolloutDetail) -> None:
    gate, out = found.gate, console()
    if not found.gated:
        out.print("gate: it brings no new version, so there is nothing to compare")
        return
    if not gate.requests:
        out.print("gate: no request has been counted yet; cities go on when their instances are ready")
        return
    out.print(f"gate: {gate.verdict}" + (f" ({gate.detail})" if gate.detail else ""), markup=False)
    rows = make_table("", "requests", "failed", "mean ms")
    rows.add_row("new", str(gate.requests), f"{gate.errors / gate.requests:.2%}", f"{gate.latency_ms_mean:.1f}")
    old = f"{gate.old_errors / gate.old_requests:.2%}" if gate.old_requests else ""
    rows.add_row("old", str(gate.old_requests), old, f"{gate.old_latency_ms_mean:.1f}" if gate.old_requests else "")
    out.print(rows)
    out.print(
        f"evidence that it is worse: errors {_odds(gate.error_evidence)}, latency {_odds(gate.latency_evidence)}; "
        f"it goes back at {_odds(gate.evidence_needed)}"
    )


def _odds(evidence: float) -> str:
    ratio = exp(min(evidence, 50.0))
    return f"over {EVIDENCE_SHOWN_MAX:,.0f}" if ratio > EVIDENCE_SHOWN_MAX else f"{ratio:.3g}"
