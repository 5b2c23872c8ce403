"""`skerry.ports.recordfile` as a file of JSON, mode 0600.

A slice holds the secrets of the apps, since a plane that is cut off has to be able to restart them.
"""

from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import structlog

from skerry.adapters.files import replace_durably
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
