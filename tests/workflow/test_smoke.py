"""The default campaign, whole, as `make test-smoke` runs it: what a first user gets, and how long it may take."""

from __future__ import annotations

import shutil
import time

import pytest

from campaign_folder import REPOSITORY, Campaign
from frugal import figures, records

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> tuple[Campaign, float]:
    """A folder in which the default configuration has run, and the seconds that it took."""
    campaign = Campaign(tmp_path_factory.mktemp("default"))
    shutil.copy(REPOSITORY / "config.yaml", campaign.folder)
    began = time.monotonic()
    done = campaign.run("--", "figures")
    assert done.returncode == 0, done.stdout[-4000:]
    return campaign, time.monotonic() - began


def test_the_default_campaign_takes_at_most_ten_minutes(default: tuple[Campaign, float]):
    assert default[1] <= 600


def test_every_row_has_a_status_and_no_verdict(default: tuple[Campaign, float]):
    results = default[0].folder / "results"
    rows = records.read(results / "measurements.parquet", "measurements").to_pylist()
    rows = [row for row in rows if row["system"] != "control"]  # some of which must be wrong
    networks = {system: {row["network"] for row in rows if row["system"] == system} for system in ("cusnn", "sft")}
    assert networks["cusnn"] == {"densenet169", "resnet50"}
    assert networks["sft"] == {"vgg16", "darknet19", "resnet18", "unet_small"}
    assert {row["status"] for row in rows} <= {"ok", "unstable"}, [row["reason"] for row in rows if row["reason"]]
    verdicts = records.read(results / "comparisons.parquet", "comparisons").column("verdict").to_pylist()
    assert verdicts
    assert set(verdicts) == {None}


def test_the_recorded_campaign_is_drawn_beside_it(default: tuple[Campaign, float]):
    folder = default[0].folder / "results/figures"
    for name in (name for name in figures.NAMES if name.startswith("cusnn_")):  # the system that is recorded
        assert "recorded on NVIDIA H200" in (folder / f"{name}.svg").read_text()


def test_a_second_run_says_within_ten_seconds_that_there_is_nothing_to_do(default: tuple[Campaign, float]):
    began = time.monotonic()
    done = default[0].run("--", "figures")
    assert time.monotonic() - began <= 10
    assert "Nothing to be done" in done.stdout
