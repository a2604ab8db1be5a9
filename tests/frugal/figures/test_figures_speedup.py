"""Speed-up by layer: what is drawn equals what the frames hold, in order, labelled, and what is missing is counted."""

import invented_campaigns as invented
import numpy as np
import pytest
from matplotlib.colors import same_color
from reading_figures import bars, marks, points, words
from scipy.stats import gmean

from frugal.figures import cusnn, style


@pytest.fixture(scope="module")
def speedup(both):
    return cusnn.layer_speedup(both.comparisons, both.measurements)


def batch_of(both, n, machine="nvidia-h200"):
    """The comparisons of a machine and batch with their layer's place in depth."""
    cases = both.measurements.drop_duplicates("case_id")[["case_id", "n", "network", "layer"]]
    pairs = both.comparisons.merge(cases, on="case_id")
    own = pairs["recorded"].isna() if machine is None else pairs["recorded"] == machine
    return pairs[(pairs["n"] == n) & own].assign(place=lambda rows: rows["layer"].str[4:].astype(int))


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
