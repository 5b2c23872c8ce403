"""What tests of microVMs boot from, a disk with busybox and nothing else, and a network for one guest."""

import asyncio
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from skerry.adapters.sandbox.microvm.tap import enter
from skerry.ports.sandbox import GuestNetwork

BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")
DISK_MIB = 16


def find_busybox() -> Path:
    """A static one. Skips the test when there is none."""
    for path in map(Path, BUSYBOX):
        if (
            path.is_file()
            and b"INTERP" not in subprocess.run(["readelf", "-l", str(path)], capture_output=True, check=False).stdout
        ):
            return path
    pytest.skip("no static busybox: sudo apt-get install busybox-static")


def busybox_disk(directory: Path, *, files: dict[str, str] | None = None) -> Path:
    """A file with an ext4 file system: /bin with busybox's commands, /etc/passwd, /var, /tmp, and `files`."""
    root = directory / "root"
    for name in ("bin", "etc", "tmp", "var", "www"):
        (root / name).mkdir(parents=True)
    busybox = find_busybox()
    shutil.copyfile(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    listed = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    if "printenv" not in listed:  # Debian's has not
        (root / "bin/printenv").write_text('#!/bin/sh\neval "echo \\$$1"\n')
        (root / "bin/printenv").chmod(0o755)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000:web:/:/bin/sh\n")
    for name, text in (files or {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "tmp").chmod(0o1777)
    disk = directory / "disk.ext4"
    made = [
        "/usr/sbin/mke2fs",
        "-q",
        "-t",
        "ext4",
        "-O",
        "^has_journal",
        "-E",
        "root_owner=0:0",
        "-d",
        str(root),
        str(disk),
        f"{DISK_MIB}M",
    ]
    subprocess.run(made, capture_output=True, check=True)
    return disk


class GuestWire:
    """A network namespace with a tap in it and nothing else; the host's end of the wire is `GATEWAY`."""

    GATEWAY, GUEST, MAC, TAP_MAC = "10.200.0.1", "10.200.0.2", "02:00:0a:c8:00:02", "02:00:0a:c8:00:01"
    TAP = "tap0"

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"/run/netns/{name}"
        self.guest = GuestNetwork(
            device=self.TAP, mac=self.MAC, address=f"{self.GUEST}/30", gateway=self.GATEWAY, gateway_mac=self.TAP_MAC,
        )  # fmt: skip

    def make(self) -> None:
        self._ip("netns", "add", self.name)
        inside = ("-n", self.name)
        self._ip(*inside, "tuntap", "add", "dev", self.TAP, "mode", "tap", "vnet_hdr")
        self._ip(*inside, "link", "set", self.TAP, "address", self.TAP_MAC, "up")
        self._ip(*inside, "address", "add", f"{self.GATEWAY}/30", "dev", self.TAP)
        self._ip(*inside, "neigh", "replace", self.GUEST, "lladdr", self.MAC, "dev", self.TAP, "nud", "permanent")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, check=False)

    async def get(self, path: str = "/", *, port: int = 80, timeout_s: float = 60) -> bytes:
        """The body of an HTTP answer, asked from inside; tried again until something answers. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return await asyncio.to_thread(self._get, path, port)
                except OSError:
                    await asyncio.sleep(0.002)

    def _get(self, path: str, port: int) -> bytes:
        with self.connect(port) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: guest\r\n\r\n".encode())
            answer = b""
            while data := connection.recv(65536):
                answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1."):
            raise ConnectionError(f"not HTTP: {answer[:100]!r}")
        return body

    def connect(self, port: int) -> socket.socket:
        made: list[socket.socket | OSError] = []
        thread = threading.Thread(target=self._make_socket, args=(made,))
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        made[0].settimeout(5)
        made[0].connect((self.GUEST, port))
        return made[0]

    def _make_socket(self, made: list[socket.socket | OSError]) -> None:
        """A socket belongs to the namespace of the thread that makes it."""
        try:
            enter(self.path)
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        except OSError as error:
            made.append(error)

    @staticmethod
    def _ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
