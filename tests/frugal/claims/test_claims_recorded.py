"""The recorded campaign: intervals that claims form anew against those that the comparisons store, and the verdicts."""

from pathlib import Path

import pytest
from claim_rows import EMPTY, claim

from frugal import claims
from frugal.claims.query import machines, select
from frugal.claims.reduce import estimate

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "results" / "recorded" / "nvidia-h200"


@pytest.fixture(scope="module")
def recorded():
    return claims.Tables.read(FOLDER)


@pytest.fixture(scope="module")
def verdicts(recorded):
    found = claims.evaluate(claims.load(), EMPTY, {"nvidia-h200": recorded}).to_pylist()
    return {row["claim_id"]: row for row in found if row["recorded"]}


def test_ratios_formed_anew_from_sessions_are_those_that_compare_made_of_blocks(recorded):
    # compare pairs block medians round by round; claims divide the sessions' values. Both must agree on every row.
    (machine,) = machines(recorded)
    rows = machine.comparisons
    assert len(rows) > 500
    checked = 0
    for baseline, own in rows.groupby("baseline"):
        for candidate, part in own.groupby("candidate"):
            selected = select(claim(measure={"where": {"baseline": baseline, "candidate": candidate}}).measure, machine)
            assert len(selected.keys) == len(part)
            for line, stored in zip(selected.keys.index, part.itertuples(), strict=True):
                one = claim(measure={"reduce": "only"}).measure
                alone = type(selected)(**{
                    **{name: getattr(selected, name) for name in selected.__dataclass_fields__},
                    "keys": selected.keys.loc[[line]], "value": selected.value.loc[[line]],
                })  # fmt: skip
                found = estimate(one, alone, deterministic=False)
                assert found.value == pytest.approx(stored.ratio, rel=1e-9)
                assert (found.low, found.high) == pytest.approx((stored.ratio_low, stored.ratio_high), rel=1e-9)
                checked += 1
    assert checked == len(rows)


# What docs/cusnn.md says of this campaign: a ratio, its interval, and the verdict that follows from them.
@pytest.mark.parametrize(
    ("name", "said", "verdict"),
    [
        ("cusnn.ours.fp32.densenet169", (8.15, 7.88, 8.43), "reproduced"),
        ("cusnn.ours.fp32.resnet50", (5.40, 5.38, 5.42), "reproduced"),
        ("cusnn.ours.tf32.densenet169", (2.67, 2.61, 2.74), "reproduced"),
        ("cusnn.ours.tf32.resnet50", (1.32, 1.23, 1.41), "trend"),
        ("cusnn.ours.fp16.densenet169", (2.35, 2.02, 2.73), "reproduced"),
        ("cusnn.ours.fp16.resnet50", (0.98, 0.92, 1.04), "not_comparable"),
        ("cusnn.ours.skipping", (1.27, 1.26, 1.27), "trend"),
        ("cusnn.ours.skipping.twin", (0.69, 0.69, 0.69), "reproduced"),
        ("cusnn.ours.e2e.fp32.batch1", (3.66, 3.51, 3.83), "reproduced"),
        ("cusnn.ours.e2e.tf32.batch1", (1.17, 1.15, 1.20), "reproduced"),
        ("cusnn.ours.e2e.fp32.batch8", (1.70, 1.68, 1.72), "trend"),
        ("cusnn.ours.e2e.tf32.batch8", (0.58, 0.57, 0.59), "not_reproduced"),
    ],
)
def test_the_verdicts_of_the_layers_are_those_of_their_intervals(verdicts, name, said, verdict):
    row = verdicts[name]
    assert tuple(round(row[column], 2) for column in ("measured", "low", "high")) == said
    assert row["verdict"] == verdict
    assert row["n_sessions"] == 3


def test_what_the_recorded_campaign_cannot_say_is_not_said(verdicts):
    assert verdicts["cusnn.ours.skipping.cpu"]["verdict"] == "not_run"
    assert verdicts["cusnn.ours.pointwise.fp32"]["verdict"] == "not_run"
    assert verdicts["cusnn.ours.rotated.fp32"]["verdict"] == "not_run"
    # It has no GEMM arm and no ResNet-152: of the published claims only those on whole networks are judged by it.
    judged = {row["claim_id"]: row["origin"] for row in verdicts.values() if row["verdict"] != "not_run"}
    assert {name for name, origin in judged.items() if origin != "ours"} == {
        "cusnn.e2e.densenet169.time",
        "cusnn.e2e.densenet169.energy",
    }


def test_the_closed_form_is_off_by_the_mean_of_absolute_differences(verdicts, recorded):
    rows = recorded.measurements.to_pandas().query("metric == 'sparsity' and r == 3")
    trained = rows[rows["axes_json"].str.contains('"weights":"trained"')]
    both = trained.pivot(index="case_id", columns="arm", values="value").dropna()
    found = verdicts["cusnn.ours.closed_form"]
    assert found["measured"] == pytest.approx((both["bn_closed_form"] - both["measured"]).abs().mean(), rel=1e-9)
    assert found["n_rows"] == len(both)


def test_every_layer_is_right_and_none_is_slower(verdicts, recorded):
    times = recorded.measurements.to_pandas().query("metric == 'time' and arm == 'sparse' and experiment == 'layers'")
    errors = times["max_rel_err"]
    exact = verdicts["cusnn.ours.exact"]
    assert (exact["verdict"], exact["measured"]) == ("reproduced", 1.0)
    assert errors.max() < 1e-6
    slowest = verdicts["cusnn.ours.no_layer_slower"]
    assert slowest["verdict"] == "reproduced"
    assert slowest["measured"] > 1.4
    assert verdicts["cusnn.ours.no_layer_slower.tf32"]["verdict"] == "not_comparable"
    assert verdicts["cusnn.ours.shape"]["measured"] < -0.9
