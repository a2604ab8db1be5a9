"""The figures of the method: false verdicts stand out, and deviations are those of the definition."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reading_figures import layout_is_sound, words

from frugal import figures
from frugal.figures import method, style
from frugal.figures.method.noise import BETWEEN, INSIDE, scatter

MACHINE = {"machine": "recorded on NVIDIA H200", "recorded": "nvidia-h200"}


def pair(ratio: float, verdict: str | None, **more: object) -> dict:
    return {
        "system": "method", "experiment": "equal", "metric": "time", "regime": "graph", "l2": "resident",
        "ratio": ratio, "ratio_low": ratio - 0.004, "ratio_high": ratio + 0.004, "margin": 0.01, "verdict": verdict,
        "conditional": verdict is None, **MACHINE, **more,
    }  # fmt: skip


def test_equal_counts_false_verdicts_and_names_what_was_planted():
    rows = [pair(1.001, "SAME"), pair(0.999, "INCONCLUSIVE"), pair(1.02, "FASTER")]
    rows.append(pair(1 / 1.02, "SLOWER", system="control", experiment="planted"))
    # a planted pair of a session of another experiment on a machine without equal pairs is not shown
    rows.append(pair(0.5, "SLOWER", system="control", experiment="planted", machine="this machine (x)"))
    _, said = style.described(method.equal(pd.DataFrame(rows)))
    assert "3 equal pairs: 1 FASTER, 1 INCONCLUSIVE, 1 SAME; false verdicts: 1" in said
    assert "planted: planted 0.9804 (SLOWER)" in said
    assert "this machine" not in said


def test_equal_without_verdicts_is_hollow():
    figure = method.equal(pd.DataFrame([pair(1.001, None), pair(0.999, None)]))
    marks = figure.axes[0].collections[-1]
    assert np.allclose(marks.get_facecolor()[0][:3], 1.0)


def nothing_measured() -> dict:
    """Each figure of tables that hold no row of the method."""
    rows, blocks = noisy()
    return {
        "equal": method.equal(pd.DataFrame([pair(1.0, None)]).iloc[:0]),
        "noise": method.noise(rows.iloc[:0], blocks.iloc[:0]),
    }


@pytest.mark.parametrize("name", ["equal", "noise"])
def test_without_data_the_figure_says_what_to_type(name):
    assert "snakemake --workflow-profile method -- figures" in words(nothing_measured()[name])


def noisy() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two sessions of two blocks: ln values 0 and 0.02 | 0.10 and 0.12."""
    key = {"case_id": "c", "arm": "torch", "regime": "cold", "metric": "time", "l2": None}
    rows = [
        {**key, "run_id": run, "system": "method", "experiment": "noise", "value": 1.0, "arm_json": None,
         "axes_json": json.dumps({"op": "matmul"}), **MACHINE}
        for run in ("a", "b")
    ]  # fmt: skip
    blocks = [
        {**key, "run_id": run, "round": number, "value": math.exp(log)}
        for run, logs in (("a", (0.0, 0.02)), ("b", (0.10, 0.12)))
        for number, log in enumerate(logs)
    ]
    return pd.DataFrame(rows), pd.DataFrame(blocks)


def test_deviations_by_hand():
    table = scatter(*noisy())
    (row,) = table.to_dict("records")
    # each session: mean ± 0.01, so a variance of 0.0002 with one degree of freedom; session means 0.01 and 0.11
    assert row[INSIDE] == pytest.approx(math.sqrt(2 * 0.0002 / 2))
    assert row[BETWEEN] == pytest.approx(0.1 / math.sqrt(2))
    assert row["seconds"] == pytest.approx(math.exp(0.06))
    assert (row["label"], row["sessions"]) == ("matmul · cold", 2)


def test_noise_is_said_in_words():
    _, said = style.described(method.noise(*noisy()))
    assert "matmul · cold" in said
    assert "between blocks of a process 1.4 %, between processes 7.1 %" in said


def test_with_recorded_rows_alone_the_note_says_that_nothing_is_measured_here():
    note = "Nothing is measured on this machine yet; to measure, type: snakemake --workflow-profile method -- figures"
    assert note in words(method.equal(pd.DataFrame([pair(1.001, "SAME")])))
    assert note in words(method.noise(*noisy()))
    here = pd.DataFrame([pair(1.001, None, machine="this machine (x)", recorded=None)])
    assert note not in words(method.equal(here))


def test_no_text_leaves_the_figures_of_the_recorded_campaign():
    root = Path(__file__).resolve().parents[3] / "results" / "recorded" / "nvidia-h200"
    frames = figures.load(root / "nothing", [root], blocks_of="method")
    for name in ("method_equal", "method_noise"):
        layout_is_sound(figures.figure(name, frames))
