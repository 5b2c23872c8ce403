"""How large a terminal is taken to be."""

import fcntl
import os
import pty
import termios
from collections.abc import Iterator

import pytest

from skerry.apps.talking import window


@pytest.fixture
def terminal() -> Iterator[int]:
    ours, theirs = pty.openpty()
    yield theirs
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(("said", "taken"), [((0, 0), (24, 80)), ((50, 0), (50, 80)), ((50, 132), (50, 132))])
def test_one_that_does_not_say_is_an_ordinary_one(terminal: int, said: tuple[int, int], taken: tuple[int, int]) -> None:
    size = b"".join(number.to_bytes(2, "little") for number in (*said, 0, 0))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    assert window(terminal) == taken
