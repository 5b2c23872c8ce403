"""Records on a plane's own disk: what it has to know again after its restart.

`save` replaces the record whole and returns when it survives kill -9 and power loss. `load` gives the last one saved;
None if there is none, or one that cannot be read (then the plane above will give it again).
"""

from typing import Protocol, TypeVar

from skerry.kit.record import Record

R = TypeVar("R", bound=Record)


class RecordFile(Protocol[R]):
    def load(self) -> R | None: ...

    def save(self, value: R, /) -> None: ...


class RecordFolder(Protocol[R]):
    """Records of one kind by name (letters, digits, `-`). `remove` is idempotent, and as durable as `save`."""

    def load_all(self) -> dict[str, R]:
        """By name, in its order; what cannot be read is left out and removed."""
        ...

    def save(self, name: str, value: R, /) -> None: ...

    def remove(self, name: str) -> None: ...
