"""Roofline and sparsity draw what the frames hold; every figure copes with nothing, with failures, with its layout."""

import invented_campaigns as invented
import invented_experiments as experiments
import numpy as np
import pandas as pd
import pytest
from reading_figures import layout_is_sound, marks, points, words

from frugal import figures
from frugal.figures import cusnn, told
from frugal.figures.cusnn import layers

EXPERIMENT = {
    "cusnn_break_even": "break_even", "cusnn_ladder": "ladder", "cusnn_end_to_end": "networks",
    "cusnn_energy": "networks",
}  # fmt: skip
CUSNN = [name for name in figures.NAMES if name.startswith("cusnn_")]

# ---- roofline --------------------------------------------------------------------------------------------------------


def test_roofline_marks_are_roofline_and_measured_time(both):
    (axes,) = cusnn.roofline(both.measurements, both.runs).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    rows = both.measurements.query("arm == 'sparse' and status == 'ok'")
    for recorded in (False, True):
        own = rows[rows["recorded"].notna() == recorded]
        found = [c for c in axes.collections if c.get_label() == "sparse" and len(c.get_offsets()) == len(own)]
        assert len(found) == 1
        drawn = np.asarray(found[0].get_offsets())
        order = np.lexsort(drawn.T)
        stored = own[["roofline_s", "value"]].to_numpy()
        assert np.allclose(drawn[order], stored[np.lexsort(stored.T)])
        assert (found[0].get_facecolor().size == 0) == recorded  # hollow: recorded; filled: this machine


def test_lines_mark_shares_of_the_roofline(both):
    (axes,) = cusnn.roofline(both.measurements, both.runs).axes
    shares = sorted(float((line.get_xdata() / line.get_ydata())[0]) for line in axes.get_lines())
    assert np.allclose(shares, [0.01, 0.1, 0.5, 1.0])
    assert {"100%", "50%", "10%"} <= {text.get_text() for text in axes.texts}


def one_arm(tmp_path, *, runs=(), **over):
    """Frames of one layer and arm with these columns."""

    def campaign(folder):
        (row, *_), _ = invented.timing("A", invented.SMOKE_SHAPES[:1], invented.CPU_BASELINES, [1], unit_s=9e-4)
        rows = [row | over | {"run_id": run["run_id"]} for run in runs]
        for session, (row, run) in enumerate(zip(rows, runs, strict=True)):
            row["session"] = session
            row["value"] = run.pop("value", row["value"])
        invented.write(folder, rows, (), list(runs))

    return invented.frames(tmp_path, local=campaign)


@pytest.mark.parametrize(
    ("regime", "l2", "dtype", "tf32", "expected"),
    [
        ("cold", None, "float32", False, 8e6 / 1e10),  # memory is slower than 4e6 / 1e11
        ("graph", "rotated", "float32", False, 8e6 / 1e10),
        ("graph", "resident", "float32", False, 4e6 / 1e11),  # data stay in cache: no memory roof
        ("graph", "resident", "float32", True, 4e6 / 4e11),
    ],
)
def test_a_missing_roofline_follows_from_the_runs_ceilings(tmp_path, regime, l2, dtype, tf32, expected):
    run = invented.run("A", "cpu", copy_bytes_per_s=1e10, flops_fp32=1e11, flops_tf32=4e11)
    frames = one_arm(
        tmp_path, runs=[run], roofline_s=None, flop=4e6, bytes_min=8e6, regime=regime, l2=l2, dtype=dtype, tf32=tf32
    )
    (axes,) = cusnn.roofline(frames.measurements, frames.runs).axes
    assert points(axes, "sparse")[0, 0] == pytest.approx(expected, rel=1e-12)


def test_without_ceilings_the_figure_says_what_is_missing(tmp_path):
    run = invented.run("A", "cpu", copy_bytes_per_s=None)
    frames = one_arm(tmp_path, runs=[run], roofline_s=None, regime="cold", l2=None)
    assert "no row has a roofline" in words(cusnn.roofline(frames.measurements, frames.runs))


def test_sessions_are_joined_by_their_geometric_mean(tmp_path):
    runs = [invented.run("A", "cpu") | {"value": 1e-3}, invented.run("B", "cpu") | {"value": 4e-3}]
    frames = one_arm(tmp_path, runs=runs, roofline_s=5e-4)
    (axes,) = cusnn.roofline(frames.measurements, frames.runs).axes
    assert points(axes, "sparse") == pytest.approx(np.array([[5e-4, 2e-3]]))
    assert "ours: sparse (25%)" in words(axes.figure)


def test_roofline_says_whose_weights_are_random(tmp_path, both):
    assert "random weights" not in words(cusnn.roofline(both.measurements, both.runs))
    frames = one_arm(tmp_path, runs=[invented.run("A", "cpu")], arm_json='{"weights": "random"}')
    network = told.pretty(frames.measurements["network"].iloc[0])
    assert f"random weights in {network}, drawn" in words(cusnn.roofline(frames.measurements, frames.runs))


def test_pairs_that_roofline_leaves_out_are_counted(both):
    said = words(cusnn.roofline(both.measurements, both.runs))
    assert "Recorded on NVIDIA H200: 10 of 960 pairs of case and arm not drawn: 5 incorrect, 5 unsupported." in said


