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
    assert len(rows) > 980
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
        ("cusnn.ours.fp32.densenet169", (5.59, 5.31, 5.88), "reproduced"),
        ("cusnn.ours.fp32.resnet50", (4.11, 4.08, 4.14), "trend"),
        ("cusnn.ours.tf32.densenet169", (1.75, 1.74, 1.77), "trend"),
        ("cusnn.ours.tf32.resnet50", (0.99, 0.95, 1.03), "not_reproduced"),
        ("cusnn.ours.fp16.densenet169", (1.41, 1.36, 1.47), "reproduced"),
        ("cusnn.ours.fp16.resnet50", (0.72, 0.70, 0.75), "not_reproduced"),
        ("cusnn.ours.skipping", (1.09, 1.09, 1.09), "trend"),
    ],
)
def test_the_verdicts_of_the_layers_are_those_of_their_intervals(verdicts, name, said, verdict):
    row = verdicts[name]
    assert tuple(round(row[column], 2) for column in ("measured", "low", "high")) == said
    assert row["verdict"] == verdict
    assert row["n_sessions"] == 3
    # Skipping is judged where work and zeros are many: 128,28→128, 256,14→256 and 512,7→512.
    assert row["n_rows"] == {"densenet169": 82, "resnet50": 16, "skipping": 13}[name.split(".")[-1]]


def test_what_the_recorded_campaign_cannot_say_is_not_said(verdicts):
    assert verdicts["cusnn.ours.skipping.cpu"]["verdict"] == "not_run"
    assert verdicts["cusnn.ours.e2e.fp32.batch1"]["verdict"] == "not_run"
    # It has no GEMM arm and no ResNet-152, so that no published claim is judged by it.
    assert {row["verdict"] for row in verdicts.values() if row["origin"] != "ours"} == {"not_run"}


def test_the_closed_form_is_off_by_the_mean_of_absolute_differences(verdicts, recorded):
    rows = recorded.measurements.to_pandas().query("metric == 'sparsity' and r == 3")
    trained = rows[rows["axes_json"].str.contains('"weights":"trained"')]
    both = trained.pivot(index="case_id", columns="arm", values="value").dropna()
    found = verdicts["cusnn.ours.closed_form"]
    assert found["measured"] == pytest.approx((both["bn_closed_form"] - both["measured"]).abs().mean(), rel=1e-9)
    assert found["n_rows"] == len(both)


def test_every_layer_is_right_and_none_is_slower(verdicts, recorded):
    errors = recorded.measurements.to_pandas().query("metric == 'time' and arm == 'sparse'")["max_rel_err"]
    exact = verdicts["cusnn.ours.exact"]
    assert (exact["verdict"], exact["measured"]) == ("reproduced", 1.0)
    assert errors.max() < 1e-6
    slowest = verdicts["cusnn.ours.no_layer_slower"]
    assert slowest["verdict"] == "reproduced"
    assert slowest["measured"] > 1.6
    assert verdicts["cusnn.ours.no_layer_slower.tf32"]["verdict"] == "not_reproduced"
    assert verdicts["cusnn.ours.shape"]["measured"] < -0.9
