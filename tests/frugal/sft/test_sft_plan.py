"""Plans as data: JSON, tables, and one sentence for what no network can run."""

import dataclasses
import json

import pytest

from frugal.models.vgg import vgg16
from frugal.sft import Plan, PlanError, Segment, SegmentedSequential, ShapeError

SHAPE = (1, 3, 64, 96)


def model():
    return vgg16(width_divisor=16)


def manual(**kwargs):
    return Plan.manual(model(), SHAPE, **kwargs)


def test_manual_plans_take_the_segments_in_the_networks_order():
    plan = manual(cuts=["pool4", "pool2"], kinds=["tiles", "strips", "store"], tiles=[(4, 3), (3, 1), (1, 1)])
    assert [(each.inputs, each.output) for each in plan.segments] == [
        (("input_1",), "pool2"), (("pool2",), "pool4"), (("pool4",), "pool5"),
    ]  # fmt: skip
    assert [(each.kind, each.th, each.tw) for each in plan.segments] == [
        ("tiles", 4, 3), ("strips", 3, 1), ("store", 1, 1),
    ]  # fmt: skip
    rows = plan.segments[1].rows
    assert (rows[0], rows[-1], len(rows)) == (0, 4, 4)
    assert plan.image_shape == SHAPE
    assert Plan.manual(model(), SHAPE[1:]).image_shape == SHAPE


def test_json_is_the_identity():
    plan = manual(cuts=["pool2"], kinds=["strips", "tiles"], tiles=[(5, 1), (2, 3)])
    predicted = dataclasses.replace(
        plan, budget_bytes=10**9, predicted_peak_bytes=10**8, composition={"parameters": 7}, predicted_time_s=0.25,
        predicted_macs={"forward": 3, "recompute": 2, "dgrad": 1, "wgrad": 3}, host_bytes=1, h2d_bytes=2, d2h_bytes=3,
    )  # fmt: skip
    for each in (plan, predicted):
        again = Plan.from_json(each.to_json())
        assert again == each
        assert hash(again.segments) == hash(each.segments)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 1, "segments": [{}]}'])
def test_damaged_json(text):
    with pytest.raises(PlanError, match=r"no plan as Plan.to_json writes it .*write it again"):
        Plan.from_json(text)


def test_json_of_another_version():
    values = json.loads(manual().to_json()) | {"schema_version": 9}
    with pytest.raises(PlanError, match="schema version 9: this frugal reads 1; plan again"):
        Plan.from_json(json.dumps(values))


def test_the_table_has_a_line_a_segment_and_the_peaks_composition():
    plan = manual(cuts=["pool2"], kinds=["strips", "tiles"], tiles=[(5, 1), (2, 3)])
    assert [line.split()[:2] for line in plan.table().splitlines()[1:]] == [["pool2", "strips"], ["pool5", "tiles"]]
    plan = dataclasses.replace(
        plan,
        predicted_peak_bytes=2**21,
        budget_bytes=2**22,
        composition={"one tile": 2**20},
        predicted_macs={"forward": 1000},
    )
    text = str(plan)
    for part in ("5 × 1", "2 × 3", "peak 2.0 of 4.0 MiB", "one tile", "1.0 MiB", "forward 1,000"):
        assert part in text


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"cuts": ["pool9"]}, r"no map 'pool9' to cut at: take one of .*pool5"),
        ({"kinds": ["tiles", "tiles"]}, r"2 kinds, 1 tiles and 1 stacks for 1 segments: .*end in pool5"),
        ({"kinds": ["tile"]}, r"pool5: kind 'tile' is none: take one of store, checkpoint, tiles, strips"),
        ({"tiles": [(3, 1)]}, r"pool5: 3 × 1 windows of 2 × 3 positions"),
        ({"tiles": [(1, 4)]}, r"pool5: 1 × 4 windows of 2 × 3 positions"),
        ({"tiles": [(0, 1)]}, r"pool5: 0 × 1 windows"),
        ({"kinds": ["store"], "tiles": [(2, 1)]}, r"pool5: store in 2 × 1 windows: 1 × 1 it is"),
        ({"kinds": ["strips"], "tiles": [(2, 2)]}, r"pool5: strips in 2 × 2 windows: 2 × 1 it is"),
    ],
)
def test_plans_that_contradict_the_network(kwargs, sentence):
    with pytest.raises(PlanError, match=sentence):
        manual(**kwargs)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rows": (0, 2, 1)}, r"strips cut at \(0, 2, 1\): 3 rising rows from 0 to 2 are needed"),
        ({"boundary": "disk"}, r"boundary 'disk' is none: take one of device, host"),
        ({"output": "pool6"}, r"no map 'pool6' to cut at"),
        ({"output": "pool4"}, r"no segment that ends in pool5, which must be kept whole: plan again"),
    ],
)
def test_plans_are_checked_where_they_are_used(change, sentence):
    segment = dataclasses.replace(Segment(("input_1",), "pool5", "strips", 2, 1, (0, 1, 2)), **change)
    with pytest.raises(PlanError, match=sentence):
        SegmentedSequential(model(), Plan(SHAPE, (segment,)))


def test_a_plan_and_a_budget_exclude_each_other():
    with pytest.raises(PlanError, match="plan and budget_bytes together"):
        SegmentedSequential(model(), manual(), budget_bytes=10**9)


def test_an_image_too_small_for_the_network():
    with pytest.raises(ShapeError, match="take a larger image"):
        Plan.manual(model(), (1, 3, 16, 64))
