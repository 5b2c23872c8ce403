"""`skerry backup` and `skerry restore`, as an operator whose disk is gone types them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.testing.platform import free_ports

pytestmark = [pytest.mark.usefixtures("engines"), pytest.mark.timeout(180)]


class Operator:
    def __init__(self, data: Path) -> None:
        port, api_port = free_ports()
        self.data = data
        self.options = ("--cities", "lhr:1,cur:1", "--port", str(port), "--api-port", str(api_port), "--detach", "--json")

    def types(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "skerry.apps.cli", *arguments, "--data-dir", str(self.data)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def manages(self, *arguments: str) -> str:
        done = self.types(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def operator(tmp_path: Path, engines: None) -> Iterator[Operator]:
    operator = Operator(tmp_path / "data")
    yield operator
    operator.manages("down")


def test_all_is_back_after_the_disk_was_lost(operator: Operator, tmp_path: Path) -> None:
    backup = str(tmp_path / "backup")
    operator.manages("up", *operator.options)
    operator.manages("account", "create", "team-b")
    apps = json.loads(operator.manages("apps", "--json"))["apps"]
    made = json.loads(operator.manages("backup", backup, "--json"))
    assert made["blobs"] > 0
    assert [oct(path.stat().st_mode & 0o77) for path in Path(backup).rglob("*") if path.stat().st_mode & 0o77] == []
    refused = operator.types("restore", backup, "--replace")
    assert refused.returncode == 1 and "a platform runs on" in refused.stderr
    operator.manages("down")
    shutil.rmtree(operator.data)

    operator.manages("restore", backup)
    operator.manages("up", *operator.options, "--no-example")
    status = json.loads(operator.manages("status", "--json"))
    example = next(app for app in status["apps"] if app["app"] == "hello-edge")
    assert example["version"] in {app["version"] for app in apps}
    assert example["sites"] == ["cur", "lhr"]
    assert "team-b" in operator.manages("account", "list")


def test_what_came_after_the_backup_is_lost_only_where_that_was_asked_for(operator: Operator, tmp_path: Path) -> None:
    backup = str(tmp_path / "backup")
    operator.manages("up", *operator.options, "--no-example")
    operator.manages("backup", backup)
    operator.manages("account", "create", "later")
    operator.manages("down")
    refused = operator.types("restore", backup)
    assert refused.returncode == 1 and "--replace" in refused.stderr
    for _ in range(2):  # the second time it has to be ahead of what sites saw after the first
        operator.manages("restore", backup, "--replace")
        operator.manages("up", *operator.options, "--no-example")
        assert "later" not in operator.manages("account", "list")
        status = json.loads(operator.manages("status", "--json"))
        assert [site["state"] for site in status["sites"]] == ["up", "up"]
        operator.manages("down")
