"""The doctor tells what keeps workers from running apart from what only limits them."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from skerry.adapters import machine, tools
from skerry.adapters.cgroup.probe import find_tree
from skerry.apps import doctor
from skerry.apps.supervisor.ports import Wanted


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[doctor.Finding]:
    made: list[doctor.Finding] = [doctor.Finding(name="workerd", state="ok", found="1.2026", path="/somewhere/workerd")]
    monkeypatch.setattr(doctor, "examine", lambda: tuple(made))
    return made


def test_a_machine_that_is_only_limited_is_usable(findings: list[doctor.Finding], capsys: pytest.CaptureFixture[str]) -> None:
    findings.append(doctor.Finding(name="zram", state="limited", found="no", disables="sleep", remedy="modprobe"))
    assert doctor.doctor(json=True) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["usable"] is True
    assert answer["findings"][1] == {
        "name": "zram", "state": "limited", "found": "no", "path": "", "disables": "sleep", "remedy": "modprobe",
    }  # fmt: skip


def test_what_is_missing_fails_and_is_told_with_its_remedy(
    findings: list[doctor.Finding], capsys: pytest.CaptureFixture[str]
) -> None:
    findings.append(doctor.Finding(name="sandbox", state="missing", found="refused", disables="all", remedy="do this"))
    findings.append(doctor.Finding(name="zram", state="limited", found="no", disables="sleep", remedy="modprobe"))
    assert doctor.doctor(required=True) == 1
    told = capsys.readouterr().out
    assert "sandbox: refused" in told
    assert "do this" in told
    assert "zram" not in told
    assert doctor.doctor() == 1
    assert "cannot run here yet" in capsys.readouterr().out


def test_an_engine_without_which_no_worker_runs_is_missing_and_a_tool_of_benches_only_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = tools.Tool(name="x", problem="not installed", remedy="install it")
    monkeypatch.setattr(doctor, "ENGINES", ((lambda: absent, "all", True), (lambda: absent, "benches", False)))
    states = [finding.state for finding in doctor._engines()]
    assert states == ["missing", "limited"]


@pytest.mark.parametrize(("running", "state"), [(None, "limited"), (77, "ok")])
def test_ports_that_the_running_platform_has_are_in_order(
    monkeypatch: pytest.MonkeyPatch, running: int | None, state: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = Wanted(host="127.0.0.1", port=listener.getsockname()[1], use="users", option="--port")
        monkeypatch.setattr(doctor, "PORTS", (taken,))
        monkeypatch.setattr(doctor, "_running_pid", lambda: running)
        (found,) = doctor._ports()
    assert found.state == state
    assert (f"pid {running or os.getpid()}") in found.found


def test_the_kernel_setting_that_forbids_namespaces_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_sysctl", lambda name: "1" if "apparmor" in name else "")
    refused = machine.try_sandbox("/bin/false")
    assert refused is not None
    assert "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in refused.remedy


def test_probing_leaves_no_group_behind() -> None:
    machine.try_groups()
    tree, _ = find_tree(f"skerry-probe-{os.getpid()}")
    assert tree is None or tree.names() == ()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/skerry-probe-{os.getpid()}"))


def test_groups_of_a_probe_that_was_killed_are_removed() -> None:
    dead = subprocess.Popen(["/bin/true"])
    dead.wait()
    tree, reason = find_tree(f"skerry-probe-{dead.pid}")
    if tree is None:
        pytest.skip(reason)
    tree.create("probe")
    machine.try_groups()
    assert tree.names() == ()
