"""Speed-up by layer shape: what is drawn equals what the frames hold, in order; what is missing is counted."""

import invented_campaigns as invented
import numpy as np
import pytest
from matplotlib.colors import same_color
from reading_figures import bars, marks, points, words
from scipy.stats import gmean

from frugal.figures import cusnn, published, style

PUBLISHED = published.load("cusnn")
SHAPE = ["network", "r", "c", "h", "k"]


def draw(frames):
    return cusnn.layer_speedup(frames.comparisons, frames.measurements, PUBLISHED)


@pytest.fixture(scope="module")
def speedup(both):
    return draw(both)


def stored(frames, arm, n, machine="nvidia-h200", baseline="cudnn_fp32"):
    """The comparisons of an arm of ours with the fp32 baseline on a machine at a batch, with their case's shape."""
    cases = frames.measurements.drop_duplicates("case_id")[["case_id", "n", "layer", *SHAPE]]
    pairs = frames.comparisons.query("candidate == @arm and baseline == @baseline").merge(cases, on="case_id")
    own = pairs["recorded"].isna() if machine is None else pairs["recorded"] == machine
    return pairs[(pairs["n"] == n) & own]


def of_shapes(pairs):
    """Mean, least and greatest ratio of each shape, in the order of depth (the invented layers' names have it)."""
    pairs = pairs.assign(place=pairs["layer"].str[4:].astype(int))
    return pairs.groupby(SHAPE).agg(
        place=("place", "min"), ratio=("ratio", gmean), low=("ratio", "min"), high=("ratio", "max")
    ).sort_values("place")  # fmt: skip


def test_one_panel_a_machine_and_batch_this_machine_first(speedup):
    titles = [axes.get_title(loc="left").split("\n")[0] for axes in speedup.axes]
    assert titles == [
        "this machine (Intel Xeon 8481C, 2 threads) · batch 1 · regime cold",
        "this machine (Intel Xeon 8481C, 2 threads) · batch 2 · regime cold",
        "recorded on NVIDIA H200 · batch 1 · regime graph, L2 resident",
        "recorded on NVIDIA H200 · batch 8 · regime graph, L2 resident",
    ]


@pytest.mark.parametrize(("panel", "batch"), [(2, 1), (3, 8)])
@pytest.mark.parametrize("arm", ["sparse", "dense_twin"])
def test_ours_is_the_stored_ratio_over_fp32_joined_by_shape(speedup, both, panel, batch, arm):
    expected = of_shapes(stored(both, arm, batch))
    drawn = points(speedup.axes[panel], arm)
    assert np.allclose(drawn[:, 1], expected["ratio"], rtol=1e-12)
    assert np.array_equal(np.round(drawn[:, 0]), np.arange(len(expected)))
    ends, _ = bars(speedup.axes[panel], arm)
    several = expected["low"] < expected["high"]
    assert several.sum() >= 7
    assert np.allclose(ends[several.to_numpy(), 1:], expected.loc[several, ["low", "high"]], rtol=1e-12)


def test_a_shape_with_one_case_has_its_stored_interval(tmp_path):
    def campaign(folder):
        timed, pairs = invented.timing("B", invented.DISTINCT_SHAPES, invented.GPU_BASELINES, [1], conditional=False)
        invented.write(folder, timed, pairs, [invented.run("B", "cuda")])

    frames = invented.frames(tmp_path, local=campaign)
    (axes,) = draw(frames).axes
    expected = stored(frames, "sparse", 1, machine=None).sort_values("layer")
    drawn, lines = bars(axes, "sparse")
    assert np.allclose(drawn[:, 1:], expected[["ratio_low", "ratio_high"]], rtol=1e-12)
    assert np.allclose(points(axes, "sparse")[:, 1], expected["ratio"], rtol=1e-12)
    assert lines.get_linestyle()[0][1] is None
    assert len(bars(axes, "cudnn_tf32")[0]) == 0  # a baseline over another has no stored interval


@pytest.mark.parametrize("arm", ["cudnn_tf32", "cudnn_fp16_cl"])
def test_other_systems_are_quotients_of_the_values(speedup, both, arm):
    rows = both.measurements.query("recorded == 'nvidia-h200' and experiment == 'layers' and n == 8")
    times = rows[rows["status"] == "ok"].pivot(index="case_id", columns="arm", values="value")
    cases = rows.drop_duplicates("case_id").set_index("case_id")
    ratios = cases.assign(ratio=times["cudnn_fp32"] / times[arm], place=cases["layer"].str[4:].astype(int))
    expected = ratios.groupby(SHAPE).agg(ratio=("ratio", gmean), place=("place", "min")).sort_values("place")
    assert np.allclose(points(speedup.axes[3], arm)[:, 1], expected["ratio"], rtol=1e-9)


