"""cuSNN's figures: what is drawn equals what the frames hold, in order, labelled, and what is missing is counted."""

from itertools import pairwise

import invented_campaigns as invented
import numpy as np
import pandas as pd
import pytest
from frugal import figures
from frugal.figures import cusnn, style
from frugal.figures.cusnn import layers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from scipy.stats import gmean


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A smoke campaign on a CPU beside a recorded one of 96 layers."""
    return invented.frames(tmp_path_factory.mktemp("both"), recorded=invented.h200)


@pytest.fixture(scope="module")
def speedup(both):
    return cusnn.layer_speedup(both.comparisons, both.measurements)


def points(axes, label):
    """(x, y) of all marks of a label, sorted by x."""
    found = [c.get_offsets() for c in axes.collections if c.get_label() == label and len(c.get_offsets())]
    marks = np.concatenate([np.asarray(f) for f in found if f.any()] or [np.empty((0, 2))])
    return marks[np.argsort(marks[:, 0], kind="stable")]


def marks(axes, label):
    """The collection of marks (not bars, not bands) of a label."""
    (found,) = [c for c in axes.collections if c.get_label() == label and type(c).__name__ == "PathCollection"]
    return found


def bars(axes, label):
    """(x, low, high) of the bars of a label."""
    (found,) = [c for c in axes.collections if c.get_label() == label and type(c).__name__ == "LineCollection"]
    return np.array([(s[0][0], *sorted((s[0][1], s[1][1]))) for s in found.get_segments()]), found


def words(figure):
    """All texts of a figure, as one line with plain spaces."""
    found = [text.get_text() for axes in figure.axes for text in [axes.title, axes._left_title, *axes.texts]]
    found += [text.get_text() for legend in figure.legends for text in [legend.get_title(), *legend.get_texts()]]
    found.append(figure.get_supxlabel())
    return " ".join(" ".join(found).replace("\N{NO-BREAK SPACE}", " ").split())


def batch_of(both, n, machine="nvidia-h200"):
    """The comparisons of a machine and batch with their layer's place in depth."""
    cases = both.measurements.drop_duplicates("case_id")[["case_id", "n", "network", "layer"]]
    pairs = both.comparisons.merge(cases, on="case_id")
    own = pairs["recorded"].isna() if machine is None else pairs["recorded"] == machine
    return pairs[(pairs["n"] == n) & own].assign(place=lambda rows: rows["layer"].str[4:].astype(int))


# ---- speed-up by layer -----------------------------------------------------------------------------------------------


def test_one_panel_a_machine_and_batch_this_machine_first(speedup):
    titles = [axes.get_title(loc="left").split("\n")[0] for axes in speedup.axes]
    assert titles == [
        "this machine (Intel Xeon 8481C, 2 threads) · batch 1 · regime cold",
        "this machine (Intel Xeon 8481C, 2 threads) · batch 2 · regime cold",
        "recorded on NVIDIA H200 · batch 1 · regime graph, L2 resident",
        "recorded on NVIDIA H200 · batch 8 · regime graph, L2 resident",
    ]


@pytest.mark.parametrize(("panel", "batch"), [(2, 1), (3, 8)])
@pytest.mark.parametrize("baseline", invented.GPU_BASELINES)
def test_marks_and_bars_are_the_stored_ratios_and_bounds(speedup, both, panel, batch, baseline):
    axes = speedup.axes[panel]
    stored = batch_of(both, batch).query("baseline == @baseline").sort_values("place")
    drawn = points(axes, baseline)
    assert np.allclose(drawn[:, 1], stored["ratio"], rtol=1e-12)
    assert np.array_equal(np.round(drawn[:, 0]), stored["place"])
    ends, _ = bars(axes, baseline)
    assert np.allclose(ends[:, 1:], stored[["ratio_low", "ratio_high"]], rtol=1e-12)
    assert np.allclose(ends[:, 0], drawn[:, 0])


def test_the_line_follows_the_best_baseline_of_each_layer(speedup, both):
    axes = speedup.axes[3]
    line = np.concatenate([line.get_xydata() for line in axes.get_lines() if line.get_label() == "best baseline"])
    line = line[np.argsort(line[:, 0])]
    assert np.allclose(line[:, 1], batch_of(both, 8).groupby("place")["ratio"].min())
    every = {tuple(mark) for name in invented.GPU_BASELINES for mark in points(axes, name)}
    assert {tuple(mark) for mark in line} <= every


def test_the_scale_is_logarithmic_with_a_line_at_one_and_room_for_every_mark(speedup):
    for axes in speedup.axes:
        assert axes.get_yscale() == "log"
        assert any(np.array_equal(line.get_ydata(), [1, 1]) for line in axes.get_lines())
        low, high = axes.get_ylim()
        drawn = np.concatenate([points(axes, name) for name in style.LOOKS])
        assert len(drawn)
        assert ((low < drawn[:, 1]) & (drawn[:, 1] < high)).all()


