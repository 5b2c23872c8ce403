"""Time for services, so that the simulated world can turn it by hand."""

from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC; for records and for people."""
        ...

    def monotonic_ms(self) -> int:
        """Never goes back; for intervals."""
        ...

    async def sleep_ms(self, delay_ms: int) -> None: ...
