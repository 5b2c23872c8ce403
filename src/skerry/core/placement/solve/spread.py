"""Who runs a function on many parts."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class Spread(Protocol):
    """Runs a function on each part, in order: `map`, or one that runs them in several processes."""

    def __call__(self, function: Callable[[Any], Result], parts: Sequence[Any], /) -> Iterable[Result]: ...
