"""SFT: marks are the rows' values, what does not fit is in its band, and published values are hollow."""

import invented_campaigns as invented
import invented_training as training
import matplotlib.colors as mcolors
import numpy as np
import pytest
from reading_figures import layout_is_sound, points, words

from frugal import figures
from frugal.figures import published, sft
from frugal.figures.sft import published as of_paper
from frugal.figures.sft import steps

PAPERS = published.load("sft")
NAMES = [name for name in figures.NAMES if name.startswith("sft_")]
EXPERIMENTS = {
    "sft_time_vs_size": "sizes", "sft_max_size": "largest", "sft_macs": "macs", "sft_pareto": "pareto",
    "sft_prediction": "prediction", "sft_exactness": "exactness", "sft_tile_rate": "tile_rate",
    "sft_streaming": "streaming", "sft_trajectory": "training", "sft_kernel": "kernels",
}  # fmt: skip


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory):
    """A smoke campaign on a CPU beside a recorded one of every experiment on a GPU."""
    return invented.frames(tmp_path_factory.mktemp("sft"), local=training.smoke, recorded=training.h200)


def panel(figure, *said):
    """The one panel whose title has all of these words."""
    (found,) = [axes for axes in figure.axes if all(word in axes.get_title(loc="left") for word in said)]
    return found


def line(axes, label):
    """(x, y) of the line or marks with a label."""
    (found,) = [each for each in axes.lines if each.get_label() == label]
    return np.column_stack([found.get_xdata(), found.get_ydata()]).astype(float)


# ---- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_fits_its_page(name, campaigns):
    layout_is_sound(figures.figure(name, campaigns))


@pytest.mark.parametrize("name", NAMES)
def test_without_rows_a_figure_says_what_to_type(name, tmp_path):
    said = words(figures.figure(name, invented.frames(tmp_path, local=lambda folder: invented.write(folder))))
    assert "neither on this machine nor in a recorded campaign" in said
    assert said.endswith(f'snakemake --cores all --config "sft={{experiments: [{EXPERIMENTS[name]}]}}" -- sft')


@pytest.mark.parametrize("name", NAMES)
def test_where_all_failed_the_figure_says_how(name, tmp_path):
    def failed(folder):
        every = (training.largest, training.macs, training.pareto, training.prediction, training.exactness,
                 training.tile_rate, training.streaming, training.training, training.kernels)  # fmt: skip
        rows = [*training.sizes("A", heights=(256,)), *(row for of in every for row in of("A"))]
        lost = {"value": None, "status": "failed", "reason": "died of SIGSEGV"}
        invented.write(folder, [row | lost for row in rows], (), [invented.run("A", "cuda")])

    said = words(figures.figure(name, invented.frames(tmp_path, local=failed)))
    assert "not drawn" in said
    assert "failed" in said
    assert "died of SIGSEGV" in said


def test_a_recorded_campaign_alone_says_that_nothing_is_measured_here(tmp_path):
    frames = invented.frames(tmp_path, local=None, recorded=training.h200)
    for name in NAMES:
        said = words(figures.figure(name, frames))
        assert "Nothing is measured on this machine yet" in said, name
        assert steps.command(EXPERIMENTS[name]) in said, name


def test_an_unknown_figure_of_sft_is_answered_with_the_names(campaigns):
    with pytest.raises(figures.FrugalError, match="sft_kernel"):
        figures.figure("sft_stairs", campaigns)


@pytest.mark.parametrize(
    ("arm", "said"),
    [("planned@budget_mib=9728", "ours: planned, 9.5 GiB"), ("checkpoint@segments=5", "checkpoint, segments 5"),
     ("vanilla", "untiled"), ("strange@a_b=1,c=x", "strange, a b 1, c x"),
     ("planned@budget_mib=64,host_mib=2048", "ours: planned, 64 MiB, 2 GiB of main memory")],
)  # fmt: skip
def test_arms_in_words(arm, said):
    assert steps.in_words(arm) == said


# ---- time by size ----------------------------------------------------------------------------------------------------


def test_a_methods_line_is_the_fastest_of_its_settings(campaigns):
    figure = sft.time_vs_size(campaigns.measurements, PAPERS)
    axes = panel(figure, "VGG-16", "fp32", "H200")
    expected = [[h, 0.034 * h * h / 1e6] for h in (1024, 2048, 4096, 10240)]  # 4 × 4 tiles are faster than 16 × 16
    assert line(axes, "sft_artifact") == pytest.approx(np.array(expected))


