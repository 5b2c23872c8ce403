"""Fixtures of all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.adapters import zram

pytest.register_assert_rewrite("skerry.testing")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[None]:
    """Swap on zram of this test's own: another's could be gone in the middle of it."""
    record = tmp_path / "zram.json"
    zram.make_swap(record, size_bytes=1 << 30)
    yield
    zram.remove_swap(record)
