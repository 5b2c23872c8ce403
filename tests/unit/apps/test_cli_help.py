"""Every command explains itself."""

import pytest
from typer.testing import CliRunner

from skerry.apps.cli import app
from skerry.apps.cli_help import SECTIONS

COMMANDS = (
    "up", "down", "status", "env", "wrangler", "apps", "explain", "map", "sites", "nodes", "drain", "undrain", 
    "maintenance start", "maintenance status",
    "maintenance pause", "maintenance resume", "maintenance abort",
    "account create", "account list", "token create", "token list", "token revoke", "doctor", "sim fuzz",
    "sim list", "sim show", "sim run", "world make", "world check", "scale", "plan", "demand", "settings", "rollout",
    "run", "deploy", "delete", "instances", "exec", "logs", "cp", "top",
)  # fmt: skip
PRINTS_WHAT_WRANGLER_PRINTS = "wrangler"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_text_an_example_and_json(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"]).stdout
    assert "Example: " in shown
    assert f"skerry {command}" in shown
    assert ("--json" in shown) == (command != PRINTS_WHAT_WRANGLER_PRINTS)


def test_the_program_lists_its_commands() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert all(command.split()[0] in shown for command in COMMANDS)


def test_every_command_stands_where_one_looks_for_it() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert "Others:" not in shown
    named = [name for names in SECTIONS.values() for name in names]
    assert len(named) == len(set(named))
    assert all(f"\n  {name} " in shown for name in named)
