"""DTR: curves, marks and bars are the rows' values, what failed is told, and published values are hollow."""

import invented_budgets as budgets
import invented_campaigns as invented
import matplotlib.colors as mcolors
import numpy as np
import pytest
from reading_figures import layout_is_sound, words

from frugal import figures
from frugal.figures import published
from frugal.figures.dtr import programs
from frugal.figures.dtr.prototype import UNLIMITED
from frugal.figures.dtr.prototype import published as of_paper

PAPERS = published.load("dtr")
NAMES = tuple(name for name in figures.NAMES if name.startswith("dtr_"))


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory):
    """A smoke campaign on a CPU beside a recorded one of every experiment on a GPU."""
    return invented.frames(tmp_path_factory.mktemp("dtr"), local=budgets.smoke, recorded=budgets.h200)


@pytest.fixture(scope="module")
def drawn(campaigns):
    """Each figure, drawn once."""
    return {name: figures.figure(name, campaigns) for name in NAMES}


@pytest.fixture(scope="module")
def without_rows(tmp_path_factory):
    return invented.frames(tmp_path_factory.mktemp("none"), local=lambda folder: invented.write(folder))


@pytest.fixture(scope="module")
def all_failed(tmp_path_factory):
    """A campaign in which every process died."""

    def failed(folder):
        lost = {"value": None, "status": "failed", "reason": "died of SIGSEGV"}
        invented.write(folder, [row | lost for row in budgets.every("A", cuda=True)], (), [invented.run("A", "cuda")])

    return invented.frames(tmp_path_factory.mktemp("failed"), local=failed)


def panel(figure, *said):
    """The one panel whose title has all of these words."""
    (found,) = [axes for axes in figure.axes if all(word in axes.get_title(loc="left") for word in said)]
    return found


def line(axes, label):
    """(x, y) of the line or marks with a label."""
    (found,) = [each for each in axes.lines if each.get_label() == label]
    return np.column_stack([found.get_xdata(), found.get_ydata()]).astype(float)


def dashes(axes, label):
    (found,) = [each for each in axes.lines if each.get_label() == label]
    return found.get_linestyle(), found._unscaled_dash_pattern[1]


# ---- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_fits_its_page(name, drawn):
    layout_is_sound(drawn[name])


@pytest.mark.parametrize("name", NAMES)
def test_without_rows_a_figure_says_what_to_type(name, without_rows):
    said = words(figures.figure(name, without_rows))
    assert "neither on this machine nor in a recorded campaign" in said
    assert programs.COMMAND in said


@pytest.mark.parametrize("name", NAMES)
def test_where_all_failed_the_figure_says_how(name, all_failed):
    said = words(figures.figure(name, all_failed))
    assert "not drawn" in said
    assert "died of SIGSEGV" in said


def test_steps_timed_in_two_threads_and_counted_in_one_stand_together(tmp_path):
    def campaign(folder):
        rows = [row | {"run_id": "A" if row["metric"] == "time" else "C"} for row in budgets.steps("A")]
        invented.write(folder, rows, (), [invented.run("A", "cpu"), invented.run("C", "cpu", threads=1)])

    found = invented.frames(tmp_path, local=campaign).measurements
    assert found["machine"].nunique() == 2
    assert set(programs.of(found, ("budgets", "memory"), "time", "peak_total")["machine"]) == {
        "this machine (Intel Xeon 8481C, 2 threads)"
    }


def test_an_unknown_figure_of_dtr_is_answered_with_the_names(campaigns):
    with pytest.raises(figures.FrugalError, match="dtr_fragmentation"):
        figures.figure("dtr_stairs", campaigns)


@pytest.mark.parametrize(
    ("arm", "said"),
    [("dtr@budget=0.5", "ours: DTR, budget 0.5"), ("plain", "plain"),
     ("h_dtr@ratio=0.3,e_star=lazy", "h_dtr, ratio 0.3, e star lazy")],
)  # fmt: skip
def test_arms_in_words(arm, said):
    assert programs.in_words(arm) == said


# ---- simulated overheads ---------------------------------------------------------------------------------------------


def test_curves_are_overheads_by_budget(drawn):
    axes = panel(drawn["dtr_pareto"], "ResNet-32", "H200")
    expected = [[k / 10, budgets.overhead("h_dtr", k / 10)] for k in range(2, 11)]
    assert line(axes, "h_dtr h_dtr") == pytest.approx(np.array(expected))
    steps = [each.get_drawstyle() for each in axes.lines if each.get_label() == "h_dtr h_dtr"]
    assert steps == ["steps-post"]  # a budget between two is as slow as the smaller one


