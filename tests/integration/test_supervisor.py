"""The supervisor over real processes: starting, restarting, reaping, ending, and cleaning up after a killed one."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.process.detached import find_tagged, open_pid
from skerry.adapters.runtime.workerd.settings import Places as WorkerdPlaces
from skerry.apps.config import checks_dir
from skerry.apps.supervisor import leftovers
from skerry.apps.supervisor.layout import Options, platform_tag, run_dir_of
from skerry.kit.record import encode
from skerry.testing.platform import free_ports

PROGRAM = Path(__file__).parent / "programs/supervise.py"
DEADLINE_S = 60


class Running:
    """A supervisor that the test started."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, transport: asyncio.BaseTransport
    ) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = reader
        self._read = transport

    async def line(self, pattern: str) -> re.Match[str]:
        """The next line that matches."""
        async with asyncio.timeout(DEADLINE_S):
            while raw := await self._reader.readline():
                self.lines.append(raw.decode().rstrip())
                if found := re.search(pattern, self.lines[-1]):
                    return found
        raise AssertionError(f"no line like {pattern!r} in {self.lines}")

    def stop_reading(self) -> None:
        self._read.close()

    async def pid_of(self, plane: str) -> int:
        return int((await self.line(rf"{plane}: (?:ready|back) \(pid (\d+)\)")).group(1))

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            self.lines += (await self._reader.read()).decode().splitlines()
            return await self.process.wait()


@asynccontextmanager
async def supervisor(data: Path, *planes: str, **options: object) -> AsyncIterator[Running]:
    port, api_port = free_ports()
    ports = {"port": port, "api_port": api_port}
    asked = Options(data_dir=str(data), cities="lhr:1", example=False, zram=False, **{**ports, **options})  # type: ignore[arg-type]
    reader = asyncio.StreamReader()
    read_end, write_end = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), encode(asked).decode(), *planes, stdout=write_end, stderr=write_end
    )
    os.close(write_end)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb")
    )
    try:
        yield Running(process, reader, transport)
    finally:
        transport.close()
        if process.returncode is None:
            process.kill()
            await process.wait()
        await leftovers.remove_leftovers(data)


async def down(data: Path) -> str:
    """What `skerry down` prints: a process of its own, since only one parent can hear how a child ended."""
    command = [sys.executable, "-m", "skerry.apps.cli", "down", "--data-dir", str(data)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode().strip()


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.01)


def exists(pid: int) -> bool:
    """Also as a zombie."""
    return Path(f"/proc/{pid}").exists()