# ---- sparsity --------------------------------------------------------------------------------------------------------


def test_sparsity_draws_mean_and_band_of_every_layer(both):
    figure = cusnn.sparsity(both.measurements)
    rows = both.measurements.query("metric == 'sparsity' and network == 'resnet50' and r == 3")
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith("ResNet-50")]
    depth = rows["layer"].str[4:].astype(float)
    assert np.allclose(np.asarray(marks(axes, "3×3").get_offsets()), np.column_stack([depth, rows["value"]]))
    (band,) = [
        c for c in axes.collections if c.get_label() == "3×3" and type(c).__name__ == "FillBetweenPolyCollection"
    ]
    outline = {tuple(np.round(vertex, 12)) for vertex in band.get_paths()[0].vertices}
    for bound in ("min", "max"):
        assert {tuple(np.round(pair, 12)) for pair in zip(depth, rows[bound], strict=True)} <= outline


def test_estimates_are_hollow_and_only_where_rows_carry_them(both):
    figure = cusnn.sparsity(both.measurements)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    with_rows = panels["DenseNet-169 · 32 photographs\nrecorded on NVIDIA H200"]
    estimate = marks(with_rows, "3×3 estimate")
    stored = both.measurements.query("arm == 'bn_closed_form'")["value"]
    assert np.allclose(np.asarray(estimate.get_offsets())[:, 1], stored)
    assert estimate.get_facecolor().size == 0
    without = panels["ResNet-50 · 32 photographs\nrecorded on NVIDIA H200"]
    assert not [c for c in without.collections if c.get_label().endswith("estimate")]


def test_random_weights_are_said_where_they_are_and_only_there(both):
    titles = [axes.get_title(loc="left") for axes in cusnn.sparsity(both.measurements).axes]
    assert [("random weights" in title) for title in titles] == [True, False, False]
    assert titles[0] == "DenseNet-169 · random weights · 32 photographs\nthis machine (Intel Xeon 8481C, 2 threads)"


def test_a_second_session_does_not_double_a_layer(both):
    again = both.measurements.query("metric == 'sparsity'")
    figure = cusnn.sparsity(pd.concat([again, again.assign(session=1)]))
    assert len(marks(figure.axes[0], "1×1").get_offsets()) == 83


# ---- nothing, failures, labels, layout -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CUSNN)
def test_without_data_a_figure_says_so_and_what_to_type(name, tmp_path):
    said = words(figures.figure(name, invented.frames(tmp_path, local=None)))
    assert "yet, neither on this machine nor in a recorded campaign." in said
    assert said.endswith(layers.command(EXPERIMENT[name]) if name in EXPERIMENT else layers.COMMAND)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cusnn_sparsity", "53 of 53 layers not drawn: 27 incorrect, 26 unsupported."),
        ("cusnn_layer_speedup", "8 of 8 cases not drawn: 4 incorrect, 4 unsupported."),
        ("cusnn_roofline", "8 of 8 cases not drawn: 4 incorrect, 4 unsupported."),
    ],
)
def test_when_everything_failed_a_figure_says_how_and_why(name, counts, tmp_path):
    said = words(figures.figure(name, invented.frames(tmp_path, local=invented.everything_failed)))
    assert counts in said
    assert "Reasons in the records: why" in said


@pytest.mark.parametrize("name", CUSNN)
def test_with_recorded_rows_alone_the_note_says_that_nothing_is_measured_here(name, tmp_path):
    said = words(figures.figure(name, invented.frames(tmp_path, local=None, recorded=experiments.everything)))
    command = layers.command(EXPERIMENT[name]) if name in EXPERIMENT else layers.COMMAND
    assert f"Nothing is measured on this machine yet; to measure, type: {command}" in said


@pytest.mark.parametrize(
    ("layer", "label"),
    [
        ({"c": 128, "h": 28, "k": 32, "r": 3, "s": 3, "stride": 1}, "128,28→32"),
        ({"c": 128, "h": 56, "k": 128, "r": 3, "s": 3, "stride": 2}, "128,56→128 /2"),
        ({"c": 64.0, "h": 56.0, "k": 256.0, "r": 1.0, "s": 1.0, "stride": np.nan}, "1×1 64,56→256"),
    ],
)
def test_a_shape_in_short(layer, label):
    assert layers.shape(pd.Series(layer)) == label


def test_layers_without_an_index_are_ordered_by_their_names_numbers():
    rows = pd.DataFrame(
        {"layer": ["conv10", "conv9", "conv1_b"], "system": "cusnn", "experiment": "layers", "metric": "time",
         "network": "n", "regime": "hot", "l2": None, "value": 1.0, "axes_json": "{}", "arm_json": None}
    )  # fmt: skip
    assert layers.in_order(layers.of(rows, "layers", "time"))["layer"].tolist() == ["conv1_b", "conv9", "conv10"]


@pytest.mark.parametrize("name", CUSNN)
def test_no_text_leaves_the_figure_and_no_labels_overlap(name, every):
    layout_is_sound(figures.figure(name, every))


@pytest.mark.parametrize("name", ["cusnn_sparsity", "cusnn_layer_speedup", "cusnn_layer_time", "cusnn_roofline"])
def test_neither_do_they_with_a_hundred_layers(name, both):
    layout_is_sound(figures.figure(name, both))
