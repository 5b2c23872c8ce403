"""`skerry up` and `skerry down`: a supervisor in the foreground or in the background, and its end."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from skerry.adapters.process.detached import Detached
from skerry.apps.supervisor import leftovers
from skerry.apps.supervisor.errors import UpError
from skerry.apps.supervisor.layout import Layout, Options, prepare_data
from skerry.apps.supervisor.lock import PLATFORM_FILE, DataLock, is_locked, open_supervisor, read_platform
from skerry.apps.supervisor.run import Supervisor, plan
from skerry.apps.supervisor.screen import JsonScreen, LiveScreen, PlainScreen, Screen, Started, started
from skerry.kit.record import Record, decode, encode

DOWN_S_MAX = 20.0  # an end takes at most five; a stopped machine may be busy
MESSAGE_BYTES_MAX = 1 << 20


class Message(Record):
    """One line from a supervisor in the background to whoever started it; exactly one field is set."""

    note: str | None = None
    started: Started | None = None
    error: str | None = None
    hint: str = ""
    code: int = 1


def up(options: Options, *, json: bool = False) -> int:
    """Run in the foreground until a signal ends it; the exit status. Raises `UpError`."""
    layout = plan(options)
    return asyncio.run(_run(layout, _screen_for(layout, json=json)))


def up_detached(options: Options) -> Started:
    """Start a supervisor in the background and return when it serves. Raises `UpError`."""
    layout = plan(options)
    prepare_data(layout.data)  # for the log
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _become_background(layout, theirs)
    os.close(theirs)
    try:
        return _await_started(ours, layout)
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        raise


def down(data: Path) -> str:
    """End the platform that runs on `data`, and remove what a killed one left; what was done, in words.

    Idempotent. Raises `UpError` when something stays.
    """
    return asyncio.run(_down(data)) if data.is_dir() else f"nothing runs on {data}"


async def _run(layout: Layout, screen: Screen) -> int:
    try:
        return await Supervisor(layout, screen).run()
    finally:
        screen.close()


def _screen_for(layout: Layout, *, json: bool) -> Screen:
    if json:
        return JsonScreen(layout)
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        return LiveScreen(layout)
    return PlainScreen(layout)


class _BackgroundScreen(PlainScreen):
    """Plain lines into the supervisor's log, and progress up the pipe until it serves."""

    def __init__(self, layout: Layout, descriptor: int) -> None:
        super().__init__(layout)
        self._layout_shown = layout
        self._descriptor: int | None = descriptor

    def note(self, text: str) -> None:
        super().note(text)
        self.send(Message(note=text))

    def ready(self, seconds: float) -> None:
        super().ready(seconds)
        self.send(Message(started=started(self._layout_shown, seconds)))
        self.hang_up()

    def send(self, message: Message) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # whoever started it was ended: go on
                os.write(self._descriptor, encode(message) + b"\n")

    def hang_up(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _become_background(layout: Layout, descriptor: int) -> None:
    """In the child: never returns."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        log = os.open(layout.logs / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.chdir("/")
        screen = _BackgroundScreen(layout, descriptor)
        try:
            status = asyncio.run(_run(layout, screen))
        except UpError as error:
            print(error, file=sys.stderr)
            screen.send(Message(error=str(error), hint=error.hint, code=error.code))
            status = error.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _await_started(descriptor: int, layout: Layout) -> Started:
    with os.fdopen(descriptor, "rb") as pipe:
        while line := pipe.readline(MESSAGE_BYTES_MAX):
            message = decode(line, Message)
            if message.started is not None:
                return message.started
            if message.error is not None:
                raise UpError(message.error, hint=message.hint, code=message.code)
            print(message.note, file=sys.stderr, flush=True)
    raise UpError("the supervisor ended before it served", hint=f"its log: {layout.logs / 'supervisor.log'}")


async def _down(data: Path) -> str:
    platform = read_platform(data)
    supervisor = open_supervisor(platform) if platform else None
    forced = False
    if supervisor is not None:
        forced = not await _end(supervisor)
        supervisor.close()
    elif is_locked(data):
        raise UpError(f"a platform is starting on {data}", hint="try again in a moment")
    lock = DataLock.take(data)
    try:
        found = leftovers.find_leftovers(data)
        left = await leftovers.remove_leftovers(data)
        (data / PLATFORM_FILE).unlink(missing_ok=True)
    finally:
        lock.release()
    if left:
        raise UpError(f"this is left: {left}", hint="end or unmount it by hand")
    if supervisor is not None:
        return "ended by force" if forced else "ended"
    return f"removed what an earlier run left: {found}" if found else f"nothing runs on {data}"


async def _end(supervisor: Detached) -> bool:
    """Whether it ended by itself."""
    supervisor.signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(supervisor.wait(), DOWN_S_MAX)
    except TimeoutError:
        supervisor.signal(signal.SIGKILL)
        await supervisor.wait()
        return False
    return True
