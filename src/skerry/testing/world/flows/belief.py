"""What control believes of its sites: heartbeats in, lost and returned out, by `core.machines.failure`."""

from msgspec.structs import replace

from skerry.core.machines.failure import Watch
from skerry.services.control.observed import SITES


class Belief:
    """Heartbeats are heard one by one only while somebody is silent; before that, everybody kept time."""

    def __init__(self, sites: tuple[str, ...], *, heartbeat_ms: int, denied_after_ms: int, lost_after_ms: int) -> None:
        settings = replace(
            SITES,
            heartbeat_ms=heartbeat_ms,
            suspect_ms=min(SITES.suspect_ms, denied_after_ms, lost_after_ms),
            denied_ms=min(denied_after_ms, lost_after_ms),
            lost_ms=lost_after_ms,
            lost_ms_max=max(SITES.lost_ms_max, lost_after_ms),
        )
        self._heartbeat_ms = heartbeat_ms
        self._watch = Watch(settings, 0)
        self._sites = sites
        self._silent: set[str] = set()
        self._denied: set[str] = set()
        self._at_ms = 0
        self.lost: frozenset[str] = frozenset()

    def silent(self, site: str, now_ms: int, *, denied: bool) -> None:
        """From now on nothing of it arrives. `denied`: nor do others reach it, of whom several look and are heard."""
        self._go_on(now_ms)
        self._silent.add(site)
        (self._denied.add if denied else self._denied.discard)(site)

    def heard(self, site: str, now_ms: int) -> None:
        """It is there again."""
        self._go_on(now_ms)
        self._silent.discard(site)
        self._denied.discard(site)
        self._watch.hear(site, now_ms, restarted=True)

    def look(self, now_ms: int) -> int | None:
        """Judge everybody; when to look again (None: when somebody falls silent)."""
        self._go_on(now_ms)
        self.lost = frozenset(self._judge(now_ms))
        return now_ms + self._heartbeat_ms if self._silent - self.lost else None

    def _go_on(self, now_ms: int) -> None:
        """Beat by beat while somebody's fate is open, else at once."""
        if not self._silent - self.lost:
            self._at_ms = max(self._at_ms, now_ms - now_ms % self._heartbeat_ms - self._heartbeat_ms)
        while self._at_ms + self._heartbeat_ms <= now_ms:
            self._at_ms += self._heartbeat_ms
            self._judge(self._at_ms)

    def _judge(self, now_ms: int) -> list[str]:
        for site in self._sites:
            if site not in self._silent:
                self._watch.hear(site, self._at_ms, restarted=True)
        opinions = self._watch.look(now_ms, denied=frozenset(self._denied))
        return [name for name, opinion in opinions.items() if opinion.state == "lost"]
