"""What control believes of its sites: heartbeats in, lost and returned out, by `core.machines.failure`."""

from skerry.core.machines.failure import Heard, Thresholds, Watch, step

STEP_MS = 1_000


class Belief:
    """Heartbeats are not sent one by one: a site that lives and is connected was last heard at its last beat."""

    def __init__(self, sites: tuple[str, ...], *, heartbeat_ms: int, lost_after_ms: int) -> None:
        self._heartbeat_ms = heartbeat_ms
        self._thresholds = Thresholds(suspect_ms=min(2_000, lost_after_ms), lost_ms=lost_after_ms, step_max_ms=2 * STEP_MS)
        self._silent_since: dict[str, int] = {}
        self._sites = sites
        self.lost: frozenset[str] = frozenset()

    def silent(self, site: str, now_ms: int) -> None:
        """From now on nothing of it arrives."""
        self._silent_since.setdefault(site, now_ms - now_ms % self._heartbeat_ms)

    def heard(self, site: str) -> None:
        """It is there again."""
        self._silent_since.pop(site, None)

    def look(self, now_ms: int) -> int | None:
        """Judge everybody; when to look again (None: when somebody falls silent)."""
        beat_ms = now_ms - now_ms % self._heartbeat_ms
        members = tuple(Heard(member=site, heard_ms=self._silent_since.get(site, beat_ms)) for site in self._sites)
        _, judged = step(Watch(stepped_ms=now_ms - STEP_MS, members=members), now_ms, self._thresholds)
        self.lost = frozenset(name for name, state in judged.states if state == "lost")
        waiting = [self._silent_since[site] + self._thresholds.lost_ms for site in self._silent_since if site not in self.lost]
        return min(waiting, default=None)