def test_the_dense_library_in_fp32_is_the_line_at_one_and_no_mark(speedup):
    for axes in speedup.axes:
        assert axes.get_yscale() == "log"
        assert any(np.array_equal(line.get_ydata(), [1, 1]) for line in axes.get_lines())
        assert len(points(axes, "cudnn_fp32")) == len(points(axes, "onednn_fp32")) == 0
        low, high = axes.get_ylim()
        drawn = np.concatenate([points(axes, name) for name in style.LOOKS])
        assert len(drawn)
        assert ((low < drawn[:, 1]) & (drawn[:, 1] < high)).all()


def test_shapes_stand_by_network_and_depth_whatever_the_order_of_rows(both, speedup):
    shuffled = both.measurements.sample(frac=1, random_state=3), both.comparisons.sample(frac=1, random_state=4)
    again = cusnn.layer_speedup(shuffled[1], shuffled[0], PUBLISHED)
    for one, two in zip(speedup.axes, again.axes, strict=True):
        for name in style.LOOKS:
            assert np.allclose(points(one, name), points(two, name))
    networks = [t.get_text() for t in speedup.axes[2].child_axes[0].get_xticklabels()]
    assert networks == ["DenseNet-169 (4)", "ResNet-50 (4)"]
    labels = [label.get_text().replace("\n", "") for label in speedup.axes[3].get_xticklabels()]
    dense = [f"128,{height}→32" for height in (56, 28, 14, 7)]
    assert labels == [*dense, "64,56→64", "128,28→128", "256,14→256", "512,7→512"]


def test_filters_of_3x3_stand_before_1x1_and_have_a_mean_of_their_own(speedup):
    labels = [label.get_text().replace("\n", "") for label in speedup.axes[1].get_xticklabels()]
    assert labels == ["128,14→32", "1×1 256,14→128", "256,14→256"]  # by network first
    said = speedup.axes[1].get_title(loc="left").replace("\N{NO-BREAK SPACE}", " ")
    assert "geometric mean over 1 layer 1×1: " in said
    assert "geometric mean over 2 layers 3×3: " in said


@pytest.mark.parametrize(("panel", "batch", "layers_drawn"), [(2, 1, 94), (3, 8, 96)])
def test_the_panel_gives_the_geometric_mean_a_system(speedup, both, panel, batch, layers_drawn):
    said = speedup.axes[panel].get_title(loc="left").replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    assert f"geometric mean over {layers_drawn} layers 3×3" in said
    for name in ("sparse", "dense_twin"):
        mean = gmean(stored(both, name, batch)["ratio"])
        assert f"{style.times(mean)} {style.LOOKS[name].label}" in said
    assert "exp of the mean of ln(speed-up)" in words(speedup)


def test_one_session_is_hollow_dotted_and_said(speedup):
    said = "one session: ranges are min–max of rounds, no verdict"
    conditional, judged = speedup.axes[0], speedup.axes[2]
    assert said in conditional.get_title(loc="left")
    assert said not in judged.get_title(loc="left")
    assert same_color(marks(conditional, "sparse").get_facecolor()[0], style.PAPER)
    assert same_color(marks(judged, "sparse").get_facecolor()[0], style.LOOKS["sparse"].colour)
    assert bars(conditional, "sparse")[1].get_linestyle()[0][1] is not None


def test_bounds_that_are_not_stored_are_not_drawn(tmp_path):
    def campaign(folder):
        timed, pairs = invented.timing("B", invented.DISTINCT_SHAPES, invented.GPU_BASELINES, [1])
        bare = [pair | {"ratio_low": None, "ratio_high": None} for pair in pairs]
        invented.write(folder, timed, bare, [invented.run("B", "cuda")])

    (axes,) = draw(invented.frames(tmp_path, local=campaign)).axes
    assert len(bars(axes, "sparse")[0]) == 0
    assert len(points(axes, "sparse")) == 8


