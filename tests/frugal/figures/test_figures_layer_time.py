"""Time by layer: values as stored, in the order of depth, and the published times where they belong."""

import invented_campaigns as invented
import numpy as np
import pytest
from reading_figures import marks, points, words

from frugal.figures import cusnn, published

PUBLISHED = published.load("cusnn")


def draw(frames):
    return cusnn.layer_time(frames.measurements, PUBLISHED)


def test_one_panel_a_machine_and_network_at_the_least_batch(both):
    titles = [axes.get_title(loc="left").split("\n") for axes in draw(both).axes]
    assert [title[0] for title in titles] == [
        "DenseNet-169 · batch 1 · 1 layer",
        "ResNet-50 · batch 1 · 1 layer",
        "DenseNet-169 · batch 1 · 80 layers",
        "ResNet-50 · batch 1 · 14 layers",
    ]
    assert titles[2][1] == "recorded on NVIDIA H200 · regime graph, L2 resident"


@pytest.mark.parametrize("arm", ["sparse", "cudnn_fp32", "cudnn_fp16_cl"])
def test_marks_are_the_stored_times_by_depth(both, arm):
    axes = draw(both).axes[2]
    rows = both.measurements.query("arm == @arm and recorded == 'nvidia-h200' and network == 'densenet169' and n == 1")
    rows = rows[rows["status"] == "ok"]
    depth = rows["layer"].str[4:].astype(int)
    values = rows["value"].to_numpy()[np.argsort(depth)]
    assert np.allclose(points(axes, arm)[:, 1], values, rtol=1e-12)
    assert axes.get_yscale() == "log"
    assert len(values) == 80  # 82, less one incorrect and one unsupported


def test_sessions_are_joined_by_their_geometric_mean(tmp_path):
    def campaign(folder):
        (row, *_), _ = invented.timing("A", invented.SMOKE_SHAPES[:1], invented.CPU_BASELINES, [1])
        runs = [invented.run("A", "cpu"), invented.run("B", "cpu")]
        rows = [row | {"run_id": "A", "value": 1e-3}, row | {"run_id": "B", "session": 1, "value": 4e-3}]
        invented.write(folder, rows, (), runs)

    (axes,) = draw(invented.frames(tmp_path, local=campaign)).axes
    assert points(axes, "sparse") == pytest.approx(np.array([[0, 2e-3]]))


def test_layers_of_1x1_stay_out(both):
    assert all("1×1" not in label.get_text() for axes in draw(both).axes for label in axes.get_xticklabels())


def test_published_times_stand_hollow_at_their_shape(tmp_path):
    shapes = [("densenet201", 128, 56, 32, 3), ("densenet201", 128, 28, 32, 3), ("densenet201", 128, 7, 32, 3)]

    def campaign(folder):
        timed, pairs = invented.timing("B", shapes, invented.GPU_BASELINES, [1])
        invented.write(folder, timed, pairs, [invented.run("B", "cuda")])

    (axes,) = draw(invented.frames(tmp_path, local=campaign)).axes
    rows = PUBLISHED.query("metric == 'time' and model == 'densenet201'")
    expected = [[0, rows.query("H == 56")["value"].mean()], [1, rows.query("H == 28")["value"].mean()]]
    assert np.allclose(points(axes, "published"), expected)
    assert marks(axes, "published").get_facecolor().size == 0
    said = words(axes.figure)
    assert "(RTX 2080 Ti)" in said
    assert "no baseline here" in said
