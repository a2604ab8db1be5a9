"""Ladder, break-even, gain, error and prediction draw what the frames hold."""

import json
import math

import invented_campaigns as invented
import invented_experiments as experiments
import numpy as np
import pytest
from reading_figures import marks, points, words

from frugal.cusnn.break_even_table import break_even as cusnn_break_even
from frugal.figures import cusnn, style
from kernels.sparse import ConvShape, Variant
from kernels.sparse.planning import cut
from kernels.sparse.predict import Machine, predict

# ---- ladder ----------------------------------------------------------------------------------------------------------


def test_the_ladder_has_a_row_an_arm_with_its_time(every):
    figure = cusnn.ladder(every.measurements)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["64,56→64", "128,28→32", "128,14→32", "256,14→256"]
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    for arm, seconds in experiments.LADDER.items():
        assert points(axes, arm)[0, 0] == pytest.approx(seconds)
    texts = [text.get_text() for text in axes.texts]
    assert "10.4 µs" in texts
    assert "0.96×" in texts  # deterministic=false as a multiple of the last step


def test_the_ladders_steps_are_joined_from_the_first_down_and_choices_are_hollow(every):
    axes = cusnn.ladder(every.measurements).axes[0]
    steps = axes.lines[0]
    assert list(steps.get_ydata()) == list(range(6))
    assert list(steps.get_xdata()) == pytest.approx([experiments.LADDER[arm] for arm in cusnn_steps()])
    assert marks(axes, "sparse@skip=false").get_facecolor().size == 0
    assert marks(axes, "v6_fused").get_facecolor().size
    floor = [line for line in axes.lines if line.get_linestyle() == "--" or len(set(line.get_xdata())) == 1]
    assert floor[-1].get_xdata()[0] == pytest.approx(2.1e-6)


def cusnn_steps():
    return ["v1_naive", "v2_dense", "v3_ballot", "v4_split", "v5_wide", "v6_fused"]


# ---- break-even ------------------------------------------------------------------------------------------------------


def panel(figure, title):
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left").split("\n")[-1] == title]
    return axes


def test_cells_are_log2_of_the_baseline_over_ours(every):
    axes = panel(cusnn.break_even(every.measurements), "batch 1, over cuDNN fp32")
    drawn = np.asarray(axes.images[0].get_array())
    # rows: 3×3 by size of the map, then 1×1; the baseline's times are those of the invented shapes
    ours = 2e-6 + 9e-6 * (1 - np.array(experiments.SHARES))
    assert np.allclose(drawn, np.log2(np.array([[20e-6], [4e-6], [1e-6], [9e-6]]) / ours))
    first = panel(axes.figure, "batch 1, over ours: dense twin")
    assert [label.get_text() for label in first.get_yticklabels()] == [
        "64,56→64", "256,14→256", "512,7→512", "1×1 1024,14→256",
    ]  # fmt: skip


def test_the_line_is_where_times_are_equal_and_never_and_always_are_told(every):
    figure = cusnn.break_even(every.measurements)
    axes = panel(figure, "batch 1, over cuDNN fp32")
    lines = {round(float(np.mean(line.get_ydata()))): float(line.get_xdata()[0]) for line in axes.lines}
    assert lines[0] == -0.5  # always: the left edge
    assert 2 not in lines  # never
    logs = np.log2(4e-6 / (2e-6 + 9e-6 * (1 - np.array([0.6, 0.8]))))
    assert lines[1] == pytest.approx(3 + logs[0] / (logs[0] - logs[1]))  # .6 is column 3, .8 column 4
    _, description = style.described(figure)
    assert "64,56→64 always, 256,14→256 from 0.7" in description
    assert "512,7→512 never" in description


def test_the_line_has_the_interval_over_sessions(tmp_path):
    def campaign(folder):
        rows = []
        for session, factor in enumerate((1.0, 1.05, 1.1)):
            more = {"session": session, "run_id": str(session), "regime": "cold", "l2": None}
            for row in experiments.break_even("x", batches=(1,), real=False):
                rows.append(row | more | ({"value": row["value"] * factor} if row["arm"] == "sparse" else {}))
        invented.write(folder, rows, (), [invented.run(str(session), "cuda") for session in range(3)])

    frames = invented.frames(tmp_path, local=campaign)
    found = cusnn_break_even(frames.measurements).query("k == 256 and r == 3 and baseline == 'cudnn_fp32'").iloc[0]
    axes = panel(cusnn.break_even(frames.measurements), "batch 1, over cuDNN fp32")
    upright = [line for line in axes.lines if len(set(line.get_xdata())) == 1 and np.mean(line.get_ydata()) == 1]
    (flat,) = [line for line in axes.lines if set(line.get_ydata()) == {1}]
    columns = np.arange(len(experiments.SHARES))
    expected = np.interp(
        found[["sparsity", "sparsity_low", "sparsity_high"]].astype(float), experiments.SHARES, columns
    )
    assert upright[0].get_xdata()[0] == pytest.approx(expected[0])
    assert sorted(flat.get_xdata()) == pytest.approx(sorted(expected[1:]))
    assert expected[1] < expected[0] < expected[2]


def test_zeros_of_activations_stand_beside_random_ones(every):
    axes = panel(cusnn.break_even(every.measurements), "batch 1, over cuDNN TF32")
    assert sorted({tuple(xy) for xy in points(axes, "real")}) == [
        (x, y) for x in (4.0, 5.0) for y in (0.0, 1.0, 2.0)
    ]  # fmt: skip


# ---- gain ------------------------------------------------------------------------------------------------------------


