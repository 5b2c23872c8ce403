"""What developers were told is done: it has to be there, whatever happened since."""

from collections import Counter
from typing import final

from skerry.core.types.ids import VersionId


@final
class Acknowledged:
    """Versions whose upload was answered. A deletion, done or only asked for, ends what is known of an app."""

    def __init__(self) -> None:
        self._versions: dict[str, list[VersionId]] = {}
        self._lives: Counter[str] = Counter()

    def lives(self, app: str) -> int:
        """To be asked before an upload: grows with every deletion."""
        return self._lives[app]

    def keep(self, app: str, version: VersionId, lives: int) -> None:
        """Answered now; `lives` as it was when it was asked."""
        if lives == self._lives[app]:
            self._versions.setdefault(app, []).append(version)

    def forget(self, app: str) -> None:
        """A deletion begins or ends."""
        self._lives[app] += 1
        self._versions.pop(app, None)

    def versions(self) -> dict[str, tuple[VersionId, ...]]:
        """By app."""
        return {app: tuple(found) for app, found in sorted(self._versions.items())}
