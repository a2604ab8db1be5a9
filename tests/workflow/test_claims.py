"""The target `claims`, on tables that are there: a file, and the verdicts on the terminal."""

import os
import shutil

from campaign_folder import REPOSITORY, Campaign
from frugal import records

RECORDED = REPOSITORY / "results" / "recorded" / "nvidia-h200"
# Nothing is measured: the tables stand there, as an earlier run of the same campaign would have left them.
ON_TABLES = ("--allowed-rules", "evaluate_claims", "claims", "--", "claims")


def test_the_target_judges_and_prints(campaign: Campaign):
    campaign.configure(recorded=["nvidia-h200"])
    results = campaign.folder / "results"
    shutil.copytree(RECORDED, results)
    first = campaign.run(*ON_TABLES)
    assert first.returncode == 0, first.stdout[-4000:]
    rows = records.read(results, "claims").to_pylist()
    assert {row["recorded"] for row in rows} == {None, "nvidia-h200"}
    here, there = (
        {row["claim_id"]: (row["measured"], row["verdict"]) for row in rows if row["recorded"] == name}
        for name in (None, "nvidia-h200")
    )
    assert here == there
    assert here["cusnn.ours.fp32.densenet169"][1] == "reproduced"
    for words in ("this machine (nvidia-h200-9.0-132sm)", "recorded on nvidia-h200-9.0-132sm", "goals of ours: "):
        assert words in first.stdout

    # Again: nothing is judged anew, and the verdicts are still printed.
    written = os.stat(results / "claims.parquet").st_mtime_ns
    second = campaign.run(*ON_TABLES)
    assert second.returncode == 0, second.stdout[-4000:]
    assert os.stat(results / "claims.parquet").st_mtime_ns == written
    assert "goals of ours: " in second.stdout
