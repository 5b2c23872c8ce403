"""Backups that are not what they should be change nothing."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters.blobs.directory import DirectoryBlobs
from skerry.adapters.store.sqlite import SqliteStore
from skerry.apps.backing import HALF, MARK, back_up, restore
from skerry.apps.supervisor.errors import UpError


def quiet(_: str, __: int, ___: int) -> None:
    pass


async def fill(data: Path, value: bytes, *blobs: bytes) -> None:
    store = await SqliteStore.open(data / "control" / "store.db")
    await store.put("k", value)
    await store.aclose()
    kept = await DirectoryBlobs.open(data / "control" / "blobs")
    for blob in blobs:
        await kept.put(blob)


async def read(data: Path) -> bytes:
    store = await SqliteStore.open(data / "control" / "store.db")
    found = await store.get("k")
    await store.aclose()
    assert found is not None
    return found.value


@pytest.fixture
async def data(tmp_path: Path) -> AsyncIterator[Path]:
    (tmp_path / "data" / "control").mkdir(parents=True)
    await fill(tmp_path / "data", b"first", b"one blob", b"another")
    yield tmp_path / "data"


def blobs_of(root: Path) -> set[bytes]:
    return {path.read_bytes() for path in root.glob("blobs/[0-9a-f][0-9a-f]/*")}


async def test_a_second_backup_is_the_state_of_then(data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    assert (await back_up(data, backup, quiet)).blobs == 2
    await fill(data, b"second", b"a third")
    next((data / "control").glob("blobs/[0-9a-f][0-9a-f]/*")).unlink()
    assert (await back_up(data, backup, quiet)).blobs == 2
    assert blobs_of(backup) == blobs_of(data / "control")
    await restore(tmp_path / "new", backup, quiet, replace=False)
    assert await read(tmp_path / "new") == b"second"
    assert blobs_of(tmp_path / "new" / "control") == blobs_of(backup)
    assert sorted(path.name for path in (tmp_path / "new" / "control").iterdir() if "half" in path.name) == []


async def test_a_damaged_blob_is_told_and_the_state_of_before_stays(data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    await back_up(data, backup, quiet)
    next(backup.glob("blobs/[0-9a-f][0-9a-f]/*")).write_bytes(b"x")
    other = tmp_path / "other"
    (other / "control").mkdir(parents=True)
    await fill(other, b"before")
    with pytest.raises(UpError, match="holds the content of"):
        await restore(other, backup, quiet, replace=True)
    assert await read(other) == b"before"


async def test_a_damaged_store_is_told_and_the_backup_of_before_stays(data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    await back_up(data, backup, quiet)
    before = (backup / "store.db").read_bytes()
    with (data / "control" / "store.db").open("r+b") as store:
        store.seek(100)
        store.write(b"\xff" * 4000)
    with pytest.raises(UpError, match="no backup was made"):
        await back_up(data, backup, quiet)
    assert (backup / "store.db").read_bytes() == before


async def test_what_is_no_state_and_no_backup(tmp_path: Path) -> None:
    with pytest.raises(UpError, match="no platform's state"):
        await back_up(tmp_path / "nothing", tmp_path / "backup", quiet)
    with pytest.raises(UpError, match="is no backup"):
        await restore(tmp_path / "data", tmp_path, quiet, replace=True)
    assert not (tmp_path / "data").exists()


async def test_a_directory_with_other_things_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(UpError, match="something else"):
        await back_up(data, tmp_path / "home", quiet)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]


async def test_one_that_was_broken_off_is_taken_for_none(data: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    await back_up(data, backup, quiet)
    (backup / MARK).unlink()
    (backup / "store.db").rename(backup / "store.db.half")
    with pytest.raises(UpError, match="not a whole one"):
        await restore(tmp_path / "new", backup, quiet, replace=False)
    assert json.loads(str((await back_up(data, backup, quiet)).blobs)) == 2


async def test_killed_before_all_blobs_are_there_the_backup_of_before_is_whole(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def killed(*_: object, **__: object) -> int:
        raise Killed

    backup = tmp_path / "backup"
    await back_up(data, backup, quiet)
    await fill(data, b"second", b"a third")
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryBlobs, "put_stream", killed)
        with pytest.raises(Killed):
            await back_up(data, backup, quiet)
    assert (backup / HALF).exists()
    await restore(tmp_path / "new", backup, quiet, replace=False)
    assert await read(tmp_path / "new") == b"first"
    assert blobs_of(tmp_path / "new" / "control") == {b"one blob", b"another"}
    await back_up(data, backup, quiet)
    await restore(tmp_path / "newer", backup, quiet, replace=False)
    assert await read(tmp_path / "newer") == b"second"
