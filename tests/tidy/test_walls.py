"""The table of escapes and abuses in docs/howto/walls.md against the tests that there are."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/howto/walls.md"
NAMED = re.compile(r"`(\w+\.py)::(\w+)(?:\[([^\]]+)\])?`")
PLACES = ("tests/integration", "src/skerry/testing/contracts")
CORPUS = ROOT / "tests/integration/test_abuse_programs.py"


def named() -> list[tuple[str, str, str]]:
    return NAMED.findall(PAGE.read_text())


def file_of(name: str) -> Path:
    (found,) = (path for place in PLACES if (path := ROOT / place / name).exists())
    return found


def names_in(path: Path) -> set[str]:
    tree = ast.walk(ast.parse(path.read_text()))
    return {
        node.name for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def corpus() -> set[str]:
    """The names of all abuses that are tried."""
    for node in ast.parse(CORPUS.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ABUSES":
            assert isinstance(node.value, ast.Dict)
            return {ast.literal_eval(key) for key in node.value.keys if key is not None}
    raise AssertionError("there is no corpus")


@pytest.mark.parametrize(("file", "test", "case"), named())
def test_what_a_row_names_is_a_test(file: str, test: str, case: str) -> None:
    assert test in names_in(file_of(file))
    assert not case or (file == CORPUS.name and case in corpus())


def test_every_row_of_what_is_tried_names_its_test() -> None:
    tried = PAGE.read_text().partition("## Escapes and abuses")[2].partition("## What the operator sees")[0]
    lines = [line for line in tried.splitlines() if line.startswith("|") and not line.startswith(("|---", "| what it does"))]
    assert len(lines) > 20
    assert [line for line in lines if not NAMED.search(line)] == []


def test_every_abuse_that_is_tried_has_its_row() -> None:
    assert corpus() == {case for file, _, case in named() if case and file == CORPUS.name}
    assert names_in(CORPUS) <= {test for file, test, _ in named() if file == CORPUS.name}
