"""The break-even table against crossings that are put in, and the cases that it is made of."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from frugal import cusnn
from frugal.cusnn import break_even_cases, ladder, shapes
from frugal.cusnn.cases import PHASES, Layer
from frugal.cusnn.sparsity import ConvLayer
from frugal.errors import FrugalError

CPU = torch.device("cpu")
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)
AXES = {"c": 8, "h": 4, "w": 4, "k": 16, "r": 3, "stride": 1, "batch": 1, "pattern": "bernoulli"}


def rows(ratio, sessions: int = 1, noise: float = 0.0, baseline: str = "cudnn_fp32", **axes) -> list[dict]:
    """Rows in which the baseline takes `ratio(share)` times as long as ours, with noise in its logarithm."""
    rng = np.random.default_rng(0)
    found = []
    for session in range(sessions):
        for share in SHARES:
            common = {
                "case_id": f"case {share} {axes}", "session": session, "experiment": "break_even", "metric": "time",
                "status": "ok", "regime": "graph", "l2": "resident",
                "axes_json": json.dumps(AXES | {"sparsity": share} | axes),
            }  # fmt: skip
            ours = 1e-6 * (session + 1)  # sessions differ, which the ratios within one do not see
            theirs = ours * ratio(share) * math.exp(noise * rng.standard_normal())
            found += [common | {"arm": "sparse", "value": ours}, common | {"arm": baseline, "value": theirs}]
    return found


def table(*parts: list[dict]) -> pd.DataFrame:
    return cusnn.break_even(pd.DataFrame([row for part in parts for row in part]))


def only(*parts: list[dict]) -> dict:
    (row,) = table(*parts).to_dict("records")
    return row


# ---- the fit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crossing", [0.1, 0.35, 0.6, 0.79])
def test_a_line_is_crossed_where_it_is(crossing: float):
    found = only(rows(lambda share: math.exp(share - crossing)))
    assert found["state"] == "from"
    # the logarithm is a line, so that between two shares it is met exactly but for rounding
    assert found["sparsity"] == pytest.approx(crossing, abs=1e-12)
    assert math.isnan(found["sparsity_low"])  # one session has no interval
    assert (found["shares"], found["sessions"], found["baseline"]) == (5, 1, "cudnn_fp32")
    assert {name: found[name] for name in AXES} == AXES


@pytest.mark.parametrize(("ratio", "state"), [(1.0, "always"), (3.0, "always"), (0.99, "never")])
def test_states(ratio: float, state: str):
    found = only(rows(lambda share: ratio))
    assert found["state"] == state
    assert math.isnan(found["sparsity"])


def test_a_dip_among_larger_shares_is_noise_and_one_at_the_end_is_averaged_in():
    # least squares that nowhere fall: 0.3 and -0.1 become their mean, which is above 0
    logs = dict(zip(SHARES, (-0.4, -0.2, 0.3, -0.1, 0.5), strict=True))
    found = only(rows(lambda share: math.exp(logs[share])))
    assert found["sparsity"] == pytest.approx(0.2 + 0.2 * 0.2 / 0.3, abs=1e-12)  # from -0.2 to 0.1 between .2 and .4


def test_intervals_narrow_with_sessions_and_hold_the_truth():
    def line(share: float) -> float:
        return math.exp(share - 0.45)

    few, many = (only(rows(line, sessions=n, noise=0.02)) for n in (3, 30))
    for found in (few, many):
        assert found["sparsity_low"] <= 0.45 <= found["sparsity_high"]
        assert found["sparsity_low"] <= found["sparsity"] <= found["sparsity_high"]
    width_few, width_many = (found["sparsity_high"] - found["sparsity_low"] for found in (few, many))
    assert width_many < width_few


def test_an_end_beyond_what_was_measured_is_not_known():
    early = rows(lambda share: math.exp(share - 0.65))
    late = [row | {"session": 1} for row in rows(lambda share: math.exp(share - 0.75))]
    found = only(early, late)
    assert found["sparsity"] == pytest.approx(0.7, abs=1e-12)
    assert math.isnan(found["sparsity_high"])  # t for two sessions is 12.7


def test_of_two_layouts_the_faster_counts():
    both = (
        rows(lambda share: math.exp(share - 0.3)),
        rows(lambda share: math.exp(share - 0.5), baseline="cudnn_fp32_cl"),
    )
    assert only(*both)["sparsity"] == pytest.approx(0.5, abs=1e-12)
    # the layout that is faster may be another at each share
    mixed = (
        rows(lambda share: math.exp(share - 0.3)),
        rows(lambda share: 9.0 if share > 0.5 else math.exp(share - 0.5), baseline="cudnn_fp32_cl"),
    )
    assert only(*mixed)["sparsity"] == pytest.approx(0.4 + 0.2 * 0.1 / 0.4, abs=1e-12)  # -.1 at .4, and .3 at .6


def test_machines_shapes_batches_patterns_and_baselines_stand_apart():
    def line(share: float) -> float:
        return math.exp(share - 0.3)

    parts = [rows(line), rows(line, baseline="dense_twin"), rows(line, batch=8), rows(line, pattern="real")]
    found = table(*parts)
    assert len(found) == 4
    frame = pd.concat([pd.DataFrame(rows(line)).assign(device_key=key) for key in ("a", "b")])
    assert cusnn.break_even(frame)["device_key"].tolist() == ["a", "b"]


def test_what_was_not_measured_is_left_out():
    given = rows(lambda share: math.exp(share - 0.3))
    wrong = [row | {"status": "incorrect", "value": None} if row["arm"] != "sparse" else row for row in given]
    assert len(table(wrong)) == 0
    assert len(table([row | {"experiment": "layers"} for row in given])) == 0
    partly = [row for row in given if row["arm"] == "sparse" or json.loads(row["axes_json"])["sparsity"] > 0.3]
    assert only(partly)["state"] == "always"
    assert only(partly)["shares"] == 3


def test_a_table_of_something_else_ends_in_a_sentence():
    with pytest.raises(FrugalError, match="break_even: the table has no column session"):
        cusnn.break_even(pd.DataFrame({"case_id": []}))


# ---- the cases -------------------------------------------------------------------------------------------------------

LAYER = shapes.Layer(6, 8, 10)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.95, 1.0])
def test_zeros_lie_at_random_places_and_are_as_many_as_said(sparsity: float):
    made = break_even_cases.bernoulli(LAYER, 2, sparsity, CPU)
    inputs = {phase: made.inputs(3, phase) for phase in PHASES}
    x, w = inputs["timed"]["x"], inputs["timed"]["w"]
    assert (x.shape, w.shape) == ((2, 6, 8, 8), (10, 6, 3, 3))
    assert (x >= 0).all()
    zeros = int((x == 0).sum())
    assert zeros == round(sparsity * x.numel())
    assert made.columns["sparsity_measured"] == zeros / x.numel()
    assert made.columns["sparsity_target"] == sparsity
    again, other = made.inputs(3, "timed")["x"], made.inputs(4, "timed")["x"]
    assert torch.equal(x, again)
    if 0 < sparsity < 1:
        assert not torch.equal(x == 0, other == 0)
        rarer = (x == 0) == (sparsity < 0.5)
        assert len(set(np.diff(np.flatnonzero(rarer)))) > 3  # no regular pattern


def test_a_case_of_the_map_is_called_by_its_shape_share_and_pattern():
    made = break_even_cases.bernoulli(LAYER, 2, 0.5, CPU)
    assert (made.system, made.experiment, made.network, made.layer) == ("cusnn", "break_even", None, "6x8->10")
    assert made.axes == {
        "c": 6, "h": 8, "w": 8, "k": 10, "r": 3, "stride": 1, "batch": 2, "sparsity": 0.5, "pattern": "bernoulli",
    }  # fmt: skip
    assert made.columns["sparsity_pattern"] == "iid"
    y = made.reference(given := made.inputs(0, "verify")).y
    expected = torch.nn.functional.conv2d(given["x"].double(), given["w"].double(), padding=1)
    assert torch.equal(y, expected)


def of_network(images: int = 8) -> Layer:
    generator = torch.Generator().manual_seed(0)
    conv = ConvLayer(index=1, name="conv", C=6, H=8, W=8, N=10, k=3, stride=1, pad=1, macs=1)
    inputs = torch.randn(images, 6, 8, 8, generator=generator).clamp_min(0)
    return Layer(conv, torch.randn(10, 6, 3, 3), inputs, 1, "trained")


def test_a_networks_own_zeros_are_kept_and_its_smallest_values_are_added_to_them():
    layer = of_network()
    made = list(break_even_cases.real(LAYER, layer, 2, [0.1, 0.6, 0.9], "photographs", "ab"))
    # it has about half of zeros itself, and none can be taken away
    assert [case.axes["sparsity"] for case in made] == [0.6, 0.9]
    assert {case.axes["pattern"] for case in made} == {"real"}
    for case in made:
        assert case.columns["sparsity_measured"] == pytest.approx(case.axes["sparsity"], abs=1 / layer.inputs.numel())
        assert (case.columns["dataset"], case.columns["sparsity_pattern"]) == ("photographs", "real")
    raised = [break_even_cases.raised(layer.inputs, share) for share in (0.6, 0.9)]
    for fewer, more in pairwise([layer.inputs, *raised]):
        kept = more != 0
        assert torch.equal(more[kept], fewer[kept])  # values are the network's
        assert more[kept].min() > fewer[~kept].max()  # and what went were the smallest
    x = made[0].inputs(1, "timed")["x"]
    assert any(torch.equal(x[0], image) for image in raised[0])


def test_too_few_images_give_no_case_of_real_zeros():
    assert list(break_even_cases.real(LAYER, of_network(4), 5, [0.9], "photographs", "ab")) == []


def test_a_case_of_the_ladder_is_called_by_its_shape():
    layer = shapes.Layer(6, 8, 10, sparsity=0.75)
    made = ladder.case(layer, 2, CPU)
    assert made.axes == {
        "shape": "6x8->10", "c": 6, "h": 8, "w": 8, "k": 10, "r": 3, "stride": 1, "batch": 2, "sparsity": 0.75,
    }  # fmt: skip
    x = made.inputs(0, "timed")["x"]
    assert (x == 0).float().mean() == 0.75 == made.columns["sparsity_measured"]
    assert (made.experiment, made.layer) == ("ladder", "6x8->10")
