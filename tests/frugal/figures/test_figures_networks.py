"""Whole networks: bars are the stored times and energies, in the right unit, beside published ones of another GPU."""

import invented_campaigns as invented
import invented_experiments as experiments
import pytest
from reading_figures import words

from frugal.figures import cusnn, published, style

PUBLISHED = published.load("cusnn")


def drawn(axes, labelled=None):
    """{row's label: width} of the bars that are not see-through; `labelled`: the panel of the row that has labels."""
    labels = [label.get_text() for label in (labelled or axes).get_yticklabels()]
    bars = [patch for patch in axes.patches if patch.get_alpha() is None]
    return {labels[round(bar.get_y() + bar.get_height() / 2)]: bar.get_width() for bar in bars}


def behind(axes):
    return sorted(patch.get_width() for patch in axes.patches if patch.get_alpha() is not None)


def test_bars_are_milliseconds_of_a_forward_pass_in_a_graph(every):
    figure = cusnn.end_to_end(every.measurements, every.comparisons, PUBLISHED)
    assert len(figure.axes) == 4  # two networks at two batch sizes
    found = drawn(figure.axes[2])
    expected = {
        style.LOOKS[arm].label: 1e3 * graph for arm, (graph, _) in experiments.NETWORK.items() if arm in style.LOOKS
    }
    assert found == pytest.approx(expected)
    assert figure.axes[2].get_xlim()[0] == 0
    ticks = sorted(line.get_xdata()[0] for line in figure.axes[2].lines)
    limit = figure.axes[2].get_xlim()[1]
    best = {**{a: w for a, (_, w) in experiments.NETWORK.items()}, "cudnn_fp32": 9e-3}
    del best["cudnn_fp32_cl"]
    assert ticks == pytest.approx(sorted(1e3 * wall for wall in best.values() if 1e3 * wall <= limit))


def test_the_library_stands_with_its_faster_layout(every):
    faster = every.measurements.query("not (arm == 'cudnn_fp32')")
    found = drawn(cusnn.end_to_end(faster, every.comparisons, PUBLISHED).axes[2])
    assert found["cuDNN fp32"] == pytest.approx(4.0)
    assert drawn(cusnn.end_to_end(every.measurements, every.comparisons, PUBLISHED).axes[2])[
        "cuDNN fp32"
    ] == pytest.approx(3.6)


def test_above_a_column_stands_the_least_stored_ratio_over_fp32(every):
    said = cusnn.end_to_end(every.measurements, every.comparisons, PUBLISHED).axes[2].get_title(loc="left")
    ratio = 3.1 / 0.9  # torch.compile in fp32 is the best baseline; TF32 is none
    low, high = style.times(ratio * 0.97), style.times(ratio * 1.03)
    assert said == f"batch 1 · {style.times(ratio)}\n[{low}, {high}]"


def test_one_session_shows_no_interval(every):
    alone = every.comparisons.assign(conditional=True)
    said = cusnn.end_to_end(every.measurements, alone, PUBLISHED).axes[2].get_title(loc="left")
    assert said == f"batch 1 · {style.times(3.1 / 0.9)}"


def test_published_times_are_hollow_rows_of_their_network_and_batch(every):
    figure = cusnn.end_to_end(every.measurements, every.comparisons, PUBLISHED)
    dense = figure.axes[0]
    hollow = [patch for patch in dense.patches if patch.get_facecolor()[:3] == (1, 1, 1)]
    assert len(hollow) == 2
    assert all(patch.get_width() == pytest.approx(dense.get_xlim()[1]) for patch in hollow)  # longer than the panel
    texts = {text.get_text().strip() for text in dense.texts}
    assert {"15.8", "12.5"} <= texts
    labels = [label.get_text() for label in dense.get_yticklabels()]
    assert labels[-2:] == ["V100: cuDNN", "V100: cuSNN"]
    assert not [label for label in figure.axes[2].get_yticklabels() if "V100" in label.get_text()]


def test_energy_is_gross_and_net_an_image(every):
    figure = cusnn.energy(every.measurements, PUBLISHED)
    eight = figure.axes[3]
    joules = {
        arm: graph * 8 ** (0.5 if arm in experiments.OURS else 0.35) for arm, (graph, _) in experiments.NETWORK.items()
    }
    del joules["cudnn_fp32_cl"]
    expected = {style.LOOKS[arm].label: 1e3 * seconds * 380 / 8 for arm, seconds in joules.items()}
    assert drawn(eight, figure.axes[2]) == pytest.approx(expected)
    assert behind(eight) == pytest.approx(sorted(1e3 * seconds * 500 / 8 for seconds in joules.values()))
    texts = {text.get_text().strip() for text in figure.axes[0].texts}
    assert {"927", "798", "450 / 342"} <= texts


def test_without_idle_power_gross_stands_alone(every):
    bare = every.measurements.query("metric != 'energy_net'")
    axes = cusnn.energy(bare, PUBLISHED).axes[2]
    assert all(width == 0 for width in drawn(axes).values())
    assert "450 / –" in {text.get_text().strip() for text in axes.texts}


def test_where_energy_was_not_measured_the_figure_says_so(tmp_path, every):
    def campaign(folder):
        rows, pairs = experiments.networks("A", energy=False)
        invented.write(folder, rows, pairs, [invented.run("A", "cpu")])

    only_time = invented.frames(tmp_path / "time", local=campaign)
    assert "energy was not measured" in words(cusnn.energy(only_time.measurements, PUBLISHED))
    beside = invented.frames(tmp_path / "both", local=campaign, recorded=experiments.everything)
    said = words(cusnn.energy(beside.measurements, PUBLISHED))
    assert "This machine (Intel Xeon 8481C, 2 threads): energy was not measured." in said

    def refused(folder):
        rows, pairs = experiments.networks("A")
        failed = [
            invented.fail(row, "unsupported", "no_counter: none") if row["metric"] != "time" else row for row in rows
        ]
        invented.write(folder, failed, pairs, [invented.run("A", "cuda")])

    said = words(cusnn.energy(invented.frames(tmp_path / "refused", local=refused).measurements, PUBLISHED))
    assert "no_counter: none" in said


def test_what_is_not_drawn_is_counted_with_its_reason(tmp_path):
    def campaign(folder):
        rows, pairs = experiments.networks("A", names=["resnet50"], batches=[1])
        rows = [
            invented.fail(row, "unsupported", "no graph") if row["arm"] == "torch_compile_fp32" else row for row in rows
        ]
        invented.write(folder, rows, pairs, [invented.run("A", "cuda")])

    frames = invented.frames(tmp_path, local=campaign)
    said = words(cusnn.end_to_end(frames.measurements, frames.comparisons, PUBLISHED))
    assert "1 of 8 pairs of network and system not drawn: 1 unsupported (reasons in the records: no graph (2))" in said


def test_random_weights_are_said(tmp_path):
    def campaign(folder):
        rows, pairs = experiments.networks("A", names=["resnet50"], batches=[1], weights="random")
        invented.write(folder, rows, pairs, [invented.run("A", "cuda")])

    frames = invented.frames(tmp_path, local=campaign)
    _, description = style.described(cusnn.end_to_end(frames.measurements, frames.comparisons, PUBLISHED))
    assert "ResNet-50 · random weights" in description