def test_layers_stand_by_network_and_depth_whatever_the_order_of_rows(both, speedup):
    shuffled = both.measurements.sample(frac=1, random_state=3), both.comparisons.sample(frac=1, random_state=4)
    again = cusnn.layer_speedup(shuffled[1], shuffled[0])
    for one, two in zip(speedup.axes, again.axes, strict=True):
        for name in style.LOOKS:
            assert np.allclose(points(one, name), points(two, name))
    networks = [t.get_text() for t in speedup.axes[2].child_axes[0].get_xticklabels()]
    assert networks == ["DenseNet-169 (82)", "ResNet-50 (14)"]


def test_equal_neighbours_share_a_readable_label(speedup):
    labels = [label.get_text() for label in speedup.axes[3].get_xticklabels()]
    dense = [f"128,{height}→32" for height in (56, 28, 14, 7)]
    assert labels == [*dense, "64,56→64", "128,28→128", "256,14→256", "512,7→512"]


@pytest.mark.parametrize(("panel", "batch", "layers_drawn"), [(2, 1, 94), (3, 8, 96)])
def test_the_panel_gives_the_geometric_mean_a_baseline(speedup, both, panel, batch, layers_drawn):
    said = speedup.axes[panel].get_title(loc="left").replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    assert f"geometric mean over {layers_drawn} layers" in said
    pairs = batch_of(both, batch)
    for name in invented.GPU_BASELINES:
        assert f"{style.times(gmean(pairs.query('baseline == @name')['ratio']))} {style.LOOKS[name].label}" in said
    assert f"{style.times(gmean(pairs.query('best_baseline')['ratio']))} the best of them" in said
    assert "exp of the mean of ln(speed-up)" in words(speedup)


def test_one_session_is_hollow_dotted_and_said(speedup):
    said = "one session: ranges are min–max of rounds, no verdict"
    conditional, judged = speedup.axes[0], speedup.axes[2]
    assert said in conditional.get_title(loc="left")
    assert said not in judged.get_title(loc="left")
    assert same_color(marks(conditional, "onednn_fp32").get_facecolor()[0], style.PAPER)
    assert same_color(marks(judged, "cudnn_fp32").get_facecolor()[0], style.LOOKS["cudnn_fp32"].colour)
    assert bars(conditional, "onednn_fp32")[1].get_linestyle()[0][1] is not None
    assert bars(judged, "cudnn_fp32")[1].get_linestyle()[0][1] is None


def test_bounds_that_are_not_stored_are_not_drawn(both):
    bare = both.comparisons.assign(ratio_low=np.nan, ratio_high=np.nan)
    axes = cusnn.layer_speedup(bare, both.measurements).axes[2]
    assert len(bars(axes, "cudnn_fp32")[0]) == 0
    assert len(points(axes, "cudnn_fp32")) == 94


def test_cases_without_a_mark_are_counted_by_status(speedup, tmp_path):
    assert "Recorded on NVIDIA H200: 2 of 192 cases not drawn: 1 incorrect, 1 unsupported." in words(speedup)

    def gaps(folder):
        timed, pairs = invented.timing("B", invented.DISTINCT_SHAPES, invented.GPU_BASELINES, [1])
        one = pairs[0]["case_id"]
        timed = [
            invented.fail(row, "unsupported", "no") if (row["case_id"], row["arm"]) == (one, "cudnn_tf32") else row
            for row in timed
        ]
        pairs = [pair for pair in pairs if (pair["case_id"], pair["baseline"]) != (one, "cudnn_tf32")]
        invented.write(folder, timed, pairs, [invented.run("B", "cuda")])

    frames = invented.frames(tmp_path, local=gaps)
    said = words(cusnn.layer_speedup(frames.comparisons, frames.measurements))
    assert "baselines missing in drawn cases: cuDNN TF32 1 unsupported." in said
    assert "not drawn" not in said
    assert "geometric mean over the layers drawn (number)" in said
    assert "cuDNN TF32 (7)" in said


def test_a_shape_counts_as_often_as_its_network_has_it(both):
    counts = dict.fromkeys(both.measurements["case_id"], 1)
    pairs = batch_of(both, 1).query("baseline == 'cudnn_fp32'")
    counts |= {pairs["case_id"].iloc[0]: 50, pairs["case_id"].iloc[1]: 30}
    measured = both.measurements.assign(
        arm_json=[f'{{"layers_of_shape": {counts[case]}}}' for case in both.measurements["case_id"]]
    )
    said = words(cusnn.layer_speedup(both.comparisons, measured))
    weighted = gmean(pairs["ratio"], weights=[counts[case] for case in pairs["case_id"]])
    assert f"geometric mean over 172 layers: {style.times(weighted)} cuDNN fp32" in said


