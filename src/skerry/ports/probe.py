"""Asking a program whether it serves, from outside of it.

Contract: a check answers in `timeout_ms` at most and never raises for what the program does: the answer is empty when it is
healthy, else one line for people that says what was tried and what came of it. An answer's body is not read beyond a few KiB.
"""

from typing import Protocol


class Prober(Protocol):
    async def http(self, address: str, port: int, path: str, *, timeout_ms: int) -> str:
        """Healthy: a GET of `path` is answered with a status from 200 to 399."""
        ...

    async def tcp(self, address: str, port: int, *, timeout_ms: int) -> str:
        """Healthy: the port accepts a connection."""
        ...
