"""Snakemake's between-workflow cache: the right artefact for each target, and no second build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from campaign_folder import SMALL, Campaign
from kernels.sparse import variants

NAME = min(variants(), key=lambda variant: variant.th * variant.tw * variant.outputs_per_lane).name  # the quickest


@pytest.fixture
def reports() -> list[str]:
    return [f"results/kernels/sparse/{NAME}.sm_{capability}.json" for capability in ("80", "90")]


def test_each_target_gets_its_own_entry_and_is_built_once(tmp_path: Path, reports: list[str]):
    cache = tmp_path / "cache"
    cache.mkdir()
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        campaign = Campaign(tmp_path / folder)
        campaign.configure(**SMALL)
        done = campaign.run("--cache", "--", *reports, SNAKEMAKE_OUTPUT_CACHE=str(cache))
        assert done.returncode == 0, done.stdout[-3000:]
        found = [json.loads((campaign.folder / path).read_text())["capability"] for path in reports]
        assert found == ["8.0", "9.0"]
        built = [log for log in (campaign.folder / "logs").rglob("*.log") if log.stat().st_size]
        assert len(built) == (2 if folder == "first" else 0)  # Snakemake touches the log of what it took from the cache
