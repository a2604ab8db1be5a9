"""The method's own experiments: forty different operations that are right, twins that are one callable, fixed flags."""

import pytest
import torch

from frugal.errors import FrugalError
from frugal.method import cases, ops
from frugal.timing import CpuDevice, Design, measure_case
from frugal.timing.devices import Device

CPU = CpuDevice("cpu-test", llc_bytes=1 << 20)


class NamedCuda:
    """What `cases` asks a GPU before anything runs."""

    kind = "cuda"


def listed(experiment: str, machine: Device = CPU) -> list:
    return list(cases.cases(machine, {}, print, experiment=experiment))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_there_are_forty_different_equal_operations(kind):
    names = [op.name for op in ops.equal_ops(kind)]
    assert len(names) == len(set(names)) == 40
    # an algorithm that is tuned anew in each process would be variance that no equal pair may have
    assert not any(op.autotune for op in ops.equal_ops(kind))


@pytest.mark.parametrize("experiment", cases.EXPERIMENTS)
@pytest.mark.parametrize("machine", [CPU, NamedCuda()], ids=["cpu", "cuda"])
def test_no_two_cases_are_the_same_and_every_arm_can_be_timed(experiment, machine):
    found = listed(experiment, machine)
    assert len({case.case_id for case, _ in found}) == len(found)
    for case, arms in found:
        assert case.system == "method"
        assert case.experiment == experiment
        assert [arm.name for arm in arms] == (["torch"] if experiment == "noise" else ["first", "second"])


def test_twins_are_one_callable_in_all_that_is_timed():
    for _, (first, second) in listed("equal", NamedCuda()):
        kept = {"dtype", "tf32", "layout", "regimes", "flop", "bytes_min", "source_hash", "tolerance", "settings"}
        assert {name: getattr(first, name) for name in kept} == {name: getattr(second, name) for name in kept}
        assert (first.role, second.role) == ("baseline", "ours")


def test_only_the_energy_case_asks_for_energy():
    assert {case.measures for case, _ in listed("energy")} == {("time", "energy")}
    assert {case.measures for name in ("equal", "noise") for case, _ in listed(name)} == {("time",)}


@pytest.mark.parametrize("op", ops.equal_ops("cpu"), ids=lambda op: op.name)
def test_an_operation_agrees_with_itself_in_double(op):
    generator = torch.Generator().manual_seed(0)
    given = {name: torch.randn(shape, generator=generator) for name, shape in op.shapes.items()}
    dtype = getattr(torch, op.dtype)
    found = op.run({name: value.to(dtype) for name, value in given.items()}).double()
    exact = op.run({name: value.to(dtype).double() for name, value in given.items()})
    # the bounds of rule `norm`, which the sessions apply
    bound = {"float32": 1e-3, "float16": 1e-2}[op.dtype]
    assert torch.linalg.vector_norm(found - exact) <= bound * torch.linalg.vector_norm(exact)


def test_a_case_of_equals_is_measured_and_verified():
    case, arms = listed("equal")[0]
    design = Design.of("smoke", block_max_s=0.01, n_min=3, warmup_cpu_s=0)
    rows = measure_case(case, arms, design, 0, CPU).rows
    assert [(row.arm, row.regime, row.verified_before, row.verified_after) for row in rows] == [
        ("first", "wall", True, True),
        ("second", "wall", True, True),
    ]
    assert all(row.value > 0 for row in rows)


def test_an_unknown_experiment_is_named():
    with pytest.raises(FrugalError, match="no experiment 'nul': use one of equal, noise, energy"):
        listed("nul")