def test_draws_are_a_mean_and_a_band(drawn):
    axes = panel(drawn["dtr_pareto"], "ResNet-32", "H200")
    random = line(axes, "h_rand h_rand")
    assert random[-1] == pytest.approx([1.0, 1.0 + 0.02])  # of seeds 0, 1 and 2
    (band,) = axes.collections
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(budgets.overhead("h_rand", 0.5) + 0.04)


def test_a_tick_says_why_a_smaller_budget_failed(drawn):
    axes = panel(drawn["dtr_pareto"], "ResNet-32", "H200")
    assert line(axes, "h_lru h_lru least")[:, 0].tolist() == [0.6, 0.6]
    dotted, dashed = dashes(axes, "h_lru h_lru least"), dashes(axes, "h_local h_local least")
    assert dotted[1] == (1, 1.5)  # out of memory
    assert dashed[1] == (4, 2)  # recomputation


def test_bands_are_constants_and_the_largest_operator(drawn):
    axes = panel(drawn["dtr_pareto"], "ResNet-32", "H200")
    spans = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches)
    assert spans == [pytest.approx((0, 0.05)), pytest.approx((0.05, 0.11))]


def test_a_published_log_is_drawn_once(drawn):
    assert len([axes for axes in drawn["dtr_pareto"].axes if "published log" in axes.get_title(loc="left")]) == 1


def test_ablations_have_a_panel_a_numerator(drawn):
    titles = [axes.get_title(loc="left") for axes in drawn["dtr_ablation"].axes if "H200" in axes.get_title(loc="left")]
    assert [title.split("numerator ")[1].split("\n")[0] for title in titles] == ["c + e*", "c + ẽ*", "c", "1"]
    labels = {each.get_label() for each in panel(drawn["dtr_ablation"], "H200", "ẽ*").lines}
    assert {"size_stale ab.eq.size_stale", "none ab.eq.none"} <= labels


def test_ways_to_deallocate_have_colours_and_heuristics_dashes(drawn):
    axes = panel(drawn["dtr_dealloc"], "ResNet-32", "H200")
    kept = dict(line(axes, "ignore h_dtr"))
    freed = dict(line(axes, "evict h_dtr"))
    assert kept[0.5] - freed[0.5] == pytest.approx(0.2)
    assert dashes(axes, "banish h_dtr_unopt") == dashes(axes, "evict h_dtr_unopt")
    assert dashes(axes, "banish h_dtr_unopt") != dashes(axes, "banish h_local")


def test_accesses_by_way_of_search(drawn):
    axes = panel(drawn["dtr_accesses"], "ResNet-32", "H200")
    assert dict(line(axes, "maintained"))[0.5] == pytest.approx(2e7)
    assert dict(line(axes, "lazy"))[0.5] == pytest.approx(3e5)
    assert dict(line(axes, "cached"))[1.0] == pytest.approx(1e5)


# ---- chains and plans ------------------------------------------------------------------------------------------------


def test_chains_say_how_remats_grow(drawn):
    axes = panel(drawn["dtr_chain"], "2√n")
    assert dict(line(axes, "h_lru"))[256] == pytest.approx(0.4 * 16)
    assert line(axes, "milp").tolist() == [[8, pytest.approx(0.7)]]
    assert "n^1.00" in axes.get_title(loc="left")  # 0.9 for each layer at every length
    adversary = panel(drawn["dtr_chain"], "adversary")
    assert line(adversary, "h_dtr") == pytest.approx(np.array([[32, 1.0], [64, 2.0]]))
    assert len(drawn["dtr_chain"].axes) == 4  # the same on every machine


def test_the_optimum_lies_between_the_bound_and_the_best_schedule(drawn):
    axes = panel(drawn["dtr_static"], "ResNet-32", "H200")
    (band,) = axes.collections
    assert band.get_label() == "optimum"
    corners = band.get_paths()[0].vertices
    assert corners[corners[:, 0] == 0.3][:, 1].min() == pytest.approx(1.07)
    assert corners[corners[:, 0] == 0.3][:, 1].max() == pytest.approx(1.14)
    assert dict(line(axes, "h_dtr"))[0.5] == pytest.approx(1.15)
    assert "revolve" not in {each.get_label() for each in axes.lines}
    assert "revolve" in {each.get_label() for each in panel(drawn["dtr_static"], "chain of 8").lines}


# ---- measured steps --------------------------------------------------------------------------------------------------


