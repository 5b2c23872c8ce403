"""Everything of a platform that can be seen from outside: to prove that nothing of it is left.

Found by other means than the product's own (`leftovers`), so that one cannot be blind as the other is.
"""

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

from skerry.adapters.process.detached import start_ticks
from skerry.apps.supervisor.leftovers import tags_of
from skerry.kit.hashing import stable_id

LOOKS, LOOK_S = 5, 0.1
_LISTENING = "0A"  # in /proc/net/tcp


class Footprint:
    """Take it while the platform runs; `left` says what of it is still there."""

    def __init__(self, data: Path) -> None:
        record = json.loads((data / "platform.json").read_text())
        self._data = data
        self._run = Path(record["run_dir"])
        self._tags = tags_of(data)
        self.pids = tuple(self._processes())
        sockets = {link for pid in self.pids for link in _links(pid) if link.startswith(b"socket:")}
        self.listening = {address for address, inode in _listeners() if b"socket:[%d]" % inode in sockets}
        self._taken_ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
        own = os.readlink("/proc/self/ns/net")
        self._networks = {network for pid in self.pids if (network := _network(pid))} - {own}

    def left(self) -> list[str]:
        """In words; empty when nothing is. What the kernel is about to let go of (a process that exits) is waited for."""
        for _ in range(LOOKS):
            found = self._seen()
            if not found:
                return []
            time.sleep(LOOK_S)
        return found

    def _seen(self) -> list[str]:
        found = [f"process {pid}: {_command(pid)}" for pid in self._processes()]
        # A younger process has another namespace under the same number.
        old = [pid for pid in _pids() if (start_ticks(pid) or self._taken_ticks) < self._taken_ticks]
        found += [f"network namespace of process {pid}" for pid in old if _network(pid) in self._networks]
        found += [f"mount {line}" for line in self._mounts()]
        found += [f"control group {path}" for path in self._groups()]
        found += self._networks_of_programs()
        found += [f"somebody listens on {address}" for address, _ in _listeners() if address in self.listening]
        found += [f"unix socket {name}" for name in self._unix_sockets()]
        found += [
            f"file {path}"
            for path in (self._run, *(self._data / name for name in ("platform.json", "zram.json", "fineturns.json")))
            if path.exists()
        ]
        found += [f"socket {path}" for path in self._data.rglob("*") if path.is_socket() or path.is_fifo()]
        return found

    def _processes(self) -> list[int]:
        """By the tag in their environment, or by a path of the platform in anything that tells what they do."""
        marks = [f"SKERRY_TAG={tag}".encode() for tag in self._tags] + [os.fsencode(self._data), os.fsencode(self._run)]
        mine = {os.getpid(), os.getppid()}
        return [pid for pid in _pids() if pid not in mine and any(mark in _told(pid) for mark in marks)]

    def _mounts(self) -> list[str]:
        """Also in namespaces of other processes."""
        found: set[str] = set()
        for pid in _pids():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
                found |= {line for line in lines if str(self._data) in line or str(self._run) in line}
        return sorted(found)

    def _networks_of_programs(self) -> list[str]:
        """Tables and devices have their node in their names, namespaces lie below the run directory (and are mounts)."""
        nodes = [stable_id(str(path), length=8) for path in (self._data / "nodes").glob("*")]
        devices = [path.name for path in Path("/sys/class/net").iterdir() if path.name[3:11] in nodes]
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout if nodes else ""
        return [f"device {name}" for name in devices] + [f"table {node}" for node in nodes if node in tables]

    def _groups(self) -> list[Path]:
        names = tuple(f"skerry-{tag}" for tag in self._tags)
        # os.walk passes over what others remove meanwhile.
        return [Path(place, name) for place, inside, _ in os.walk("/sys/fs/cgroup") for name in inside if name.startswith(names)]

    def _unix_sockets(self) -> list[str]:
        names = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()[1:] if len(line.split()) == 8]
        marks = (str(self._run), str(self._data), f"@skerry-{stable_id(str(self._run), length=12)}")
        return [name for name in names if name.startswith(marks)]


def _listeners() -> list[tuple[str, int]]:
    """(host:port, inode) of every listening TCP socket."""
    found: list[tuple[str, int]] = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        address, _, port = fields[1].partition(":")
        host = ".".join(str(byte) for byte in reversed(bytes.fromhex(address)))
        if fields[3] == _LISTENING:
            found.append((f"{host}:{int(port, 16)}", int(fields[9])))
    return found


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _told(pid: int) -> bytes:
    """Command line, environment, directories and open files."""
    parts: list[bytes] = []
    for name in ("cmdline", "environ"):
        with contextlib.suppress(OSError):
            parts.append(Path(f"/proc/{pid}/{name}").read_bytes())
    return b"\0".join([*parts, *_links(pid)])


def _links(pid: int) -> list[bytes]:
    """What its directories and descriptors point to."""
    found: list[bytes] = []
    with contextlib.suppress(OSError):
        for link in (f"/proc/{pid}/cwd", f"/proc/{pid}/root", *(str(path) for path in Path(f"/proc/{pid}/fd").iterdir())):
            with contextlib.suppress(OSError):
                found.append(os.fsencode(os.readlink(link)))
    return found


def _network(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return ""


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    return "ended meanwhile"
