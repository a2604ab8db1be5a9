"""The controls as a session measures them: through frugal.timing on this CPU, and with stand-ins for a GPU's kernel."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

from frugal import controls
from frugal.controls import null, planted, wanted, wrong
from frugal.controls.builds import builds
from frugal.timing import CpuDevice, Design, Unsupported, measure_case
from frugal.timing.session import summary
from kernels import control
from kernels.build import BuildReport

# a block of three samples at most, and regimes of a system that offers none of the controls' own
DESIGN = Design.of("smoke", n_min=3, block_max_s=0.02, warmup_cpu_s=0.0, regimes=["hot"])
GPU = SimpleNamespace(kind="cuda", memory_bytes=140 * 10**9)
VARIANT = control.variants()[0]


@pytest.fixture
def measured(monkeypatch):
    """The rows and samples of the controls of one small session on this CPU."""
    monkeypatch.setitem(planted.PIECE, "cpu", 2_000)
    device = CpuDevice(llc_bytes=1)
    rows, samples = [], {}
    for case, arms in controls.cases(device, "smoke", "cusnn/layers"):
        result = measure_case(case, arms, DESIGN, 0, device)
        rows += result.rows
        samples |= result.samples
    return rows, samples


def test_a_session_on_a_cpu_passes_its_controls(measured):
    rows, samples = measured
    assert {(row.experiment, row.arm, row.regime) for row in rows if row.experiment != "wrong"} == {
        ("null", "first", "wall"), ("null", "second", "wall"),
        ("planted", "planted", "graph"), ("planted", "planted@work=2", "graph"),
        ("planted_copy", "planted", "cold"), ("planted_copy", "planted@work=2", "cold"),
    }  # fmt: skip
    judged = controls.judge(rows, samples, "smoke", "cpu")
    assert judged.passed, judged.outcomes
    assert all(outcome["measured"] is not None for outcome in judged.outcomes.values())


def test_each_wrong_arm_is_called_incorrect_for_its_own_reason(measured):
    reasons = {row.arm: row.reason for row in measured[0] if row.experiment == "wrong"}
    statuses = {row.arm: row.status for row in measured[0] if row.experiment == "wrong"}
    assert statuses == dict.fromkeys(wanted.WRONG, "incorrect")
    assert reasons["one_percent_off"].startswith("error")
    assert reasons["one_unwritten"].startswith("unwritten: 1 elements")
    assert reasons["cached"].startswith("after timing: error")


def test_progress_says_that_a_wrong_arm_was_caught_and_calls_it_no_failure(measured):
    said = summary([row for row in measured[0] if row.experiment == "wrong"])
    assert said == " · ".join(f"{name} caught, as it must be" for name in wanted.WRONG)


def test_the_cached_answer_is_right_while_nobody_times_it():
    prepare = wrong.arms()["cached"]
    seen = []
    for seed in range(4):
        inputs = null.matrices(8, "cpu", seed, "verify")
        prepared = prepare(inputs)
        prepared.run()
        right = null.product(inputs).y
        seen.append(torch.allclose(prepared.outputs[0].double(), right, atol=1e-4))
    assert seen == [True, True, False, False]


def test_an_unwritten_element_looks_right_until_it_is_poisoned():
    inputs = null.matrices(8, "cpu", 0, "verify")
    prepared = wrong.arms()["one_unwritten"](inputs)
    prepared.run()
    assert torch.allclose(prepared.outputs[0].double(), null.product(inputs).y, atol=1e-4)


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
@pytest.mark.parametrize("preset", ["smoke", "quick", "sweep", "headline"])
def test_work_is_planted_exactly(preset, kind):
    work = wanted.work(preset, kind)
    _, (base, ours) = planted.case(kind, preset, "cusnn/layers", ())
    assert (base.role, ours.role) == ("baseline", "ours")
    assert Fraction(ours.settings["trips"], base.settings["trips"]) == work
    assert Fraction(int(ours.flop), int(base.flop)) == work
    _, (base, ours) = planted.copy_case(machine(kind), preset, "cusnn/layers")
    assert (base.role, ours.role) == ("baseline", "ours")
    assert Fraction(int(ours.bytes_min), int(base.bytes_min)) == work


def machine(kind, memory_bytes=140 * 10**9):
    return SimpleNamespace(kind=kind, memory_bytes=memory_bytes)


def test_a_small_device_copies_smaller_pieces():
    large, small = (
        planted.copy_case(machine("cuda", size), "smoke", "cusnn/layers") for size in (140 * 10**9, 8 * 10**9)
    )
    assert [arm.settings["numbers"] for arm in large[1]] == [planted.PIECE["cuda"]] * 2
    (numbers,) = {arm.settings["numbers"] for arm in small[1]}
    assert 100 * numbers * 4 <= 8e9 / 16 < 100 * (numbers + 1) * 4  # smoke copies a hundred pieces
    assert large[0].case_id == small[0].case_id


def test_two_jobs_have_controls_of_their_own_and_two_machines_the_same():
    def ids(host, kind="cpu"):
        return [case.case_id for case, _ in controls.cases(machine(kind), "smoke", host)]

    assert len({*ids("cusnn/layers"), *ids("method/null")}) == 8
    assert ids("cusnn/layers") == ids("cusnn/layers")
    quick = [case.case_id for case, _ in controls.cases(machine("cpu"), "quick", "cusnn/layers")]
    assert quick == ids("cusnn/layers")  # how much is planted is the arm's, not the case's


def test_what_is_planted_is_judged_by_the_margin_of_kernels():
    assert all(case.layer for case, _ in controls.cases(GPU, "headline", "cusnn/layers"))


# ---- a GPU's kernel --------------------------------------------------------------------------------------------------


class FakeKernel:
    """Takes what the loop takes, and computes what it computes."""

    def __init__(self):
        self.bound = []

    def bind(self, grid, block, args):
        x, y, factor, addend, trips, n = args
        self.bound.append((grid, block, trips, n))

        def launch():
            assert trips * VARIANT.steps % 2 == 0  # then -x + 3 gives x back
            assert (factor, addend) == (control.FACTOR, control.ADDEND)
            y.copy_(x)

        return launch


@pytest.fixture
def reports(tmp_path):
    """The reports of a job: another family's, and the loop's."""
    found = []
    for family, name in (("sparse", "v1_naive"), ("control", VARIANT.name)):
        report = BuildReport(
            family=family, variant=name, entry="fma", capability="9.0", parameters=VARIANT.source().parameters,
            threads=VARIANT.threads, max_registers=None, fastmath=False, registers=10, local_bytes=0,
            spill_store_bytes=0, spill_load_bytes=0, shared_bytes=1024, dynamic_shared_bytes=0,
            constant_bytes=1, instructions=1, ffma=1, source_sha256="s", ptx_sha256="p",
            cubin_sha256=f"cubin of {family}", tools={},
        )  # fmt: skip
        found.append(tmp_path / f"{name}.sm_90.json")
        found[-1].write_text(json.dumps(dataclasses.asdict(report)))
    return found


def test_a_gpu_launches_the_cubin_that_was_built(reports, monkeypatch):
    loaded, kernel = [], FakeKernel()

    def load(prefix):
        loaded.append(prefix)
        return kernel

    monkeypatch.setattr(planted.launch, "load", load)
    _, arms = planted.case("cuda", "headline", "cusnn/layers", [str(path) for path in reports])
    assert [(arm.binary_hash, arm.registers, arm.regimes) for arm in arms] == [("cubin of control", 10, ("graph",))] * 2
    assert loaded == []  # not before it is needed: a session that resumes past it never loads it
    x = torch.arange(1000.0)
    for arm in arms:
        prepared = arm.prepare({"x": x})
        prepared.run()
        assert torch.equal(prepared.outputs[0], x)
    assert loaded == [reports[1].with_suffix("")]
    assert kernel.bound == [((8, 1, 1), 128, 3800, 1000), ((8, 1, 1), 128, 3876, 1000)]


def test_without_its_kernel_a_gpus_planted_control_says_so(reports):
    _, arms = planted.case("cuda", "headline", "cusnn/layers", [str(reports[0])])
    with pytest.raises(Unsupported, match="was not built for this device: run the rule build_kernel"):
        arms[0].prepare({"x": torch.ones(4)})


@pytest.mark.parametrize(
    ("device", "capabilities"),
    [
        ({"device_kind": "cuda", "capability": "8.9"}, ["8.9"]),
        ({"device_kind": "cpu", "capability": None}, ["7.5", "9.0"]),
    ],
)
def test_the_loop_is_built_where_it_runs_and_shown_where_there_is_no_gpu(device, capabilities):
    assert builds(["7.5", "9.0"], device) == [(VARIANT.name, capability) for capability in capabilities]


@pytest.mark.gpu
@pytest.mark.parametrize("preset", ["smoke", "quick", "headline"])
def test_a_session_on_a_gpu_passes_its_controls(preset, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU: its controls are measured")
    from frugal.timing import CudaDevice
    from kernels.build import build

    device = CudaDevice()
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    build(VARIANT.source(capability), capability, tmp_path / "loop")
    rows, samples = [], {}
    for case, arms in controls.cases(device, preset, "cusnn/layers", [tmp_path / "loop.json"]):
        result = measure_case(case, arms, Design.of(preset), 0, device)
        rows += result.rows
        samples |= result.samples
    judged = controls.judge(rows, samples, preset, "cuda")
    assert judged.passed, judged.outcomes
    (base, *_) = [row for row in rows if row.arm == "planted" and row.experiment == "planted"]
    assert 2e-4 < base.value < 2e-3  # so long that a launch is less than 0.5 % of it, so short that it costs little
