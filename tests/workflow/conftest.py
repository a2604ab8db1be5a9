"""One small campaign is run once and copied by the tests that change something."""

from __future__ import annotations

from pathlib import Path

import pytest

from campaign_folder import Campaign


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """A folder with the small configuration, in which nothing has run yet."""
    made = Campaign(tmp_path)
    made.configure()
    return made


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The small campaign, run to its figures once. Tests read it; those that change something copy it first."""
    made = Campaign(tmp_path_factory.mktemp("finished"))
    made.configure()
    done = made.run("--", "figures")
    assert done.returncode == 0, done.stdout[-4000:]
    return made
