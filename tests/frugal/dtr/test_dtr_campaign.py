"""DTR's campaign: what it offers, what its jobs write, and whether rows say what the library says."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import get_args

import pandas as pd
import pytest
import torch

from frugal import config, provenance, records
from frugal.config.dtr_section import DtrNetwork
from frugal.dtr import (
    bench_runtime,
    bench_step,
    captures,
    cases,
    count_chain,
    count_memory,
    count_reach,
    count_simulate,
    count_static,
    offered,
    probe,
    programs,
    reach_table,
    residency,
    rows,
)  # fmt: skip
from frugal.dtr.heuristics import HEURISTICS, find
from frugal.dtr.logs import chain
from frugal.dtr.methods import METHODS
from frugal.dtr.offered import Method, Subject
from frugal.dtr.sim import simulate
from frugal.jobs import counted
from frugal.memory import LiveBytes, MacCounter
from frugal.plan import dtr_work
from frugal.timing.case import ARMS_MAX

CPU = SimpleNamespace(kind="cpu", memory_bytes=2**34)
PRESETS = ("smoke", "quick", "sweep", "headline")
KINDS = ("cpu", "cuda")
QUICK = ("resnet32", "unet", "lstm", "transformer")


def section(preset="smoke", **given):
    return config.dtr(config.load({"preset": preset, "systems": ["dtr"], "dtr": given}))


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """The folder of the captured logs of two networks, with nominal costs."""
    folder = tmp_path_factory.mktemp("logs")
    for name in ("resnet32", "lstm"):
        captures.capture(name, offered.SIZES["small"][name], str(folder), "meta", 0)
    return str(folder)


# ---- what is offered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_cases_hold_no_more_arms_than_a_session_takes_and_shards_hold_every_case_once(preset, kind):
    dtr = section(preset)
    wanted = [(name, each) for name in ("budgets", "arms") for each in offered.step_subjects(name, dtr, kind)]
    for name, subject in wanted:
        arms = [method.arm for method in offered.step_methods(name, dtr, subject, kind)]
        assert len(set(arms)) == len(arms) <= ARMS_MAX
        assert arms[0] == "plain"
    spread = [pair for shard in offered.shards(dtr, kind) for pair in offered.of_shard(shard, dtr, kind)]
    assert sorted(spread, key=repr) == sorted(wanted, key=repr)


def test_names_are_those_of_the_library():
    assert {method.name for method in offered.simulated(section("headline"))} <= set(HEURISTICS)
    for name, mode in offered.DEALLOCATED:
        assert mode != "banish" or find(name).banishes
    named = {name for group in offered.GROUPS.values() for name in group}
    assert named == set(METHODS) - {"plain"}
    assert set(offered.OPERATOR_CLASSES_MORE) == set(bench_runtime.CLASSES)
    assert set(offered.CHAIN_BOUNDS) == set(count_chain.BOUNDS)
    assert set(rows.EXPERIMENTS) == set(offered.COUNTED)
    for which in offered.SIZES.values():
        assert set(which) == set(get_args(DtrNetwork))


def test_every_ratio_of_the_figures_is_there():
    assert offered.ratios(section()) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    fine = offered.ratios(section("headline"))
    assert len(fine) == 19
    assert (fine[0], fine[-1]) == (0.1, 1.0)
    arms = [method.arm for method in offered.simulated(section(ratios=[0.5], draws=2))]
    assert len(set(arms)) == len(arms)
    assert {"h_dtr_eq@ratio=0.5", "h_rand@ratio=0.5,seed=1", "h_dtr_unopt@ratio=0.5,dealloc=banish",
            "h_dtr@ratio=0.5,e_star=cached", "ab.one.none@ratio=0.5,seed=0"} <= set(arms)  # fmt: skip


def test_published_budgets_are_asked_for_at_published_sizes_alone():
    dtr = section("quick", networks=["inceptionv4"])
    for kind, there in (("cuda", True), ("cpu", False)):
        arms = [m.arm for m in offered.budget_methods(dtr, offered.subject(dtr, "inceptionv4", kind))]
        assert ("dtr@budget=0.38" in arms) == there


@pytest.mark.parametrize(
    "network",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in offered.SIZES["small"]],
)
def test_a_plan_knows_what_a_step_takes(network):
    made = programs.program(network, offered.SIZES["small"][network], "meta", 0)
    live = LiveBytes(collect=False)
    made.begin()
    live.track(made.resident())
    with MacCounter() as count, live:
        made.loss(made.model(*made.inputs)).backward()
    macs, peak = dtr_work.STEPS["small"][network]
    assert count.total == macs
    # The planned peak is that of a step without a counter of multiply-adds, which holds a value or two longer.
    assert live.peak_total == pytest.approx(peak, rel=0.1)


def test_a_plan_counts_what_a_session_times(logs):
    cfg = config.load({"systems": ["dtr"], "dtr": {"networks": ["lstm", "resnet32"]}})
    made = [arms for _, arms in bench_step.cases(CPU, {}, print, shard="all", dtr=config.dtr(cfg), logs=logs)]
    planned = dtr_work.dtr(cfg, "cpu")
    assert sorted(map(len, made)) == sorted(len(case.arms) for case in planned.experiments["all"])
    assert planned.side_jobs == 1 + 5  # captures, and each counted experiment of a CPU
    assert planned.side_processes == 0 < dtr_work.dtr(cfg, "cuda").side_processes


def test_timed_arms_give_plain_pytorchs_gradients(logs):
    dtr = section(networks=["lstm"], budgets=[0.7], experiments=["arms"])
    ((case, arms),) = bench_step.cases(CPU, {}, print, shard="all", dtr=dtr, logs=logs)
    given = case.inputs(0, "timed")
    right = case.reference(given)
    assert [arm.name for arm in arms] == ["plain", "dtr@budget=0.7", "checkpoint_blocks", "save_on_cpu"]
    for arm in arms:
        found = arm.prepare(given).run()
        assert [torch.equal(a.double(), b.y) for a, b in zip(found, right, strict=True)] == [True] * len(right)
    assert arms[1].settings["budget_bytes"] == captures.read("lstm", logs).budget_bytes(0.7)
    other = arms[0].prepare(case.inputs(0, "recheck")).run()
    assert not torch.equal(other[1].double(), right[1].y)


# ---- programs --------------------------------------------------------------------------------------------------------


def test_steps_of_a_turn_are_equal_and_those_of_another_turn_are_not():
    made = programs.program("transformer", offered.SIZES["small"]["transformer"], "cpu", 0)
    plain = cases.step(made, Method("plain"), None, "")
    first, again, other = (float(plain.run(turn)) for turn in (0, 0, 1))
    assert first == again != other


def test_a_step_that_learns_begins_where_it_began():
    made = programs.program("unrolled_gan", offered.SIZES["small"]["unrolled_gan"], "cpu", 0)
    plain = cases.step(made, Method("plain"), None, "")
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    assert float(plain.run(0)) == float(plain.run(0))
    assert any(not torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    made.begin()
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())


def test_a_capture_is_the_step_and_its_costs_decide_as_its_log_does(logs):
    found = captures.read("lstm", logs)
    assert found.nominal
    assert found.log.metadata["sizes"] == "batch=64,seq=16,input=32,hidden=64"
    made = programs.program("lstm", offered.SIZES["small"]["lstm"], "cpu", 0)
    arm = cases.step(made, Method("dtr", {"budget": 0.6}), found, "h_dtr_eq")
    arm.run(0)
    values, expected = cases.report_values(arm.budget), simulate(found.log, "h_dtr_eq", found.budget_bytes(0.6))
    assert values["remats"] == expected.remats > 0
    assert values["peak_managed"] == expected.max_memory
    assert values["over_budget"] <= 0


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_simulated_rows_are_the_simulators(logs):
    dtr = section(networks=["resnet32"], ratios=[0.1, 0.8], draws=1)
    found = {each.arm: each for each in count_simulate.results(CPU, lambda line: None, "all", dtr, logs)}
    log = captures.read("resnet32", logs).log
    for arm, given in (("h_dtr_eq@ratio=0.8", {}), ("h_local@ratio=0.8,dealloc=banish", {"dealloc": "banish"})):
        right = simulate(log, arm.split("@")[0], ratio=0.8, **given)
        assert right.status == "ok"
        assert found[arm].values["overhead"] == right.overhead
        assert found[arm].values["tensor_accesses"] == right.tensor_accesses
        assert found[arm].settings["budget_bytes"] == int(log.baseline().memory * 0.8)
    assert found["plain"].values["peak"] == log.baseline().memory
    assert found["h_size@ratio=0.1"].fault.status in ("oom", "failed")
    assert all(bool(each.values) != bool(each.fault) for each in found.values())


def test_the_chain_is_the_theorems():
    dtr = section(networks=["resnet32"])
    found = list(count_chain.results(CPU, lambda line: None, "all", dtr, ""))
    linear = [each for each in found if each.axes["bound"] == "2sqrt" and each.arm == "h_dtr_eq"]
    assert [each.axes["layers"] for each in linear] == list(offered.CHAIN_LAYERS["smoke"])
    assert linear[-1].values["remats_per_layer"] == 230 / 256  # the published simulator's
    assert all(each.values["operations_per_layer"] <= 3 for each in linear)
    best = {each.arm: each.values["remats_per_layer"] for each in found
            if (each.axes["layers"], each.axes["bound"]) == (8, "2sqrt")}  # fmt: skip
    assert best["milp"] == min(best.values())


def test_planners_and_heuristics_get_the_same_graph_and_budget(logs):
    dtr = section(networks=["resnet32"])
    found = list(count_static.results(CPU, lambda line: None, "all", dtr, logs))
    assert {each.axes["network"] for each in found} == {"chain", "resnet32"}
    for each in found:
        assert each.values.get("peak", 0) <= each.settings["budget_bytes"]
    eight = {each.arm: each for each in found if each.axes["network"] == "chain" and each.axes["ratio"] == 0.8}
    bound = eight["lp_bound"].values["overhead"]
    assert bound <= eight["milp"].values["overhead"] <= eight["h_dtr"].values["overhead"]
    assert set(eight["lp_bound"].values) == {"overhead"}


def test_memory_is_measured_beside_what_was_predicted(logs):
    dtr = section(networks=["lstm"], budgets=[0.7, 0.01], methods=["save_on_cpu", "checkpoint_sqrt"])
    found = {each.arm: each for each in count_memory.results(CPU, lambda line: None, "all", dtr, logs)}
    values = found["dtr@budget=0.7"].values
    assert values["differing"] == 0
    assert values["overhead_counted"] == pytest.approx(values["overhead_predicted"], abs=1e-6)  # the clock begins at 1
    assert (values["peak_managed"], values["remats"]) == (values["peak_predicted"], values["remats_predicted"])
    assert values["over_budget"] <= 0 < found["dtr"].values["peak_total"] - values["peak_total"]
    assert found["plain"].values["differing"] == found["save_on_cpu"].values["differing"] == 0
    assert found["dtr@budget=0.01"].fault.status == "oom"
    assert found["checkpoint_sqrt"].fault.status == "unsupported"


def test_a_larger_size_is_reached_within_the_cap():
    dtr = section(networks=["lstm"], caps_gib=[2**-10], methods=["save_on_cpu"])
    found = {each.arm: each for each in count_reach.results(CPU, lambda line: None, "all", dtr, "")}
    sizes = {arm: each.values["max_size"] for arm, each in found.items() if each.values}
    assert 1 < sizes["plain"] < sizes["dtr"]
    made = programs.program("lstm", {**offered.SIZES["small"]["lstm"], "seq": int(sizes["plain"])}, "meta", 0)
    live = LiveBytes(collect=False)
    probe.counted_step(live, made, cases.step(made, Method("plain"), None, ""))
    assert live.peak_total <= 2**20
    assert "seq" not in found["dtr"].axes


def test_a_size_that_only_recomputing_could_hold_does_not_fit():
    sizes = offered.SIZES["small"]["lstm"]
    given = {"network": "lstm", "sizes": sizes, "grows": "seq", "device": "cpu", "seed": 0, "heuristic": "h_dtr_eq"}
    with pytest.raises(MemoryError):
        probe.grown_step(64, method="dtr", settings={"budget_bytes": 900_000}, **given)


def test_a_job_file_holds_rows_of_every_attempt(tmp_path, monkeypatch):
    (tmp_path / "device.json").write_text(json.dumps(provenance.device_record("cpu")))
    monkeypatch.setattr(counted.provenance, "check_device", lambda device: None)
    dtr = section(networks=["resnet32"])
    rows.write(
        experiment="chain", shard="all", dtr=dtr | {"solver_s": 0.5}, logs="", device=tmp_path / "device.json",
        preset="smoke", threads=1, config_json="{}", campaign_id=None, log="logs/x.log", out=tmp_path / "x.parquet",
        say=lambda line: None,
    )  # fmt: skip
    run, made, samples = records.read_job(tmp_path / "x.parquet")
    assert (run.experiment, samples) == ("chain", {})
    assert {"ok", "oom"} <= {row.status for row in made}
    assert all((row.value is None) == (row.status != "ok") for row in made)


def test_the_table_of_reach_has_a_row_an_arm():
    axes = json.dumps({"network": "lstm", "grows": "seq", "cap_gib": 0.5, "device": "cuda"})
    common = {"system": "dtr", "experiment": "reach", "case_id": "a", "network": "lstm", "axes_json": axes,
              "device_key": "gpu", "status": "ok", "reason": None}  # fmt: skip
    table = reach_table.table(
        pd.DataFrame(
            [
                common | {"arm": "dtr", "metric": "max_size", "value": 40.0},
                common | {"arm": "dtr", "metric": "time_per_sample", "value": 0.5},
                common | {"arm": "plain", "metric": "max_size", "value": None, "status": "oom", "reason": "no"},
            ]
        )
    )
    assert list(table.columns) == list(reach_table.COLUMNS)
    assert table["arm"].tolist() == ["dtr", "plain"]
    assert table["time_per_sample_s"].tolist()[0] == 0.5


def test_what_is_resident_never_passes_the_budget_and_ends_with_the_gradients():
    table = residency.table(layers=16).to_pandas()
    there = table.groupby(["arm", "moment"]).size()
    assert there.max() == count_chain.BOUNDS["2sqrt"](16)
    runs = simulate(chain(16), "h_dtr", 8, overhead_limit=count_chain.LIMIT)
    assert table[table["arm"] == "h_dtr"]["moment"].max() + 1 == runs.ops_executed + runs.remats


def test_axes_and_columns_of_a_subject():
    subject = Subject("unet", (("batch", 2), ("h", 64), ("w", 96))).having(group="eager")
    assert subject.axes() == {"network": "unet", "batch": 2, "h": 64, "w": 96, "group": "eager"}
    assert subject.columns() == {"network": "unet", "n": 2, "h": 64, "w": 96}
    assert subject.grown("batch", 5).axes()["batch"] == 5
    assert Method("dtr", {"budget": 0.5}).arm == "dtr@budget=0.5"