def test_of_two_layouts_the_faster_one_is_drawn(tmp_path):
    def campaign(folder):
        rows = []
        for layout, value in ((False, 2.0), (True, 1.0)):
            axes = training.axes_of("vgg16", 1024, channels_last=layout)
            rows.append(training.row("A", "sizes", axes, "vanilla", "time", value))
        invented.write(folder, rows, (), [invented.run("A", "cuda")])

    figure = sft.time_vs_size(invented.frames(tmp_path, local=campaign).measurements, PAPERS)
    assert line(panel(figure, "VGG-16"), "vanilla").tolist() == [[1024, 1.0]]


def test_methods_that_ran_out_of_memory_stand_in_the_band(campaigns):
    figure = sft.time_vs_size(campaigns.measurements, PAPERS)
    axes = panel(figure, "VGG-16", "TF32", "H200")
    # 40 GiB hold 1456 bytes a pixel up to 5431², and 240 up to 13377²; the schedule in 16 × 16 tiles up to 18918²
    assert line(axes, "vanilla out of memory")[:, 0].tolist() == [10240, 20480]
    assert line(axes, "sft_artifact out of memory")[:, 0].tolist() == [20480]
    assert "planned out of memory" not in {each.get_label() for each in axes.lines}
    assert all(0.76 < y < 1 for y in line(axes, "vanilla out of memory")[:, 1])
    top = axes.transAxes.inverted().transform(axes.transData.transform(line(axes, "vanilla")))[:, 1]
    assert top.max() < 0.76  # times end below the band


def test_published_times_are_hollow_and_of_the_same_precision(campaigns):
    figure = sft.time_vs_size(campaigns.measurements, PAPERS)
    axes = panel(figure, "VGG-16", "TF32", "H200")
    drawn = line(axes, "sft_artifact a100-40gb")
    # the paper's table: 3072 in one tile 3.97 s, 10240 and 20480 from the last logs
    assert dict(drawn)[3072] == pytest.approx(3.97, abs=5e-3)
    assert dict(drawn)[10240] == pytest.approx(27.95, abs=5e-3)
    assert dict(drawn)[20480] == pytest.approx(105.89, abs=5e-3)
    (mark,) = [each for each in axes.lines if each.get_label() == "vanilla a100-40gb"]
    assert mcolors.to_rgb(mark.get_markerfacecolor()) == (1, 1, 1)
    assert "rtx2080ti" not in " ".join(each.get_label() for each in axes.lines)
    assert "published, A100 40 GB" in words(figure)
    assert "Shown, never judged." in words(figure)


def test_a_narrow_network_has_no_published_times(tmp_path):
    figure = sft.time_vs_size(invented.frames(tmp_path, local=training.smoke).measurements, PAPERS)
    assert "published" not in words(figure)
    assert "VGG-16 with 1/16 of its channels" in words(figure)


# ---- largest image ---------------------------------------------------------------------------------------------------


