"""How tests are shared out among workers (`make test` has two): a file stays together, for the sake of its fixtures."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that reads the campaign which tests/workflow runs once is one group, each other file a group of its own."""
    for item in items:
        group = "finished" if "finished" in getattr(item, "fixturenames", ()) else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))
    # The longest first, so that no worker waits for the other at the end.
    items.sort(key=lambda item: "workflow" not in item.path.parts)
