"""What a plan counts against what the systems really make."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from frugal import config, controls, figures
from frugal.controls import planted
from frugal.plan import beside, work


def planned(given: dict, kind: str):
    """The work of each system: of cuSNN alone, where nothing else is asked for."""
    cfg = config.load({"systems": ["cusnn"]} | given)
    return [work.of_system(name, cfg, kind) for name in cfg.systems]


def shape(cases) -> list[list[tuple[str, ...]]]:
    """The regimes of each arm of each case, whatever the order."""
    return sorted(sorted(case) for case in cases)


def test_the_default_layers_on_a_cpu():
    (made,) = planned({"cusnn": {"experiments": ["sparsity", "layers"]}}, "cpu")
    assert list(made.experiments) == ["layers"]
    assert len(made.experiments["layers"]) == 6  # three shapes at two batch sizes
    assert made.side_jobs == 2  # the zeros of each network
    loops, torchs = ("cold", "graph", "wall"), ("cold", "wall")
    assert {case.arms for case in made.experiments["layers"]} == {(loops, loops, torchs, torchs)}


def test_the_recorded_campaigns_layers_on_a_gpu():
    given = {
        "cusnn": {
            "definition": "keras_v1", "layers": "all", "regimes": ["graph"], "ours": ["sparse", "dense_twin"],
            "baselines": ["cudnn_fp32", "onednn_fp32"], "batch_sizes": [1, 8], "kernel_sizes": [3],
        }
    }  # fmt: skip
    (made,) = planned(given, "cuda")
    cases = made.experiments["layers"]
    assert len(cases) == 2 * 98  # 82 and 16 layers, as results/recorded has them
    assert {case.arms for case in cases} == {(("graph",),) * 3}  # oneDNN is no arm of a GPU
    one, eight = cases[0], cases[1]
    assert eight.flop == 8 * one.flop
    assert one.flop == 2 * 32 * 128 * 9 * 56**2
    assert one.bytes == 4 * ((128 + 32) * 56**2 + 32 * 128 * 9)


@pytest.mark.parametrize(
    ("regimes", "arms"),
    [
        (["hot", "graph_rotated"], (("hot",), ("hot",))),
        (["graph"], (("graph",), ())),
        (None, (("cold", "graph", "wall"), ("cold", "wall"))),
    ],
)
def test_regimes_that_a_cpu_does_not_have_take_no_time(regimes, arms):
    given = {"cusnn": {"ours": ["sparse"], "baselines": ["onednn_fp32"]}, "timing": {"regimes": regimes}}
    (made,) = planned(given, "cpu")
    assert made.experiments["layers"][0].arms == arms


def test_what_stays_on_the_device_is_every_layers_input_and_weights():
    only = {"networks": ["resnet50"], "definition": "keras_v1", "weights": "synthetic", "kernel_sizes": [3]}
    given = {"preset": "quick", "cusnn": only, "data": {"n_images": 2}}
    (made,) = planned(given, "cuda")
    shapes = [(64, 56), (128, 28), (256, 14), (512, 7)]
    assert made.resident_bytes == sum(4 * (2 * c * side**2 + 9 * c * c) for c, side in shapes)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("preset", ["smoke", "quick"])
@pytest.mark.parametrize("experiment", ["break_even", "ladder"])
def test_shapes_of_an_experiments_own_are_counted_as_its_cases_are(experiment, preset, kind):
    (made,) = planned({"preset": preset, "cusnn": {"experiments": [experiment]}}, kind)
    counted = made.experiments[experiment]
    if experiment == "break_even":
        # shapes, batch sizes, shares of zeros
        assert len(counted) == {"smoke": 3 * 1 * 3, "quick": 11 * 2 * 5}[preset]
        # ours and its twin, and of the baselines those of this kind that are not tuned for hours
        assert {len(case.arms) for case in counted} == {2 + (5 if kind == "cuda" else 2)}
    else:
        assert len(counted) == (2 if preset == "smoke" else 4 * 2)
    regime = "graph" if kind == "cuda" else "wall"
    assert {regimes for case in counted for regimes in case.arms} <= {(regime,), ()}
    # on a CPU the six rungs are rows without a time
    assert all(case.arms.count(()) == (6 if (kind, experiment) == ("cpu", "ladder") else 0) for case in counted)


def test_a_sweep_of_the_map_stays_in_bounds():
    (made,) = planned({"preset": "sweep", "cusnn": {"experiments": ["break_even"]}}, "cuda")
    assert len(made.experiments["break_even"]) == 11 * 2 * 9  # and real masks make it at most 300


def test_whole_networks_are_counted():
    given = {"preset": "quick", "cusnn": {"experiments": ["networks"], "networks": ["resnet50"], "batch_sizes": [1, 8]}}
    (made,) = planned(given, "cuda")
    one, eight = made.experiments["networks"]
    assert eight.flop == 8 * one.flop
    assert one.flop == pytest.approx(2 * 4.1e9, rel=0.01)  # 4.1 GMAC, the figure that torchvision publishes
    assert one.energy == len(one.arms) > 5
    assert set(one.arms) == {("graph", "wall")}


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_method_is_counted_as_its_cases_are(kind: str):
    from frugal.method import cases

    (made,) = planned({"systems": ["method"], "cusnn": {"weights": "synthetic"}}, kind)
    # graph of a CPU is attempted and unsupported, which takes no time
    kept = ("cold", "hot", "wall") if kind == "cpu" else ("cold", "hot", "graph", "wall")
    for experiment, found in made.experiments.items():
        real = list(cases.cases(SimpleNamespace(kind=kind, memory_bytes=140 * 10**9), {}, print, experiment=experiment))
        expected = [[tuple(r for r in arm.regimes if r in kept) for arm in arms] for _, arms in real]
        assert shape(case.arms for case in found) == shape(expected)
        assert sum(case.energy for case in found) == sum(len(arms) for case, arms in real if "energy" in case.measures)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("preset", ["smoke", "headline"])
def test_the_controls_are_counted_as_they_are(kind: str, preset: str):
    real = controls.cases(SimpleNamespace(kind=kind, memory_bytes=140 * 10**9), preset, "cusnn/layers")
    # wrong arms never get as far as timing
    expected = [[() if arm.role == "control" else arm.regimes for arm in arms] for _, arms in real]
    assert shape(case.arms for case in work.controls(preset, kind)) == shape(expected)


def test_the_figures_are_counted_as_they_are():
    counted = {system: sum(name.startswith(f"{system}_") for name in figures.NAMES) for system in beside.FIGURES}
    assert counted == beside.FIGURES
    assert sum(counted.values()) == len(figures.NAMES)


def test_the_design_is_the_configurations():
    design = work.design_of(
        config.load({"preset": "quick", "timing": {"sessions": 5, "rounds": 4, "block_min_s": 0.05}})
    )
    assert (design.preset, design.sessions, design.rounds, design.block_min_s) == ("quick", 5, 4, 0.05)
    assert design.block_max_s == 1.0


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_copy_of_the_controls_moves_what_it_moves(kind: str):
    copy = work.controls("quick", kind)[2]
    # read and written, with a fifth more work in ours
    assert copy.bytes == pytest.approx(1.2 * 2 * 4 * planted.PIECES[kind] * planted.PIECE[kind], rel=1e-12)


@pytest.mark.parametrize("memory", [8e9, 140e9])
def test_the_copy_of_the_controls_holds_what_fits_the_device(memory: float):
    copy = work.controls("smoke", "cuda", memory)[2]
    _, arms = planted.copy_case(SimpleNamespace(kind="cuda", memory_bytes=int(memory)), "smoke", "cusnn/layers")
    assert work.MEMORY_PARTS == planted.MEMORY_PARTS
    most = max(4.0 * arm.settings["pieces"] * arm.settings["numbers"] for arm in arms)
    assert copy.memory_bytes == pytest.approx(6 * most, rel=1e-6)
