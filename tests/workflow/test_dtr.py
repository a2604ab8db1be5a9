"""DTR's campaign through the workflow: as little as goes through each of its rules."""

from __future__ import annotations

import pytest

from campaign_folder import Campaign
from frugal import records
from frugal.dtr import read_log

SMALL = {
    "preset": "smoke",
    "systems": ["dtr"],
    "recorded": [],
    "kernels": {"capabilities": ["9.0"]},
    "timing": {"block_max_s": 0.02, "n_min": 3},
}
LITTLE = {"networks": ["lstm"], "budgets": [0.7], "ratios": [0.5, 0.8], "draws": 1, "methods": ["save_on_cpu"]}


def rows_of(campaign, target):
    done = campaign.run("--", target)
    assert done.returncode == 0, done.stdout[-4000:]
    rows = records.read(campaign.folder / "results", "measurements").to_pylist()
    assert all((row["value"] is None) == (row["status"] not in ("ok", "unstable")) for row in rows)
    return [row for row in rows if row["system"] == "dtr"]


def test_logs_are_captured_simulated_and_kept_to(tmp_path):
    campaign = Campaign(tmp_path)
    campaign.configure(**SMALL, dtr=LITTLE | {"experiments": ["simulate", "memory"]})
    rows = rows_of(campaign, "results")
    assert {row["experiment"] for row in rows} == {"simulate", "memory"}
    log = read_log(tmp_path / "results/dtr/logs/local/lstm.dtrlog.parquet")
    assert log.metadata["cost_source"] == "measured"
    (peak,) = [
        row["value"] for row in rows if (row["experiment"], row["metric"], row["arm"]) == ("simulate", "peak", "plain")
    ]
    assert peak == log.baseline().memory
    within = {row["metric"]: row["value"] for row in rows if row["arm"] == "dtr@budget=0.7"}
    assert within["differing"] == 0
    assert within["remats"] == within["remats_predicted"] > 0
    assert within["peak_managed"] == within["peak_predicted"] <= 0.7 * peak
    assert "Nothing to be done" in campaign.run("--", "results").stdout


@pytest.mark.slow
def test_every_rule_leaves_its_rows(tmp_path):
    campaign = Campaign(tmp_path)
    campaign.configure(**SMALL, dtr=LITTLE | {"caps_gib": [2**-10]})
    rows = rows_of(campaign, "dtr")
    counted = {"simulate", "chain", "static", "memory", "reach"}
    assert {row["experiment"] for row in rows} == counted | {"adversary", "budgets", "arms", "operators", "simulator"}
    for row in rows:
        if row["experiment"] in ("budgets", "arms"):
            assert row["status"] in ("ok", "unstable"), row["reason"]  # on a machine that others use too
            assert row["verified_before"]
            assert (row["metric"], row["regime"]) == ("time", "wall")
    runs = records.read(campaign.folder / "results", "runs").to_pylist()
    assert {run["experiment"] for run in runs} == counted | {"steps"}
    assert (tmp_path / "results/dtr/residency.parquet").is_file()
    assert (tmp_path / "results/dtr/reach.csv").read_text().count("\n") >= 3
    assert "Nothing to be done" in campaign.run("--", "dtr").stdout