def test_cases_without_a_mark_are_counted_by_status(speedup, tmp_path):
    assert "Recorded on NVIDIA H200: 2 of 192 cases not drawn: 1 incorrect, 1 unsupported." in words(speedup)

    def gaps(folder):
        timed, pairs = invented.timing("B", invented.DISTINCT_SHAPES, invented.GPU_BASELINES, [1])
        one = pairs[0]["case_id"]
        timed = [
            invented.fail(row, "unsupported", "no") if (row["case_id"], row["arm"]) == (one, "cudnn_tf32") else row
            for row in timed
        ]
        invented.write(folder, timed, pairs, [invented.run("B", "cuda")])

    said = words(draw(invented.frames(tmp_path, local=gaps)))
    assert "systems missing in drawn cases: cuDNN TF32 1 unsupported." in said
    assert "not drawn" not in said
    assert "geometric mean over the layers drawn (number)" in said
    assert "cuDNN TF32 (7)" in said


def test_a_shape_counts_as_often_as_its_network_has_it(both):
    pairs = stored(both, "sparse", 1)
    counts = dict.fromkeys(both.measurements["case_id"], 1)
    counts |= {pairs["case_id"].iloc[0]: 50, pairs["case_id"].iloc[1]: 30}
    measured = both.measurements.assign(
        arm_json=[f'{{"layers_of_shape": {counts[case]}}}' for case in both.measurements["case_id"]]
    )
    said = words(cusnn.layer_speedup(both.comparisons, measured, PUBLISHED))
    weighted = gmean(pairs["ratio"], weights=[counts[case] for case in pairs["case_id"]])
    assert f"geometric mean over 172 layers 3×3: {style.times(weighted)} ours: sparse" in said


def test_of_two_layouts_of_a_library_the_better_one_is_drawn(tmp_path):
    def campaign(folder):
        baselines = {"cudnn_fp32": 9.0, "cudnn_fp32_cl": 9.0, "cudnn_tf32": 2.0, "cudnn_tf32_cl": 2.0}
        timed, pairs = invented.timing("B", invented.DISTINCT_SHAPES, baselines, [1])
        invented.write(folder, timed, pairs, [invented.run("B", "cuda")])

    frames = invented.frames(tmp_path, local=campaign)
    times = frames.measurements.pivot(index="layer", columns="arm", values="value")
    assert 0 < (times["cudnn_fp32"] < times["cudnn_fp32_cl"]).sum() < len(times)
    fp32 = times[["cudnn_fp32", "cudnn_fp32_cl"]].min(axis=1)
    (axes,) = draw(frames).axes
    tf32 = times[["cudnn_tf32", "cudnn_tf32_cl"]].min(axis=1)
    assert np.allclose(points(axes, "cudnn_tf32")[:, 1], (fp32 / tf32).sort_index())
    assert len(points(axes, "cudnn_tf32_cl")) == 0

    (axes,) = cusnn.roofline(frames.measurements, frames.runs).axes
    assert np.allclose(np.sort(points(axes, "cudnn_tf32")[:, 1]), np.sort(tf32))


def test_each_machine_is_drawn_in_the_regime_that_most_systems_share(tmp_path):
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

    (axes,) = draw(invented.frames(tmp_path, local=campaign)).axes
    assert axes.get_title(loc="left").split("\n")[0].endswith("regime cold")
    assert len(points(axes, "gemm_fp32")) == 3


def test_layers_of_a_random_network_are_said_to_be_such(both):
    assert "random weights" not in words(draw(both))
    random = both.measurements.assign(arm_json='{"weights": "random"}')
    said = words(cusnn.layer_speedup(both.comparisons, random, PUBLISHED))
    assert "batch 1 · regime cold · random weights" in said


def test_published_speedups_are_hollow_and_only_at_the_papers_network_and_batch(tmp_path):
    shapes = [("resnet152", 128, 28, 128, 3), ("resnet152", 256, 14, 256, 3), ("resnet152", 512, 7, 512, 3)]

    def campaign(folder):
        timed, pairs = invented.timing("B", shapes, invented.GPU_BASELINES, [1, 8])
        invented.write(folder, timed, pairs, [invented.run("B", "cuda")])

    frames = invented.frames(tmp_path, local=campaign)
    one, eight = draw(frames).axes
    assert len(points(eight, "published")) == 0
    rows = PUBLISHED.query("metric == 'speedup'")
    means = [rows.query("C == @c")["value"].mean() for c in (256, 512)]
    assert np.allclose(points(one, "published"), np.column_stack([[1, 2], means]))
    assert marks(one, "published").get_facecolor().size == 0
    assert "(V100)" in words(one.figure)


def test_marks_of_one_shape_stand_beside_each_other(speedup):
    at = [points(speedup.axes[2], name)[:, 0] for name in ("sparse", "dense_twin", "cudnn_tf32", "cudnn_fp16_cl")]
    assert (np.diff(np.stack(at), axis=0) > 0.1).all()
