"""Fixtures of all tests."""

import pytest

pytest.register_assert_rewrite("skerry.testing")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
