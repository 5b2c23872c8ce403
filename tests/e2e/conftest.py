"""A platform with the three cities of `make run`, shared by the tests of a module."""

import pytest

from skerry.adapters import tools


@pytest.fixture(scope="session")
def engines() -> None:
    """Skips, with the reason, where an engine is missing."""
    for find in (tools.find_workerd, tools.find_haproxy, tools.find_bwrap, tools.find_node, tools.find_wrangler):
        try:
            find().require()
        except tools.ToolMissing as missing:
            pytest.skip(str(missing))
