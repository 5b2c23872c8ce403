"""A containerd of the bench's own, as a peer: containers through its daemon and shims instead of by the runtime alone."""

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from skerry.testing.images import Built

NAME = "skerry-bench"  # of its namespace, and of the control groups of its containers
READY_S = 20.0
PROGRAMS = ("containerd", "ctr")
CONFIG = """version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{place}/socket"
[ttrpc]
address = "{place}/ttrpc"
"""


def missing() -> str | None:
    """What is not installed, for people."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{', '.join(absent)}: not installed (sudo apt-get install containerd)" if absent else None


class Containerd:
    def __init__(self, place: Path) -> None:
        self._place = place
        self._image = ""

    @contextlib.contextmanager
    def running(self, launcher: Sequence[str], built: Built) -> Iterator["Containerd"]:
        """`launcher` shows it the control groups as the runtimes are to see them."""
        (self._place / "config.toml").write_text(CONFIG.format(place=self._place))
        with (self._place / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [*launcher, "containerd", "--config", str(self._place / "config.toml")], stdout=log, stderr=log
            )
        try:
            self._until_ready()
            archive = built.save(self._place / "image.tar")
            said = self._ctr("images", "import", "--base-name", "local/bench", str(archive)).stdout.decode()
            self._image = next(word for word in said.split() if word.startswith("local/bench"))
            yield self
        finally:
            daemon.terminate()
            daemon.wait(READY_S)
            remove_groups(NAME)

    def first_output(self, runtime: Sequence[str]) -> float:
        """ms. `runtime`: what is run as if it were runc, with the options that it always gets."""
        name = secrets.token_hex(8)
        wrapper = self._wrapper(runtime)
        began = time.perf_counter()
        process = subprocess.Popen(
            [
                *self._command("run", "--rm", "--runc-binary", str(wrapper), "--cgroup", f"/{NAME}/{name}", self._image, name),
                "/bin/sh", "-c", "echo hi; while :; do sleep 1000; done",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.read(1), (self._place / "log").read_text()[-2000:]
        took = (time.perf_counter() - began) * 1000
        self._ctr("tasks", "kill", "--signal", "SIGKILL", name)
        process.wait(READY_S)
        return took

    def _wrapper(self, runtime: Sequence[str]) -> Path:
        path = self._place / f"as-{Path(runtime[0]).name}"
        if not path.exists():
            path.write_text(f'#!/bin/sh\nexec {" ".join(runtime)} "$@"\n')
            path.chmod(0o755)
        return path

    def _until_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while subprocess.run(self._command("version"), capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < deadline, (self._place / "log").read_text()[-2000:]
            time.sleep(0.02)

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self._command(*arguments), capture_output=True, check=True)

    def _command(self, *arguments: str) -> list[str]:
        return ["ctr", "--address", str(self._place / "socket"), "--namespace", NAME, *arguments]


def remove_groups(name: str) -> None:
    """Of runtimes that were called with groups below `/name`, once their containers have ended."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split(" ")
        if kind in ("cgroup", "cgroup2"):
            for group in (*Path(place, name).glob("*"), Path(place, name)):
                with contextlib.suppress(OSError):
                    os.rmdir(group)
