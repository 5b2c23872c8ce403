"""Files that are replaced whole."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skerry.adapters.files import make_private_directory, replace_durably
from skerry.adapters.recordfile import JsonFolder
from skerry.kit.record import Record

REPLACER = """
import os, sys, pathlib
from skerry.adapters.files import replace_durably
for number in range(1_000_000):
    replace_durably(pathlib.Path(sys.argv[1]), b"%07d" % number * 20_000)
    os.write(1, b"%d\\n" % number)
"""


def test_a_file_is_replaced_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_durably(path, b"first, and longer")
    replace_durably(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def replace(number: int) -> None:
        replace_durably(path, bytes([number]) * 50_000)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(replace, range(64)))
    assert len(set(path.read_bytes())) == 1
    assert path.stat().st_size == 50_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_a_whole_file_and_nothing_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for lines in (1, 7, 30):
        with subprocess.Popen([sys.executable, "-c", REPLACER, str(path)], stdout=subprocess.PIPE, text=True) as replacer:
            assert replacer.stdout is not None
            seen = [replacer.stdout.readline() for _ in range(lines)]
            replacer.kill()
            seen += replacer.stdout.readlines()
        held = path.read_bytes()
        assert len(held) == 140_000
        assert held == held[:7] * 20_000
        assert int(held[:7]) in (int(seen[-1]), int(seen[-1]) + 1)
    replace_durably(path, b"last")
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_durably(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_private_directories_are_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    make_private_directory(path)
    make_private_directory(path)
    assert {place.stat().st_mode & 0o777 for place in (path, path.parent)} == {0o700}


def test_records_of_a_killed_writer_go_when_they_are_read(tmp_path: Path) -> None:
    folder = JsonFolder(tmp_path, Labels)
    folder.save("one", Labels())
    (tmp_path / "two.json.tmp").write_bytes(b'{"secret": ')
    assert folder.load_all() == {"one": Labels()}
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


class Labels(Record):
    """Any record."""