def is_running(pid: int) -> bool:
    """A zombie is not: it waits for a parent that may be nobody of ours."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def states_of_children(pid: int) -> list[str]:
    """The state letters of a process's children."""
    pids = [p for path in Path(f"/proc/{pid}/task").glob("*/children") for p in path.read_text().split()]
    return [Path(f"/proc/{p}/stat").read_text().rpartition(")")[2].split()[0] for p in pids if Path(f"/proc/{p}").exists()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def test_it_starts_all_planes_and_leaves_nothing_when_it_ends(data: Path) -> None:
    async with supervisor(data, "control=serve", "lhr=serve", "lhr-1=serve") as running:
        await running.line("Ready after")
        for plane in ("control", "lhr", "lhr-1"):
            assert any(f"{plane}: ready" in line for line in running.lines)
        assert run_dir_of(data).is_dir()
        assert await running.end() == 0
        assert not leftovers.find_leftovers(data)
        assert not run_dir_of(data).exists()
        assert not (data / "platform.json").exists()
        assert not any("force" in line for line in running.lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_ctrl_c_and_a_closed_terminal_end_it_too(data: Path, number: int) -> None:
    async with supervisor(data, "control=serve") as running:
        await running.line("Ready after")
        assert await running.end(number) == 0
        assert not leftovers.find_leftovers(data)


async def test_a_killed_plane_is_started_again(data: Path) -> None:
    async with supervisor(data, "control=serve", "lhr=serve") as running:
        first = await running.pid_of("lhr")
        await running.line("Ready after")
        os.kill(first, signal.SIGKILL)
        await running.line(r"lhr: ended \(signal 9\)")
        assert await running.pid_of("lhr") != first
        assert await running.end() == 0


async def test_what_a_killed_plane_started_lives_on_and_is_reaped_when_it_ends(data: Path) -> None:
    async with supervisor(data, "control=parent") as running:
        plane = await running.pid_of("control")
        await running.line("Ready after")
        child = int((data / "control.child").read_text())
        os.kill(plane, signal.SIGKILL)
        await running.line("control: back")
        assert exists(child)
        os.kill(child, signal.SIGKILL)
        await eventually(lambda: not exists(child))
        assert "Z" not in states_of_children(running.process.pid)
        assert await running.end() == 0


async def test_children_that_planes_forgot_are_ended_with_it(data: Path) -> None:
    async with supervisor(data, "control=parent") as running:
        await running.line("Ready after")
        child = int((data / "control.child").read_text())
        assert await running.end() == 0
        await eventually(lambda: not is_running(child))


async def test_it_goes_on_when_nobody_reads_what_it_says(data: Path) -> None:
    """`skerry up | head -1`."""
    async with supervisor(data, "control=serve") as running:
        first = await running.pid_of("control")
        await running.line("Ready after")
        running.stop_reading()
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: [pid for pid in find_tagged(platform_tag(data)) if pid != first] != [])
        running.process.terminate()
        async with asyncio.timeout(DEADLINE_S):
            await running.process.wait()
        assert not leftovers.find_leftovers(data)


async def test_a_plane_that_will_not_end_is_ended_by_force(data: Path) -> None:
    async with supervisor(data, "control=serve", "lhr=stubborn") as running:
        await running.line("Ready after")
        assert await running.end() == 0
        assert any("Ended by force: lhr" in line for line in running.lines)
        assert not leftovers.find_leftovers(data)


async def test_a_second_signal_does_not_wait(data: Path) -> None:
    async with supervisor(data, "control=stubborn") as running:
        await running.line("Ready after")
        running.process.send_signal(signal.SIGINT)
        await running.line("Ending")
        assert await running.end(signal.SIGINT) == 0
        assert not leftovers.find_leftovers(data)


async def test_a_plane_that_cannot_start_is_named_with_its_last_words(data: Path) -> None:
    async with supervisor(data, "control=serve", "lhr=broken") as running:
        error = await running.line("error: (.*)")
        assert "lhr does not start" in error.group(1)
        assert await running.ended() == 1
        assert "the flux capacitor is missing" in "\n".join(running.lines)
        assert not leftovers.find_leftovers(data)


async def test_two_on_one_directory_are_refused_with_the_pid_and_the_first_goes_on(data: Path) -> None:
    async with supervisor(data, "control=serve") as running:
        await running.line("Ready after")
        async with supervisor(data, "control=serve") as second:
            error = await second.line("error: (.*)")
            assert str(running.process.pid) in error.group(1)
            assert await second.ended() == 1
            assert running.process.returncode is None
            assert find_tagged(platform_tag(data))
            assert await running.end() == 0


async def test_a_taken_port_is_named_with_its_holder(data: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        async with supervisor(data, "control=serve", api_port=port) as running:
            error = (await running.line("error: (.*)")).group(1)
            assert f"port {port}" in error
            assert f"(pid {os.getpid()})" in error
            assert "--api-port" in error
            assert await running.ended() == 1


async def test_planes_end_by_themselves_when_their_supervisor_is_killed(data: Path) -> None:
    async with supervisor(data, "control=serve", "lhr=serve") as running:
        plane = open_pid(await running.pid_of("control"))
        assert plane is not None
        await running.line("Ready after")
        running.process.kill()
        await running.process.wait()
        async with asyncio.timeout(DEADLINE_S):
            await plane.wait()
        plane.close()
        await eventually(lambda: not find_tagged(platform_tag(data)))


async def test_the_next_start_removes_what_a_killed_one_left(data: Path) -> None:
    async with supervisor(data, "control=serve", "lhr=stubborn") as running:
        left = await running.pid_of("lhr")
        await running.line("Ready after")
        running.process.kill()
        await running.process.wait()
        async with supervisor(data, "control=serve") as second:
            await second.line("Removing what an earlier run left")
            await second.line("Ready after")
            assert not is_running(left)
            assert await second.end() == 0


async def test_down_ends_it_and_is_harmless_twice(data: Path) -> None:
    async with supervisor(data, "control=serve") as running:
        await running.line("Ready after")
        assert await down(data) == "ended"
        assert await running.ended() == 0
        assert "nothing runs" in await down(data)


async def test_down_removes_what_a_killed_one_left(data: Path) -> None:
    async with supervisor(data, "control=serve", "lhr=stubborn") as running:
        left = await running.pid_of("lhr")
        await running.line("Ready after")
        running.process.kill()
        await running.process.wait()
        assert "removed what an earlier run left" in await down(data)
        assert not is_running(left)
        assert not (data / "platform.json").exists()


@pytest.mark.skipif(find_tree("skerry-probe")[0] is None, reason="groups need root")
async def test_groups_of_checks_that_were_killed_with_control_are_found_too(data: Path) -> None:
    (data / "control").mkdir(parents=True)
    tree, _ = find_tree(f"skerry-{WorkerdPlaces(checks_dir(data / 'control'), data).tag}")
    assert tree is not None
    tree.create("check.1")
    try:
        assert [group.partition(".")[2] for group in leftovers.find_leftovers(data).groups] == ["check.1"]
        assert not await leftovers.remove_leftovers(data)
        assert not tree.names()
    finally:
        tree.remove()


@pytest.fixture
def thesis(data: Path) -> Path:
    data.mkdir()
    (data / "thesis.txt").write_text("years of work")
    return data / "thesis.txt"


async def test_a_directory_with_other_things_in_it_is_refused(data: Path, thesis: Path) -> None:
    async with supervisor(data, "control=serve") as running:
        assert "not empty" in (await running.line("error: (.*)")).group(1)
        assert await running.ended() == 1
    assert os.listdir(data) == [thesis.name]
