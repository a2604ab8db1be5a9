"""SFT's campaign through the workflow: as little as goes through each of its rules."""

from __future__ import annotations

import json

from campaign_folder import Campaign
from frugal import records

SMALL = {
    "preset": "smoke",
    "systems": ["sft"],
    "recorded": [],
    "kernels": {"capabilities": ["9.0"]},
    "timing": {"block_max_s": 0.02, "n_min": 3},
    "sft": {
        "networks": ["vgg16"], "sizes": [64], "methods": ["vanilla", "planned"], "budgets_gib": [0.002],
        "experiments": ["sizes", "memory", "training", "kernels"],
    },
}  # fmt: skip


def test_every_rule_leaves_its_rows(tmp_path):
    campaign = Campaign(tmp_path)
    campaign.configure(**SMALL)
    done = campaign.run("--", "results")
    assert done.returncode == 0, done.stdout[-4000:]
    results = tmp_path / "results"
    rows = records.read(results / "measurements.parquet", "measurements").to_pylist()
    runs = records.read(results / "runs.parquet", "runs").to_pylist()
    assert {run["experiment"] for run in runs} == {"steps", "counted", "kernels"}
    own = [row for row in rows if row["system"] == "sft"]
    assert {row["experiment"] for row in own} == {"sizes", "memory", "training", "kernels"}
    timed = [row for row in own if row["experiment"] == "sizes"]
    assert {row["arm"] for row in timed} == {"vanilla", "planned@budget_mib=2"}
    for row in timed:
        assert row["status"] in ("ok", "unstable"), row["reason"]  # three samples on a machine that others use too
        assert row["verified_before"]
        assert row["verified_after"]
        assert (row["metric"], row["regime"]) == ("time", "wall")
        assert json.loads(row["axes_json"])["width_divisor"] == 16
    assert all((row["value"] is None) == (row["status"] not in ("ok", "unstable")) for row in own)
    report = next((results / "kernels/tiled").glob("*.json"))
    assert json.loads(report.read_text())["capability"] == "9.0"
    assert "Nothing to be done" in campaign.run("--", "results").stdout