def widths(axes, part):
    """Factors of a part's bars, from the top."""
    (container,) = [[bar for c in axes.containers if c.get_label() == part for bar in c]]
    return [(bar.get_x() + bar.get_width()) / bar.get_x() for bar in container]


def test_factors_of_a_network_multiply_to_eager_library_over_graphed_ours(every):
    axes = cusnn.gain(every.measurements).axes[1]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    place = labels.index("ResNet-50, whole\nbatch 1") - labels.index("DenseNet-169, whole\nbatch 1")
    graph, kernel = widths(axes, "graph")[place], widths(axes, "kernel")[labels.index("ResNet-50, whole\nbatch 1")]
    fused, skip = widths(axes, "fused")[place], widths(axes, "skip")[labels.index("ResNet-50, whole\nbatch 1")]
    assert graph == pytest.approx(9 / 3.6)
    assert fused == pytest.approx(1.5 / 0.9)
    assert skip == pytest.approx(1.2 / 0.9)
    assert graph * kernel * fused * skip == pytest.approx(9e-3 / 0.9e-3)


def test_layers_are_weighted_by_how_often_their_network_has_them(every):
    rows = every.measurements
    counts = {"conv0": 6, "conv1": 12, "conv2": 32, "conv3": 32}
    rows = rows.assign(arm_json=[f'{{"layers_of_shape": {counts.get(layer, 1)}}}' for layer in rows["layer"]])
    axes = cusnn.gain(rows).axes[1]
    own = (
        rows[rows["recorded"].notna()]
        .query("network == 'densenet169' and experiment == 'layers' and n == 1")
        .assign(count=lambda frame: frame["layer"].map(counts))
    )
    sums = {arm: (part["value"] * part["count"]).sum() for arm, part in own.groupby("arm")}
    assert widths(axes, "kernel")[0] == pytest.approx(sums["cudnn_fp32"] / sums["dense_twin"])
    assert widths(axes, "skip")[0] == pytest.approx(sums["dense_twin"] / sums["sparse"])


def test_a_factor_below_one_is_hatched(tmp_path):
    def campaign(folder):
        timed, pairs = invented.timing("B", invented.DISTINCT_SHAPES, {"cudnn_fp32": 0.5}, [1])
        invented.write(folder, timed, pairs, [invented.run("B", "cuda")])

    (axes,) = cusnn.gain(invented.frames(tmp_path, local=campaign).measurements).axes
    hatched = [bar for c in axes.containers for bar in c if bar.get_hatch()]
    assert {c.get_label() for c in axes.containers for bar in c if bar in hatched} == {"kernel"}
    assert len(hatched) == 2  # DenseNet-169 and ResNet-50
    assert "skip" in words(axes.figure)


# ---- error -----------------------------------------------------------------------------------------------------------


def test_each_case_stands_at_its_greatest_error_and_the_worst_stands_out(every):
    figure = cusnn.error(every.measurements)
    axes = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("layers · recorded"))
    rows = every.measurements.query("experiment == 'layers' and recorded == 'nvidia-h200' and arm == 'cudnn_tf32'")
    worst = rows.groupby("case_id")["max_rel_err"].max()
    assert np.allclose(np.sort(points(axes, "cudnn_tf32")[:, 0]), np.sort(worst))
    assert points(axes, "cudnn_tf32 worst")[0, 0] == worst.max()
    assert axes.get_xscale() == "log"


def test_incorrect_outputs_are_named(tmp_path):
    def campaign(folder):
        rows = experiments.ladder("A")
        rows = [row | {"status": "incorrect", "max_rel_err": 0.5} if row["arm"] == "v4_split" else row for row in rows]
        invented.write(folder, rows, (), [invented.run("A", "cuda")])

    figure = cusnn.error(invented.frames(tmp_path, local=campaign).measurements)
    assert points(figure.axes[0], "v4_split worst")[0, 0] == 0.5
    assert "incorrect outputs of v4_split" in words(figure)


# ---- prediction ------------------------------------------------------------------------------------------------------


def test_predictions_are_the_models_for_the_variant_and_splits_of_the_row(tmp_path):
    shape = ConvShape(1, 256, 14, 14, 256)
    chosen = cut(Variant("v3_ballot"), shape, 4)
    settings = json.dumps({"variant": chosen.variant.name, "splits": chosen.splits})

    def campaign(folder):
        (row, *_), _ = invented.timing("B", [("resnet50", 256, 14, 256, 3)], {"cudnn_fp32": 8}, [1])
        row |= {"arm_json": settings, "sparsity_measured": 0.7, "value": 9e-6, "pad": 1}
        naive = row | {
            "arm": "v1_naive",
            "arm_json": '{"variant": "v1_naive_k3s1_t1x1_o1_w8_dense_direct", "splits": 1}',
        }
        run = invented.run("B", "cuda", sm_count=132, sm_hz_max=1.98e9, settled_sm_hz=1.9e9)
        invented.write(folder, [row, naive], (), [run])

    frames = invented.frames(tmp_path, local=campaign)
    (axes,) = cusnn.prediction(frames.measurements, frames.runs).axes
    expected = predict(chosen, shape, 0.7, Machine(sm_count=132, clock_hz=1.9e9)).seconds
    assert points(axes, "sparse") == pytest.approx(np.array([[expected, 9e-6]]))
    percent = 100 * math.expm1(abs(math.log(9e-6 / expected)))
    assert f"half within {percent:.0f} % of the prediction" in words(axes.figure)
    assert "1 of 2 cases and arms are of kernels that it does not describe" in words(axes.figure)


def test_without_a_gpu_the_figure_says_what_the_model_is_of(tmp_path):
    frames = invented.frames(tmp_path)
    assert "it is of our kernels on a GPU" in words(cusnn.prediction(frames.measurements, frames.runs))
