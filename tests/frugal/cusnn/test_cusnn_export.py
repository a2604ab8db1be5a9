"""Times of layers in the line format of the paper's artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from frugal.cusnn import export
from frugal.errors import FrugalError


def row(arm: str, value: float | None, layer: int = 0, session: int = 0, **more) -> dict:
    return {
        "experiment": "layers", "metric": "time", "status": "ok", "network": "resnet50", "n": 1, "c": 64 * (layer + 1),
        "h": 56, "w": 56, "k": 64, "r": 3, "stride": 1, "case_id": f"layer {layer}", "arm": arm, "regime": "graph",
        "l2": "resident", "session": session, "value": value, "axes_json": json.dumps({"layer_index": layer}),
        "device_key": "here",
    } | more  # fmt: skip


LAYER = [
    row("cudnn_fp32", 30e-6), row("cudnn_fp32_cl", 20e-6), row("cudnn_tf32", 8.25e-6), row("sparse", 4e-6),
    row("dense_twin", 5e-6),
]  # fmt: skip


def lines(rows: list[dict], network: str = "resnet50", batch: int = 1, device: str | None = "here") -> list[str]:
    return export.export(pd.DataFrame(rows), network, batch, device)[0].splitlines()


def test_a_line_is_a_layer_in_milliseconds_and_what_was_not_measured_is_empty():
    # t1: the faster layout; t2: no matrix product was measured
    assert lines(LAYER) == ["1, 64, 56, 56, 64, 0.02, , 0.00825, 0.004"]


def test_layers_stand_in_the_order_of_the_network():
    moved = [row(one["arm"], one["value"], layer=layer) for layer in (10, 2) for one in LAYER]
    assert [line.split(", ")[1] for line in lines(moved)] == ["192", "704"]


def test_sessions_are_joined_by_their_geometric_mean():
    both = [*LAYER, row("sparse", 16e-6, session=1)]
    assert lines(both)[0].endswith(", 0.008")


def test_of_the_regimes_the_first_with_both_sides_is_taken():
    hot = [one | {"regime": "hot", "l2": None, "value": 2 * one["value"]} for one in LAYER]
    only_ours = [one for one in LAYER if one["arm"] == "sparse"]
    assert lines([*only_ours, *hot]) == ["1, 64, 56, 56, 64, 0.04, , 0.0165, 0.008"]
    assert lines([*hot, *LAYER]) == lines(LAYER)


@pytest.mark.parametrize(
    "other", [{"r": 1}, {"stride": 2}, {"network": "resnet101"}, {"n": 8}, {"device_key": "there"}, {"status": "oom"}]
)
def test_only_three_by_three_layers_of_this_network_batch_and_machine(other: dict):
    assert lines([*LAYER, row("sparse", 1e-6, **other)]) == lines(LAYER)


def test_nothing_measured_ends_in_a_sentence():
    with pytest.raises(FrugalError, match="no 3×3 layer of resnet50 was timed with batch 8"):
        lines(LAYER, batch=8)
    with pytest.raises(FrugalError, match="run again"):
        lines([row("sparse", 1e-6)])  # nothing to compare it with


def test_what_the_fields_are_stands_beside_the_lines(tmp_path: Path):
    export.write(pd.DataFrame(LAYER), "resnet50", 1, "here", tmp_path / "layers.csv")
    assert (tmp_path / "layers.csv").read_text().splitlines() == lines(LAYER)
    said = json.loads((tmp_path / "layers.json").read_text())
    assert said["columns"] == ["B", "C", "H", "W", "N", "t1", "t2", "t3", "t4"]
    assert (said["unit"], said["regime"], said["l2"], said["network"], said["batch"]) == (
        "ms", "graph", "resident", "resnet50", 1,
    )  # fmt: skip
    assert said["arms"]["t4"] == "the fastest of sparse"
    assert said["empty"] == "not measured"
