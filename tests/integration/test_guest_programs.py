"""The guest's own code, compiled for this machine: its half of the agent protocol, and its archives."""

import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.adapters.sandbox.microvm import build
from skerry.adapters.sandbox.microvm.protocol import PAYLOAD_BYTES_MAX, Parser, Type, frame, padding

HERE = Path(__file__).parent / "programs/guest_host.c"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("guest") / "guest_host"
    sources = [str(HERE), str(build.SOURCES / "frame.c"), str(build.SOURCES / "tar.c")]
    try:
        command = ["gcc", "-O1", "-g", "-fsanitize=address,undefined", f"-I{build.SOURCES}", "-Wno-unused-result"]
        done = subprocess.run([*command, "-o", str(target), *sources], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no C compiler: sudo apt-get install gcc libc6-dev")
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(autouse=True)
def no_leak_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """These end by themselves."""
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")


class Echo:
    def __init__(self, program: Path) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(20)
        self.process = subprocess.Popen([str(program), "echo"], stdin=theirs)
        theirs.close()
        self.parser = Parser()

    def frames(self, count: int) -> list[tuple[int, int, bytes]]:
        found: list[tuple[int, int, bytes]] = []
        while len(found) < count:
            data = self.ours.recv(1 << 20)
            assert data, "the guest's side has ended"
            found += [(each.type, each.channel, each.payload) for each in self.parser.feed(data)]
        return found


@pytest.fixture
def echo(program: Path) -> Iterator[Echo]:
    made = Echo(program)
    yield made
    made.ours.close()
    assert made.process.wait(timeout=20) == 0  # the sanitizers found nothing


def test_frames_of_all_sizes_go_through(echo: Echo) -> None:
    wanted = [(Type.DATA, number, os.urandom(size)) for number, size in enumerate((0, 1, 100, 4096, PAYLOAD_BYTES_MAX))]
    for each in wanted:
        echo.ours.sendall(frame(*each))
        assert echo.frames(1) == [each]


def test_a_frame_in_single_bytes(echo: Echo) -> None:
    for byte in frame(Type.PING, 3, b"slowly"):
        echo.ours.sendall(bytes([byte]))
    assert echo.frames(1) == [(Type.PING, 3, b"slowly")]


@pytest.mark.parametrize(
    "broken",
    [
        frame(Type.DATA, 1, b"y" * 5000)[:3000],
        frame(Type.DATA, 1, b"y" * PAYLOAD_BYTES_MAX)[:-1],
        b"SKG\x01" * 5000,
        b"SKG\x01\x08\x00\x01\x00\xff\xff\xff\xff\x00\x00\x00\x00",
        os.urandom(50_000),
        frame(Type.DATA, 1, b"y")[:-1] + b"z",
    ],
    ids=["half", "all but one byte", "magic only", "huge length", "noise", "wrong sum"],
)
def test_the_next_session_is_found_behind_a_broken_one(echo: Echo, broken: bytes) -> None:
    echo.ours.sendall(broken + padding() + frame(Type.HELLO, 0, b"n" * 16))
    assert echo.frames(1) == [(Type.HELLO, 0, b"n" * 16)]


def test_archives_are_read_by_others(program: Path, tmp_path: Path) -> None:
    box = tmp_path / "box"
    deep = box / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    (box / "plain").write_bytes(b"1" * 100_001)
    (box / "empty").touch()
    (deep / ("f" * 120)).write_text("deep")
    (box / "link").symlink_to("x" * 150)
    done = subprocess.run([str(program), "write", str(box)], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        found = {member.name: member for member in archive}
        assert found["box/plain"].size == 100_001
        assert found["box/empty"].size == 0
        assert found["box/link"].linkname == "x" * 150
        name = f"box/{'d' * 90}/{'e' * 90}/{'f' * 120}"
        file = archive.extractfile(found[name])
        assert file is not None
        assert file.read() == b"deep"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_others_are_read(program: Path, tmp_path: Path, form: int) -> None:
    out = io.BytesIO()
    long = "n" * 49 + "/" + "m" * 49 if form == tarfile.USTAR_FORMAT else "n" * 180
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        directory = tarfile.TarInfo(long.split("/", maxsplit=1)[0] if "/" in long else "sub")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(directory)
        info = tarfile.TarInfo(long)
        info.size, info.mode = 5, 0o640
        archive.addfile(info, io.BytesIO(b"12345"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, long
        archive.addfile(link)
    subprocess.run([str(program), "read", str(tmp_path)], input=out.getvalue(), capture_output=True, check=True)
    assert (tmp_path / long).read_bytes() == b"12345"
    assert (tmp_path / long).stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link").read_bytes() == b"12345"


@pytest.mark.parametrize("name", ["../out", "a/../../out", "a/.."])
def test_a_name_that_leads_out_is_refused(program: Path, tmp_path: Path, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    inside = tmp_path / "inside"
    inside.mkdir()
    done = subprocess.run([str(program), "read", str(inside)], input=out.getvalue(), capture_output=True, check=False)
    assert done.returncode == 1
    assert b"leads out" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_no_archive_is_told(program: Path, tmp_path: Path) -> None:
    done = subprocess.run([str(program), "read", str(tmp_path)], input=b"x" * 2048, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"not a tar archive\n")