def test_of_two_layouts_of_a_library_the_better_one_is_drawn(tmp_path):
    def campaign(folder):
        baselines = {"onednn_fp32": 2.0, "onednn_fp32_cl": 2.0}
        timed, pairs = invented.timing("B", invented.DISTINCT_SHAPES, baselines, [1])
        invented.write(folder, timed, pairs, [invented.run("B", "cuda")])

    frames = invented.frames(tmp_path, local=campaign)
    stored = batch_of(frames, 1, machine=None).pivot(index="place", columns="baseline", values="ratio")
    assert 0 < (stored["onednn_fp32"] < stored["onednn_fp32_cl"]).sum() < len(stored)
    (axes,) = cusnn.layer_speedup(frames.comparisons, frames.measurements).axes
    assert np.allclose(points(axes, "onednn_fp32")[:, 1], stored.min(axis=1))
    assert len(points(axes, "onednn_fp32_cl")) == 0

    times = frames.measurements[frames.measurements["arm"].str.startswith("onednn")].groupby("case_id")["value"].min()
    (axes,) = cusnn.roofline(frames.measurements, frames.runs).axes
    assert np.allclose(np.sort(points(axes, "onednn_fp32")[:, 1]), np.sort(times))


def test_each_machine_is_drawn_in_the_regime_that_most_baselines_share(tmp_path):
    def campaign(folder):
        cold = invented.timing(
            "A", invented.SMOKE_SHAPES, {"onednn_fp32": 2, "gemm_fp32": 3}, [1], regime="cold", l2=None
        )
        graph = invented.timing("A", invented.SMOKE_SHAPES, {"gemm_fp32": 3}, [1])
        wall = invented.timing(
            "A", invented.SMOKE_SHAPES, {"onednn_fp32": 2, "gemm_fp32": 3}, [1], regime="wall", l2=None
        )
        parts = (cold, graph, wall)
        pairs = [pair | {"device_key": "cpu-xeon-2c"} for part in parts for pair in part[1]]
        invented.write(folder, [row for part in parts for row in part[0]], pairs, [invented.run("A", "cpu")])

    frames = invented.frames(tmp_path, local=campaign)
    (axes,) = cusnn.layer_speedup(frames.comparisons, frames.measurements).axes
    assert axes.get_title(loc="left").split("\n")[0].endswith("regime cold")
    assert len(points(axes, "gemm_fp32")) == 3


def test_layers_of_a_random_network_are_said_to_be_such(both):
    assert "random weights" not in words(cusnn.layer_speedup(both.comparisons, both.measurements))
    random = both.measurements.assign(arm_json='{"weights": "random"}')
    assert "batch 1 · regime cold · random weights" in words(cusnn.layer_speedup(both.comparisons, random))


def test_marks_of_one_layer_stand_beside_each_other(speedup):
    at = [points(speedup.axes[2], name)[:, 0] for name in invented.GPU_BASELINES]
    assert (np.diff(np.stack(at), axis=0) > 0.1).all()


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


@pytest.mark.parametrize("name", figures.NAMES)
def test_without_data_a_figure_says_so_and_what_to_type(name, tmp_path):
    said = words(figures.figure(name, invented.frames(tmp_path, local=None)))
    assert "yet, neither on this machine nor in a recorded campaign." in said
    assert said.endswith("snakemake --cores all cusnn")


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


@pytest.mark.parametrize("name", figures.NAMES)
def test_with_recorded_rows_alone_the_note_says_that_nothing_is_measured_here(name, tmp_path):
    said = words(figures.figure(name, invented.frames(tmp_path, local=None, recorded=invented.h200)))
    assert "Nothing is measured on this machine yet; to measure, type: snakemake --cores all cusnn" in said


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
        {"layer": ["conv10", "conv9", "conv1_b"], "system": "cusnn", "metric": "time", "network": "n",
         "axes_json": "{}", "arm_json": None}
    )  # fmt: skip
    assert layers.in_order(layers.of(rows, "time"))["layer"].tolist() == ["conv1_b", "conv9", "conv10"]


@pytest.mark.parametrize("name", figures.NAMES)
def test_no_text_leaves_the_figure_and_no_labels_overlap(name, both):
    figure = figures.figure(name, both)
    with style.context():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    renderer = canvas.get_renderer()
    whole = figure.bbox.padded(2)
    for axes in figure.axes:
        texts = [t for t in [axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts] if t.get_text()]
        low, high = axes.get_xlim()
        ticks = [t for t in axes.get_xticklabels() if t.get_text() and low <= t.get_position()[0] <= high]
        for text in texts + ticks:
            box = text.get_window_extent(renderer)
            assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, text
            assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, text
        boxes = [t.get_window_extent(renderer) for t in ticks if axes.xaxis.get_tick_params().get("labelbottom", True)]
        for left, right in pairwise(boxes):
            assert not left.overlaps(right), (axes.get_title(loc="left"), left, right)
    (legend,) = figure.legends
    top = max(axes.get_tightbbox(renderer).y1 for axes in figure.axes)
    assert legend.get_window_extent(renderer).y0 >= top - 1
