"""The HAProxy master process: launched, found again, reloaded, ended. It is ours alone, named by a record on disk."""

import asyncio
import contextlib
from pathlib import Path

from skerry.adapters.ingress.haproxy.files import remove_sockets
from skerry.adapters.ingress.haproxy.runtime import Refused, ask_master, old_workers, session
from skerry.adapters.ingress.haproxy.settings import Settings
from skerry.adapters.process.detached import Detached, Spawn, attach, kill_tagged, read_log_tail, spawn, trim_log
from skerry.ports.ingress import Unavailable

NAME = "haproxy"
START_MS_MAX = 10_000
POLL_MS = 5  # HAProxy says nowhere that it is ready; it starts in about 50 ms
STOP_GRACE_MS = 2_000
HANDOVER_MS_MAX = 2_000
LOG_TAIL_BYTES = 2_000


class Master:
    """At most one at a time per `tag`."""

    def __init__(self, settings: Settings, program: str) -> None:
        self._settings = settings
        self._program = program
        self._process: Detached | None = None
        self._serves = False
        self.fixed_digest = ""  # of the configuration it last read, without the table

    @property
    def pid(self) -> int:
        """0 until it serves, and again when it has ended."""
        return self._process.pid if self._process is not None and self._serves and self.alive() else 0

    def alive(self) -> bool:
        return self._process is not None and self._process.alive()

    async def wait(self) -> None:
        """Until it has ended."""
        if self._process is not None:
            await self._process.wait()

    async def attach(self) -> bool:
        """Take over a running one that answers; ends one that does not."""
        process = attach(NAME, records=Path(self._settings.records_dir))
        if process is None:
            return False
        self._process = process
        self.fixed_digest = process.record.note.get("digest", "")
        try:
            await self._until_ready()
            return True
        except Unavailable:
            await self.stop()
            return False

    async def launch(self, digest: str) -> None:
        """Raises `Unavailable` with the end of its log if it does not come up."""
        settings = self._settings
        self._serves = False
        await self.stop()  # workers of one that was killed
        remove_sockets(settings)
        what = Spawn(
            name=NAME,
            argv=(self._program, "-W", "-S", f"{settings.master_socket},mode,600", "-f", settings.config_file),
            log=settings.log,
            log_bytes_max=settings.limits.log_bytes_max,
            join=settings.join,
            tag=settings.tag,
            note={"digest": digest},
        )
        try:
            self._process = spawn(what, records=Path(settings.records_dir))
        except OSError as error:
            raise Unavailable(f"HAProxy cannot be started: {error}") from error
        self.fixed_digest = digest
        await self._until_ready()

    async def reload(self, digest: str) -> None:
        """Returns when the new worker serves and the old one hands on new requests. Raises `Unavailable`."""
        try:
            answer = await ask_master(self._settings.master_socket, "reload")
        except Refused as error:
            raise Unavailable(f"HAProxy cannot be reloaded: {error}") from error
        if not answer.startswith("Success=1"):
            raise Unavailable(f"HAProxy refuses its configuration: {answer[-LOG_TAIL_BYTES:]}")
        self.fixed_digest = digest
        await self._until_handed_over()

    async def stop(self) -> None:
        """Of master and workers nothing is left when it returns. Idempotent."""
        if self._process is not None:
            await self._process.stop(grace_ms=STOP_GRACE_MS)
            self._process = None
        await kill_tagged(self._settings.tag)

    def close(self) -> None:
        """Let it run on alone."""
        if self._process is not None:
            self._process.close()

    def log_tail(self) -> str:
        """The end of what it said, without a line for every slot of a worker that stopped."""
        lines = read_log_tail(Path(self._settings.log)).splitlines()
        return "\n".join(line for line in lines if " stopped (cumulated" not in line)[-LOG_TAIL_BYTES:]

    def trim_log(self) -> None:
        trim_log(Path(self._settings.log), bytes_max=self._settings.limits.log_bytes_max)

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(START_MS_MAX / 1000):
                while not await self._answers():
                    if not self.alive():
                        raise Unavailable(f"HAProxy ended at its start: {self.log_tail()}")
                    await asyncio.sleep(POLL_MS / 1000)
            self._serves = True
        except TimeoutError as error:
            raise Unavailable(f"HAProxy does not answer: {self.log_tail()}") from error

    async def _answers(self) -> bool:
        with contextlib.suppress(Refused):
            async with session(self._settings.stats_socket) as worker:
                return "Name: HAProxy" in await worker.ask("show info")
        return False

    async def _until_stopping(self, pid: int) -> None:
        while "Stopping: 0" in await ask_master(self._settings.master_socket, f"@!{pid} show info"):  # noqa: ASYNC110
            await asyncio.sleep(POLL_MS / 1000)  # it tells nobody

    async def _until_handed_over(self) -> None:
        """Workers of before must know that they are stopping, or they answer new requests by the old table."""
        with contextlib.suppress(TimeoutError, Refused):
            async with asyncio.timeout(HANDOVER_MS_MAX / 1000):
                for pid in await old_workers(self._settings.master_socket):
                    await self._until_stopping(pid)
