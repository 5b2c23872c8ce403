"""Whether a program serves: until it does for the first time, and then again and again."""

import asyncio
from collections.abc import Callable

from skerry.core.types.program import ExecCheck, Health, HttpCheck, Program, TcpCheck
from skerry.ports.clock import Clock
from skerry.ports.probe import Prober
from skerry.ports.sandbox import ExecSpec, Sandbox, SandboxError
from skerry.services.node.programs.reasons import NeverReady, last_line, never_ready, unhealthy

FIRST_LOOK_MS, LOOK_FACTOR, LOOK_MS_MAX = 20, 1.5, 1_000
FIRST_PATIENCE_MS = (
    100  # what is sent to a network that is not up yet (gVisor's own) is lost, and the kernel sends again after 1 s
)
EXEC_OUTPUT_BYTES_MAX = 4096


def health_of(program: Program) -> Health | None:
    """None: there is nothing to ask; it is ready when it runs."""
    if program.health is not None:
        return program.health
    return Health(check=TcpCheck()) if program.port is not None else None


class Doctor:
    """Asks one instance, at `address` of its namespace, by its sandbox where the check is a command."""

    def __init__(self, program: Program, address: str, prober: Prober, clock: Clock) -> None:
        self._program = program
        self._address = address
        self._prober = prober
        self._clock = clock
        self._health = health_of(program)

    async def ready(self, sandbox: Sandbox) -> None:
        """Returns when it is healthy for the first time. Raises `NeverReady` after its grace.

        It is asked with little patience at first, and with more each time.
        """
        health = self._health
        if health is None:
            return
        began_ms, pause_ms, patience_ms = self._clock.monotonic_ms(), float(FIRST_LOOK_MS), float(FIRST_PATIENCE_MS)
        while problem := await self._ask(health, sandbox, patience_ms=int(patience_ms)):
            patience_ms *= LOOK_FACTOR
            passed_ms = self._clock.monotonic_ms() - began_ms
            if passed_ms >= health.grace_ms:
                raise NeverReady(never_ready(health, self._program.port, problem, after_ms=health.grace_ms))
            await self._clock.sleep_ms(int(min(pause_ms, health.grace_ms - passed_ms)))
            pause_ms = min(LOOK_MS_MAX, pause_ms * LOOK_FACTOR)

    async def sick(self, sandbox: Sandbox, *, awake: Callable[[], bool]) -> str:
        """Returns, with the reason, when it failed too often in a row. Not asked while it is not awake."""
        health, failures = self._health, 0
        if health is None:
            await asyncio.Event().wait()
            raise AssertionError("nothing sets it")
        while True:
            await self._clock.sleep_ms(health.interval_ms)
            problem = await self._ask(health, sandbox) if awake() else ""
            failures = failures + 1 if problem and awake() else 0
            if failures >= health.failures_max:
                return unhealthy(health, problem)

    async def _ask(self, health: Health, sandbox: Sandbox, *, patience_ms: int | None = None) -> str:
        """`patience_ms`: of what is asked over the network, if it is less than the check's own."""
        check = health.check
        timeout_ms = health.timeout_ms if patience_ms is None else min(health.timeout_ms, patience_ms)
        match check:
            case HttpCheck():
                return await self._prober.http(self._address, self._port(check.port), check.path, timeout_ms=timeout_ms)
            case TcpCheck():
                return await self._prober.tcp(self._address, self._port(check.port), timeout_ms=timeout_ms)
            case ExecCheck():
                return await _run(sandbox, check, health.timeout_ms)

    def _port(self, port: int | None) -> int:
        return port or self._program.port or 0


async def _run(sandbox: Sandbox, check: ExecCheck, timeout_ms: int) -> str:
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            session = await sandbox.exec(ExecSpec(argv=check.command))
            try:
                said = b""
                async for _, data in session.output():
                    said = (said + data)[-EXEC_OUTPUT_BYTES_MAX:]
                status = await session.wait()
            finally:
                await session.aclose()
    except TimeoutError:
        return f"no end of it in {timeout_ms} ms"
    except SandboxError as error:
        return str(error) or type(error).__name__
    last = last_line(said.decode(errors="replace"))
    return f"status {status}{f': {last}' if last else ''}" if status else ""