def test_bars_end_at_the_largest_size_and_say_it(campaigns):
    axes = panel(sft.max_size(campaigns.measurements, PAPERS), "VGG-16", "H200")
    planned = [int((0.9 * cap * 2**30 / 12) ** 0.5) // 32 * 32 for cap in (11, 24, 40, 80)]
    bars = [bar for bar in axes.patches if mcolors.same_color(bar.get_facecolor(), steps.LOOKS["planned"].colour)]
    assert sorted(round(bar.get_y() + bar.get_height()) for bar in bars) == planned
    texts = {text.get_text() for text in axes.texts}
    assert {str(size) for size in planned} <= texts
    assert "≥65536" in texts  # the search's own limit
    assert axes.get_yaxis().get_scale() == "log"


def test_published_limits_stand_at_the_memory_of_their_gpu():
    found = of_paper.limits(PAPERS, "vgg16").set_index(["cap_gib", "variant"])["h"].to_dict()
    assert found == {
        (11.0, "vanilla"): 1024, (11.0, "checkpoint"): 2048, (11.0, "sft_artifact"): 20480,
        (40.0, "vanilla"): 3072, (40.0, "checkpoint"): 4096, (40.0, "sft_artifact"): 20480,
    }  # fmt: skip
    found = of_paper.limits(PAPERS, "darknet19").set_index(["cap_gib", "variant"])["h"].to_dict()
    assert (found[40.0, "vanilla"], found[40.0, "checkpoint"]) == (7168, 7168)
    assert (found[11.0, "vanilla"], found[11.0, "checkpoint"]) == (4096, 4096)


def test_of_several_sessions_the_least_size_counts(tmp_path):
    def campaign(folder):
        axes = training.axes_of("vgg16", None, cap_gib=11, device="cuda")
        rows = [training.row("A", "largest", axes, "planned", "size_max", value) | {"session": session}
                for session, value in enumerate((4096.0, 4064.0))]  # fmt: skip
        invented.write(folder, rows, (), [invented.run("A", "cuda")])

    axes = panel(sft.max_size(invented.frames(tmp_path, local=campaign).measurements, PAPERS), "VGG-16")
    assert "4064" in {text.get_text() for text in axes.texts}
    assert "4096" not in {text.get_text() for text in axes.texts}


# ---- multiply-adds ---------------------------------------------------------------------------------------------------


def test_ratios_by_tiles_and_levels_of_plans(campaigns):
    axes = panel(sft.macs(campaigns.measurements), "Darknet-19, 10240²")
    expected = [[n, 1.33 + 1.4 * (n - 1) * 0.2] for n in (1, 2, 4, 8, 16, 32)]
    assert line(axes, "sft_artifact") == pytest.approx(np.array(expected))
    levels = sorted(each.get_ydata()[0] for each in axes.lines if each.get_label() == "planned")
    assert levels == pytest.approx([1.2, 1.3])
    assert "9.5 GiB 1.30\n37 GiB 1.20" in {text.get_text() for text in axes.texts}


def test_every_machine_counts_the_same_once(campaigns):
    assert len(sft.macs(campaigns.measurements).axes) == 6  # two networks at three sizes, not once a machine


# ---- memory against time ---------------------------------------------------------------------------------------------


def test_points_are_peaks_and_times_over_the_untiled_step(campaigns):
    axes = panel(sft.pareto(campaigns.measurements), "bfloat16", "H200")
    assert line(axes, "checkpoint") == pytest.approx(np.array([[1024 * 2048**2, 16 / 12]]))
    plans = line(axes, "planned")
    assert plans[:, 0] == pytest.approx([60 * 1.55**number * 2048**2 for number in range(8)])
    assert plans[:, 1] == pytest.approx([1.33 - 0.045 * number for number in range(8)])


def test_live_bytes_have_what_was_there_before_on_top(campaigns):
    axes = panel(sft.pareto(campaigns.measurements), "512²", "Xeon")
    assert line(axes, "vanilla") == pytest.approx(np.array([[1456 * 512**2 + 80 * 2**20, 1.0]]))


def test_a_case_without_an_untiled_time_is_counted_and_not_drawn(tmp_path):
    def campaign(folder):
        rows = [row for row in training.pareto("A", precisions=("fp32",)) if row["arm"] != "vanilla"]
        invented.write(folder, rows, (), [invented.run("A", "cuda")])

    said = words(sft.pareto(invented.frames(tmp_path, local=campaign).measurements))
    assert "not drawn" in said


# ---- prediction ------------------------------------------------------------------------------------------------------


def test_marks_are_measured_over_predicted(campaigns):
    figure = sft.prediction(campaigns.measurements)
    axes = panel(figure, "H200", "peak of live tensors")
    assert points(axes, "vgg16")[:, 1] == pytest.approx(1.0)
    assert "half within 0 %, the worst 0 % off" in axes.get_title(loc="left")
    axes = panel(figure, "H200", "peak of the allocator")
    assert axes.get_title(loc="left").endswith(f"the worst {100 * 0.04 * 23 / 24:.2g} % off")
    marks = points(axes, "resnet50")
    assert marks[-1] == pytest.approx([(200 + 95 * 23) * 2**20, 1 + 0.04 * 23 / 24])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert not [title for title in titles if "Xeon" in title and "time" in title]  # a CPU predicts none


# ---- exactness -------------------------------------------------------------------------------------------------------


def test_errors_are_the_worst_of_a_methods_windows(campaigns):
    axes = panel(sft.exactness(campaigns.measurements), "fp32", "H200")
    assert points(axes, "tiles")[:, 0].max() == pytest.approx(4e-7 * 1.3 * 4)
    assert len(points(axes, "tiles")) == len(points(axes, "vanilla")) == 8
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:2] == ["VGG-16 64²", "VGG-16 203 × 171"]
    assert "darknet19_bn 64², norms trained" in labels


def test_an_error_of_nothing_stands_at_the_left_edge(campaigns):
    axes = panel(sft.exactness(campaigns.measurements), "float64", "H200")
    assert points(axes, "vanilla")[:, 0] == pytest.approx(1.1e-15 / 3)  # a third of the least


# ---- tiles, streams, trajectories ------------------------------------------------------------------------------------


