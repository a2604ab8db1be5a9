"""Frames: both campaigns side by side, labelled, whatever is missing."""

import invented_campaigns as invented
import pandas as pd
import pytest

from frugal import records
from frugal.errors import FrugalError
from frugal.figures import frames


def test_recorded_rows_stand_beside_this_machines_and_say_so(tmp_path):
    both = invented.frames(tmp_path, recorded=invented.h200)
    labels = both.measurements.groupby("run_id")[["recorded", "machine", "device_key"]].first()
    assert pd.isna(labels.loc["A", "recorded"])
    assert labels.loc["A", "machine"] == "this machine (Intel Xeon 8481C, 2 threads)"
    assert labels.loc["B"].tolist() == ["nvidia-h200", "recorded on NVIDIA H200", "nvidia-h200-9.0-132sm"]
    assert set(both.comparisons["machine"]) == set(labels["machine"])
    assert frames.in_machine_order(both.measurements) == labels.loc[["A", "B"], "machine"].tolist()


def test_no_row_is_lost_or_doubled_by_the_labels(tmp_path):
    both = invented.frames(tmp_path, recorded=invented.h200)
    for name in frames.TABLES:
        stored = [
            records.read(folder / f"{name}.parquet", name).num_rows
            for folder in (tmp_path / "results", tmp_path / "results/recorded/nvidia-h200")
        ]
        assert len(getattr(both, name)) == sum(stored)


def test_without_any_file_the_frames_are_empty_but_have_their_columns(tmp_path):
    empty = frames.load(tmp_path / "nothing")
    for name in frames.TABLES:
        frame = getattr(empty, name)
        assert frame.empty
        assert {*records.SCHEMAS[name].names, "recorded", "machine"} <= set(frame.columns)


def test_a_recorded_campaign_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FrugalError, match="nvidia-h300: there is no such recorded campaign"):
        frames.load(tmp_path, [tmp_path / "nvidia-h300"])


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"device_kind": "cuda", "gpu_name": "Tesla V100"}, "this machine (Tesla V100)"),
        ({"device_kind": "cuda", "gpu_name": None, "recorded": "x"}, "recorded on key"),
        ({"device_kind": "cpu", "cpu_model": "Old CPU", "threads": 1}, "this machine (Old CPU, 1 thread)"),
        ({"device_kind": "cpu", "cpu_model": None}, "this machine (key)"),
    ],
)
def test_a_machine_in_words(run, words):
    assert frames.machine(pd.Series({"recorded": None, "device_key": "key", **run})) == words


def test_an_axis_is_looked_up_in_the_axes_first_and_then_in_the_arms_settings():
    rows = pd.DataFrame(
        {
            "axes_json": ['{"index": 0}', "{}", None],
            "arm_json": ['{"index": 7}', '{"index": 7}', None],
        }
    )
    assert frames.axis(rows, "index").tolist() == [0, 7, None]
