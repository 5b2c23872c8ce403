"""The command line and the configuration file of a plane."""

import subprocess
import sys
from pathlib import Path

import pytest

from skerry.apps.config import ControlConfig
from skerry.apps.plane import BadArguments, parse_arguments, read_config


@pytest.mark.parametrize(
    "arguments",
    [[], ["--config"], ["--liveness-fd", "3"], ["--config", "f", "--verbose", "1"], ["--config", "f", "--liveness-fd", "x"],
     ["--config", "f", "--liveness-fd", "-1"], ["--config", "f", "--liveness-fd", "²"]],
)  # fmt: skip
def test_what_is_not_understood_is_refused(arguments: list[str]) -> None:
    with pytest.raises(BadArguments):
        parse_arguments(arguments)


def test_the_liveness_descriptor_is_optional() -> None:
    assert parse_arguments(["--config", "/f"]) == (Path("/f"), None)
    assert parse_arguments(["--config", "/f", "--liveness-fd", "3"]) == (Path("/f"), 3)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"listen": 3}', b"\xff", b'{"unknown": 1}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "control.json"
    path.write_bytes(content)
    with pytest.raises(BadArguments, match=r"control\.json"):
        read_config(path, ControlConfig)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadArguments, match=r"nowhere\.json"):
        read_config(tmp_path / "nowhere.json", ControlConfig)


def test_an_agent_does_not_carry_what_only_deciding_needs() -> None:
    """NumPy: 16 MB in the agent of every node."""
    code = "import sys, skerry.apps.node; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
