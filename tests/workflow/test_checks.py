"""The targets `plan` and `doctor`, as a user calls them."""

from __future__ import annotations

import json

from campaign_folder import Campaign


def test_the_plan_is_printed_each_time_and_written_once(campaign: Campaign):
    done = campaign.run("--", "plan")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "preset smoke: sessions 1, rounds 2, on local (cpu-" in done.stdout
    path = campaign.folder / "results/plan.json"
    (system,) = json.loads(path.read_text())["systems"]
    assert (system["system"], system["cases"]) == ("cusnn", 2 + 3 + 2 + 1)  # layers, map, ladder, network
    written = path.stat().st_mtime_ns
    again = campaign.run("--", "plan")
    assert "preset smoke: sessions 1" in again.stdout
    assert path.stat().st_mtime_ns == written  # what was planned before a campaign stays what was planned
    campaign.configure(preset="quick")
    try:
        quick = campaign.run("--", "plan")
    finally:
        campaign.configure()
    assert "preset quick: sessions 3" in quick.stdout
    assert json.loads(path.read_text())["sessions"] == 3
    assert not (campaign.folder / "results/device").exists()  # nothing was run for it


def test_the_doctor_prints_its_findings_and_fails_where_something_does(campaign: Campaign):
    done = campaign.run("--", "doctor")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "PASS  python" in done.stdout
    assert "0 FAIL" in done.stdout
    campaign.configure(preset="headline")
    try:
        refused = campaign.run("--", "doctor")
    finally:
        campaign.configure()
    assert refused.returncode != 0
    assert "FAIL  preset" in refused.stdout
    assert "this machine is not ready (preset): type what stands behind `mend` above" in refused.stdout