def test_bars_are_what_the_runtime_counts_and_marks_are_timed(drawn):
    axes = panel(drawn["dtr_prototype"], "ResNet-32", "H200")
    marks = dict(line(axes, "measured"))
    assert marks[UNLIMITED] == pytest.approx(1.04)
    assert marks[0.5] == pytest.approx(1.04 + 0.125)
    tops = {round(bar.get_x() + bar.get_width() / 2, 3): bar.get_y() + bar.get_height() for bar in axes.patches}
    assert tops[0.5] == pytest.approx(0.95 + 0.125 + 0.004 + 0.001 + 0.05)
    peaks = drawn["dtr_prototype"].axes[drawn["dtr_prototype"].axes.index(axes) + 1]
    assert dict(line(peaks, "peak")) == pytest.approx({0.3: 0.3, 0.5: 0.5, 0.8: 0.8})


def test_published_steps_are_hollow_with_their_gpu(drawn):
    axes = panel(drawn["dtr_prototype"], "LSTM", "H200")
    (mark,) = [each for each in axes.lines if each.get_label() == "published"]
    assert mcolors.to_rgb(mark.get_markerfacecolor()) == (1, 1, 1)
    assert max(mark.get_ydata()) == pytest.approx(1.41, abs=5e-3)  # at 4 GB
    assert "published, Titan V 12 GB" in words(drawn["dtr_prototype"])
    assert not len(line(panel(drawn["dtr_prototype"], "ResNet-32", "H200"), "published"))  # 32 layers were not


def test_published_slowdowns_are_those_of_the_runs_over_budgets():
    found = of_paper(PAPERS, ["inceptionv4", "unrolled_gan"])
    assert found["slowdown"].max() == pytest.approx(1.25, abs=5e-3)
    assert set(found["network"]) == {"inceptionv4", "unrolled_gan"}
    assert (found["memory_ratio"] < 1.0).all()


def test_predictions_within_the_band_are_counted(drawn):
    axes = panel(drawn["dtr_predicted_measured"], "time", "H200")
    marks = line(axes, "resnet32")
    assert marks[:, 1] / marks[:, 0] == pytest.approx(1.02)
    assert "5 of 5 within 10%" in axes.get_title(loc="left")  # the LSTM had no room at 0.3


def test_arms_stand_at_their_peak_and_time(drawn):
    axes = panel(drawn["dtr_arms"], "ResNet-32", "H200")
    assert line(axes, "checkpoint_blocks") == pytest.approx(np.array([[1.1 * 0.6 * 400e6, 1.2]]))
    assert line(axes, "dtr")[:, 0] == pytest.approx([1.1 * share * 400e6 for share in (0.3, 0.5, 0.8, 1.0)])
    here = panel(drawn["dtr_arms"], "ResNet-32", "Xeon")
    assert line(here, "checkpoint_blocks")[0, 0] == pytest.approx(0.6 * 400e6)  # live bytes on a CPU
    assert "activation_budget" not in {each.get_label() for each in here.lines}


def test_bars_of_reach_are_the_largest_sizes(drawn):
    axes = panel(drawn["dtr_reach"], "ResNet-1202", "H200")
    ours = [bar for bar in axes.patches if mcolors.same_color(bar.get_facecolor(), programs.METHODS["dtr"].colour)]
    assert sorted(bar.get_height() for bar in ours) == [128, 512]
    assert {"10 ms, 64", "14.1 ms, ≥512"} <= {text.get_text().strip() for text in axes.texts}
    assert "4 oom" in words(drawn["dtr_reach"])


def test_added_time_is_for_each_operator(drawn):
    axes = panel(drawn["dtr_overhead"], "added", "H200")
    widths = dict(zip([tick.get_text() for tick in axes.get_yticklabels()], axes.patches, strict=True))
    assert widths["add"].get_width() == pytest.approx(20e-6)
    assert widths["convolution"].get_width() == pytest.approx(30e-6)
    search = panel(drawn["dtr_overhead"], "search", "H200")
    whole = 0.95 + 0.125 + 0.004 + 0.001 + 0.05
    assert [bar.get_width() for bar in search.patches] == pytest.approx([0.004 / whole] * 2)


def test_moments_of_the_allocator(drawn):
    axes = panel(drawn["dtr_fragmentation"], "ResNet-32", "0.5")
    assert line(axes, "reserved 0")[:, 1] == pytest.approx(1.2 * 400e6)
    assert line(axes, "reserved 1")[:, 1] == pytest.approx(1.05 * 400e6)
    assert dict(line(axes, "allocated 0"))[0] == pytest.approx(400e6 * 0.5 * 0.5)
