"""Set-up does each thing once, goes on where it stopped, and says in words what a person has to do."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="test_runs"/>
<testcase classname="tests.a" name="test_known"><skipped type="pytest.xfail" message="known"/></testcase>
<testcase classname="tests.b" name="test_kernel"><skipped type="pytest.skip" message="no kvm here"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, with a tree of its own."""
    spec = importlib.util.spec_from_file_location("skerry_setup", SCRIPTS / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    for name, place in {
        "ROOT": ".",
        "VENV": ".venv",
        "CACHE": ".cache",
        "STAMPS": ".venv/.setup",
        "LOG": ".cache/setup.log",
        "BWRAP_UNPACKED": ".cache/bubblewrap",
    }.items():
        monkeypatch.setattr(module, name, tmp_path / place)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".cache").mkdir()
    return module


def test_packages_are_installed_once_for_a_lock_file(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(setup, "uv", lambda *arguments: calls.append(arguments))
    lock = tmp_path / "requirements.txt"
    lock.write_text("one==1\n")
    setup.install_packages(dev=False)
    setup.install_packages(dev=False)
    assert len(calls) == 1
    lock.write_text("one==2\n")
    setup.install_packages(dev=False)
    assert len(calls) == 2


def test_a_step_that_failed_is_done_again(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("one==1\n")

    def fail(*arguments: str) -> None:
        raise setup.Failed("no network")

    monkeypatch.setattr(setup, "uv", fail)
    with pytest.raises(setup.Failed):
        setup.install_packages(dev=False)
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(setup, "uv", lambda *arguments: calls.append(arguments))
    setup.install_packages(dev=False)
    assert calls


def test_a_failed_command_is_told_by_its_first_and_last_lines(setup: ModuleType) -> None:
    with pytest.raises(setup.Failed) as failed:
        setup.run([sys.executable, "-c", "for n in range(100): print('line', n)\nraise SystemExit(3)"])
    lines = str(failed.value).splitlines()
    assert "line 0" in lines
    assert "line 99" in lines
    assert len(lines) < 30
    assert "line 50" in setup.LOG.read_text()


def test_a_python_without_venv_is_told_which_package_has_it(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(setup.Failed, match=r"apt-get install python3\.\d+-venv"):
        setup.make_venv()


def test_an_old_python_goes_on_in_a_newer_one_beside_it(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(setup.sys, "version_info", (3, 10, 12, "final", 0))
    monkeypatch.setattr(setup.shutil, "which", lambda name: "/usr/bin/python3.12" if name == "python3.12" else None)
    monkeypatch.setattr(setup.os, "execv", lambda path, arguments: started.append(path))
    with pytest.raises(setup.Failed):  # execv does not return in earnest
        setup.use_new_enough_python()
    assert started == ["/usr/bin/python3.12"]


def test_without_bubblewrap_and_apt_it_says_what_to_install(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    with pytest.raises(setup.Failed, match="install bubblewrap"):
        setup.install_bubblewrap()


def test_uv_is_given_what_pip_is_told(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = "global.index-url='https://mirror.example/simple'\nglobal.cert='/etc/own.pem'\n"
    monkeypatch.setattr(setup.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, told, ""))
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/mine.pem")
    env = setup.uv_environment()
    assert env["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert env["SSL_CERT_FILE"] == "/etc/mine.pem"  # what is set already wins


def read_report(tmp_path: Path, *arguments: str, xml: str = REPORT) -> subprocess.CompletedProcess[str]:
    report = tmp_path / "report.xml"
    report.write_text(xml)
    command = [sys.executable, str(SCRIPTS / "report.py"), str(report), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_skipped_test_fails_a_complete_machine(tmp_path: Path) -> None:
    done = read_report(tmp_path)
    assert done.returncode == 1
    assert done.stdout == "skipped: tests.b::test_kernel: no kvm here\n"


def test_a_skip_that_is_allowed_passes(tmp_path: Path) -> None:
    assert read_report(tmp_path, "--allow-skip", "no kvm").returncode == 0


def test_a_failed_test_is_told_in_a_few_lines(tmp_path: Path) -> None:
    message = "&#10;".join(f"line {number}" for number in range(100))
    done = read_report(
        tmp_path, xml=f'<s><testcase classname="tests.c" name="test_d"><failure message="{message}"/></testcase></s>'
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert (lines[0], lines[1], lines[-1]) == ("failed: tests.c::test_d", "  line 0", "  line 99")
    assert len(lines) < 20


def test_a_missing_report_is_a_failure(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "report.py"), str(tmp_path / "none.xml")]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