def test_rates_are_pixels_a_second_by_side(campaigns):
    axes = panel(sft.tile_rate(campaigns.measurements), "H200")
    sides = line(axes, "tf32")
    assert sides[:, 0].tolist() == [128, 256, 512, 1024, 2048, 4096]
    assert sides[-1, 1] == pytest.approx(1e6 / (0.012 * 0.3) / (1.33 + 0.08))
    assert sides[0, 1] == pytest.approx(1e6 / (0.012 * 0.3) / (1.33 + 0.08 * 32))  # tiles one by one
    assert line(axes, "tf32 otherwise").tolist() == [pytest.approx([128, 1e6 / (0.012 * 0.3) / 2])] * 3
    assert line(axes, "fp32 untiled")[0, 1] == pytest.approx(1e6 / 0.012)
    assert "bf16 untiled" not in {each.get_label() for each in axes.lines}
    assert "1 oom" in words(sft.tile_rate(campaigns.measurements))


def test_bars_are_compute_and_what_is_exposed(campaigns):
    axes = panel(sft.streaming(campaigns.measurements), "H200")
    bars = sorted(axes.patches, key=lambda bar: bar.get_y())
    assert [bar.get_width() for bar in bars if bar.get_x() == 0] == pytest.approx([2.0] * 6)
    shares = [0.1, 0.02, 0.01, 0.4, 0.08, 0.04]
    assert [bar.get_width() for bar in bars if bar.get_x() > 0] == pytest.approx(
        [2 / (1 - share) - 2 for share in shares]
    )
    assert [text.get_text().strip() for text in axes.texts] == [f"{share:.1%}" for share in shares]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:3] == ["uint8, 1 ahead", "uint8, 2 ahead", "uint8, 4 ahead"]


def test_losses_and_their_distance(campaigns):
    figure = sft.trajectory(campaigns.measurements)
    axes = panel(figure, "H200")
    assert line(axes, "vanilla")[:, 1] == pytest.approx([0.3 * 0.9**step + 0.05 for step in range(20)])
    below = figure.axes[figure.axes.index(axes) + 1]
    apart = line(below, "planned")
    # a loss below 1 is rounded to 1e-16, which is a billionth of the least difference
    assert apart[1:, 1] == pytest.approx([1e-7 * step for step in range(1, 20)], rel=1e-7)
    assert apart[0, 1] == pytest.approx(1e-7 / 3, rel=1e-7)  # equal losses stand at a third of the least difference


def test_a_training_that_no_plan_followed_is_counted_and_not_drawn(tmp_path):
    def campaign(folder):
        lost = {"value": None, "status": "unsupported", "reason": "BatchNorm2d"}
        other = [row | {"case_id": f"other{row['case_id']}", "network": "unet_small"} for row in training.training("A")]
        alone = [row | lost if row["arm"] != "vanilla" else row for row in other]
        invented.write(folder, [*training.training("A"), *alone], (), [invented.run("A", "cpu")])

    figure = sft.trajectory(invented.frames(tmp_path, local=campaign).measurements)
    assert len(figure.axes) == 2
    assert "20 unsupported" in words(figure)


# ---- kernels ---------------------------------------------------------------------------------------------------------


def test_kernels_stand_beside_the_library_in_their_own_arithmetic(campaigns):
    axes = panel(sft.kernel(campaigns.measurements), "VGG-16", "H200")
    launch = 4e-6

    def speed(arm, library, h=2048):
        return (1e-3 * library * (h / 2048) ** 2 + launch) / (1e-3 * arm * (h / 2048) ** 2 + launch)

    assert dict(line(axes, "v4_pair_reg"))[2048] == pytest.approx(speed(0.95, 1.0))
    assert dict(line(axes, "v5_pair_mma_tf32"))[2048] == pytest.approx(speed(0.2, 0.36))
    assert dict(line(axes, "v5_pair_mma_bf16"))[1024] == pytest.approx(speed(0.12, 0.22, 1024))  # bf16 beats fp16
    assert dict(line(axes, "v4_pair_reg twin"))[2048] == pytest.approx(speed(1.3, 1.0))
    assert line(axes, "v5_pair_mma_tf32 batch")[:, 0].tolist() == [224]
    assert "batch 1, hollow 8" in axes.get_title(loc="left")


def test_on_a_cpu_the_twin_is_an_arm_of_its_own(campaigns):
    figure = sft.kernel(campaigns.measurements)
    axes = panel(figure, "VGG-16", "Xeon")
    assert dict(line(axes, "cpu_pair"))[512] == pytest.approx(40 / 60)
    assert dict(line(axes, "cpu_twin"))[512] == pytest.approx(40 / 80)
