"""`skerry.ports.recordfile` as a file of JSON, mode 0600.

A slice holds the secrets of the apps, since a plane that is cut off has to be able to restart them.
"""

from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import structlog

from skerry.adapters.files import make_private_directory, replace_durably, sync_directory
from skerry.kit import record

log = structlog.get_logger()

S = TypeVar("S", bound=record.Record)


class JsonFile(Generic[S]):
    def __init__(self, path: Path, as_type: type[S]) -> None:
        self._path = path
        self._type = as_type

    def load(self) -> S | None:
        try:
            return record.decode(self._path.read_bytes(), self._type)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            log.error("record_unreadable", path=str(self._path), error=str(error))
            return None

    def save(self, value: S, /) -> None:
        replace_durably(self._path, record.encode(value))


class JsonFolder(Generic[S]):
    """`skerry.ports.recordfile.RecordFolder` as a directory of such files."""

    def __init__(self, path: Path, as_type: type[S]) -> None:
        self._path = path
        self._type = as_type

    def load_all(self) -> dict[str, S]:
        for path in self._path.glob("*.json.tmp"):  # of a writer that was killed, and has secrets in it perhaps
            path.unlink(missing_ok=True)
        found = {path.stem: JsonFile(path, self._type).load() for path in sorted(self._path.glob("*.json"))}
        for name in [name for name, value in found.items() if value is None]:
            self.remove(name)
        return {name: value for name, value in found.items() if value is not None}

    def save(self, name: str, value: S, /) -> None:
        make_private_directory(self._path)
        replace_durably(self._file(name), record.encode(value))

    def remove(self, name: str) -> None:
        path = self._file(name)
        if path.exists():
            path.unlink(missing_ok=True)
            sync_directory(self._path)

    def _file(self, name: str) -> Path:
        return self._path / f"{name}.json"
