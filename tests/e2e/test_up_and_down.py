"""`skerry up --detach`, `skerry status` and `skerry down` with real engines, as an operator types them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.adapters.process.detached import open_pid
from skerry.apps.supervisor.leftovers import find_leftovers
from skerry.testing.platform import free_ports, tagged

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(180)]

INSTALLED_EXAMPLE = "hello-edge"


class Operator:
    """Types commands; all about one data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        port, api_port = free_ports()
        self.options = ("--cities", "lhr:2,cur:1", "--port", str(port), "--api-port", str(api_port))

    def types(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "skerry.apps.cli", *arguments, "--data-dir", str(self.data)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def starts(self, *more: str) -> dict[str, object]:
        done = self.types("up", "--detach", "--json", *self.options, *more)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def example(self) -> dict[str, object]:
        """The app, as `status` has it; the example's services come a while after the start, whenever they do."""
        status = json.loads(self.types("status", "--json").stdout)
        return next(app for app in status["apps"] if app["app"] == INSTALLED_EXAMPLE)

    def processes(self) -> list[int]:
        """All of the platform: the supervisor, its planes, and what those started."""
        owners = [self.data, *self.data.glob("sites/*"), *self.data.glob("nodes/*")]
        supervisor = json.loads((self.data / "platform.json").read_text())["pid"]
        return [supervisor, *(pid for owner in owners for pid in tagged(owner))]


@pytest.fixture
def operator(tmp_path: Path, engines: None) -> Iterator[Operator]:
    operator = Operator(tmp_path / "data")
    yield operator
    done = operator.types("down")
    assert done.returncode == 0, done.stderr


def test_in_the_background_with_the_example_and_down_again(operator: Operator) -> None:
    started = operator.starts()
    assert started["nodes"] == ["lhr-1", "lhr-2", "cur-1"]
    assert operator.example()["sites"] == ["cur", "lhr"]
    assert "curl" not in operator.types("apps").stderr
    processes = operator.processes()
    assert len(processes) > 6
    assert operator.types("down").stdout.strip() == "ended"
    assert [pid for pid in processes if open_pid(pid)] == []
    assert not find_leftovers(operator.data)
    assert operator.types("status").returncode == 3


def test_state_survives_and_the_example_is_not_deployed_twice(operator: Operator) -> None:
    operator.starts()
    before = operator.example()
    operator.types("down")
    operator.starts()
    after = operator.example()
    assert after["version"] == before["version"]
    assert after["sites"] == ["cur", "lhr"]


def test_a_second_one_is_refused_with_the_pid_and_the_first_serves_on(operator: Operator) -> None:
    started = operator.starts("--no-example")
    refused = operator.types("up", *operator.options)
    assert refused.returncode == 1
    assert f"pid {started['pid']}" in refused.stderr
    assert "skerry down" in refused.stderr
    assert operator.types("sites").returncode == 0


def test_everything_killed_at_once_is_cleaned_up_and_comes_back(operator: Operator) -> None:
    operator.starts()
    supervisor, *others = operator.processes()
    planes = [json.loads(path.read_text())["pid"] for path in _records(operator)]
    for pid in (supervisor, *planes):
        os.kill(pid, signal.SIGKILL)
    assert find_leftovers(operator.data)  # instances and ingresses live on
    assert others
    operator.starts()
    assert operator.example()["sites"] == ["cur", "lhr"]
    assert operator.types("down").stdout.strip() == "ended"
    assert not find_leftovers(operator.data)


def _records(operator: Operator) -> list[Path]:
    run_dir = json.loads((operator.data / "platform.json").read_text())["run_dir"]
    return sorted(Path(run_dir, "planes").glob("*.json"))
