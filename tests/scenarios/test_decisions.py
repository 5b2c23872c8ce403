"""Golden text scenarios of deciding. `python tests/scenarios/test_decisions.py --rewrite` accepts what is printed now."""

import sys
from pathlib import Path

import pytest

from skerry.testing.scenario import rewrite

FILES = sorted(Path(__file__).parent.glob("decisions/*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_decisions_and_their_reasons_are_as_written(path: Path) -> None:
    text = path.read_text()
    assert rewrite(text) == text


if __name__ == "__main__":
    if sys.argv[1:] != ["--rewrite"]:
        sys.exit(__doc__)
    for file in FILES:
        file.write_text(rewrite(file.read_text()))
