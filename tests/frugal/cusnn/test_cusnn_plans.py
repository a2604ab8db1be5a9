"""What is planned on which device under which policy, and plan files: written, read back, refused elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from frugal.cusnn import plans
from frugal.cusnn.plans import LayerPlan, NetworkPlan, Plan, PlanError, candidates, load_plan, plan
from kernels import sparse
from kernels.sparse import ConvShape, Fused, UnsupportedShape

SHAPE = ConvShape(1, 256, 14, 14, 256)
GPU = torch.device("cuda", 0)


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU as planning sees it: 132 multiprocessors, capability 9.0."""
    monkeypatch.setattr(plans, "sm_count", lambda device: 132)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))


# ---- one shape -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "backend"), [("auto", "sparse"), ("always", "sparse"), ("never", "dense_twin")])
def test_a_cpu_has_its_twin_for_every_policy(policy: str, backend: str):
    found = plan(SHAPE, device="cpu", policy=policy)
    assert (found, found.device_type, found.skips) == (Plan(SHAPE, backend), "cpu", backend == "sparse")
    assert plan(SHAPE, device="cpu", batch=4, policy=policy).shape == replace(SHAPE, B=4)


@pytest.mark.parametrize("policy", ["always", "never"])
def test_a_policy_takes_the_kernels_own_plan(policy: str, h200):
    skip = policy == "always"
    found = plan(SHAPE, device=GPU, policy=policy)
    assert found.launch == sparse.plan(SHAPE, 132, skip=skip)
    assert (found.backend, found.device_type) == ("sparse" if skip else "dense_twin", "cuda")
    assert found.launch.variant.skip == skip


def test_without_zeros_auto_takes_the_twin_and_with_many_it_skips(h200):
    shape = replace(SHAPE, B=8)
    assert plan(shape, device=GPU, sparsity=0.0).backend == "dense_twin"
    assert plan(shape, device=GPU, sparsity=0.95).backend == "sparse"
    assert plan(shape, device=GPU).backend == "sparse"  # nothing known: what the networks' layers are


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (ConvShape(1, 8, 9, 9, 8, k=5, pad=2), "k = 5: 1 or 3 is allowed"),
        (ConvShape(1, 8, 9, 9, 8, stride=3), "stride = 3: 1 or 2 is allowed"),
        (ConvShape(1, 8, 9, 9, 8, k=1, pad=1), "pad = 1: 0 is allowed with k = 1"),
        (ConvShape(1, 8, 9, 9, 8, pad=0), "pad = 0: 1 is allowed with k = 3"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_shape_of_no_kernel_names_field_value_and_what_is_allowed(shape, sentence, device, h200):
    with pytest.raises(UnsupportedShape, match=sentence):
        plan(shape, device=device)


def test_other_arguments_are_checked():
    with pytest.raises(ValueError, match=r"policy = 'often': auto, always, never are allowed"):
        plan(SHAPE, device="cpu", policy="often")
    with pytest.raises(ValueError, match=r"sparsity = 70: a share of zeros from 0 to 1"):
        plan(SHAPE, device="cpu", sparsity=70)
    with pytest.raises(UnsupportedShape, match=r"fused.residual has shape \(1, 256, 7, 7\)"):
        plan(SHAPE, device="cpu", fused=Fused(residual=torch.zeros(1, 256, 7, 7)))


def test_candidates_are_one_launch_of_each_kernel_that_fits(h200):
    found = candidates(SHAPE, GPU, sparsity=0.7)
    names = [candidate.launch.variant.name for candidate in found]
    assert len(set(names)) == len(names) <= plans.CANDIDATES_MAX
    assert {candidate.backend for candidate in found} == {"sparse", "dense_twin"}
    best = {
        backend: plan(SHAPE, device=GPU, policy=p) for backend, p in (("sparse", "always"), ("dense_twin", "never"))
    }
    for backend, wanted in best.items():  # what is planned unmeasured is always among what is measured
        assert wanted.launch.variant.name in [c.launch.variant.name for c in found if c.backend == backend]
    assert [c.backend for c in candidates(SHAPE, torch.device("cpu"), sparsity=0.7)] == ["sparse", "dense_twin"]


def test_a_gpu_without_clusters_has_memory_for_what_its_blocks_sum(h200):
    """There the code of a kernel for clusters is that of one for tickets."""
    split = [candidate.launch for candidate in candidates(SHAPE, GPU, sparsity=0.7) if candidate.launch.splits > 1]
    assert any(launch.cluster != (1, 1, 1) for launch in split)
    for launch in split:
        assert launch.slot_floats > 0
        assert launch.tickets > 0


# ---- a network's file ------------------------------------------------------------------------------------------------


def network_plan(**changes: object) -> NetworkPlan:
    """A plan of two layers, one of ours and one left to cuDNN."""
    launch = sparse.plan(SHAPE, 132)
    ours = LayerPlan(
        layer="a", shape=SHAPE, backend="sparse", variant=launch.variant.name, splits=launch.splits, sparsity=0.7,
        seconds=4e-6, dense_seconds=9e-6, reason="2.25 times as fast as cudnn_fp32",
    )  # fmt: skip
    left = LayerPlan(layer="b", shape=replace(SHAPE, C=3), backend="cudnn_fp32", reason="no kernel")
    given = {
        "network": "resnet50", "batch": 1, "device_key": "nvidia-h200-9.0-132sm", "images": 16,
        "kernels": {launch.variant.name: "ab"}, "layers": (ours, left),
    }  # fmt: skip
    return NetworkPlan(**given | changes)


def read(path, device_key="nvidia-h200-9.0-132sm", code="ab", **more) -> NetworkPlan:
    return load_plan(path, device_key=device_key, hash_of=lambda variant: code, **more)


def test_a_plan_is_read_as_it_was_written_and_plans_the_same_launches(tmp_path):
    made = network_plan()
    made.save(tmp_path / "plan.json")
    found = read(tmp_path / "plan.json", network="resnet50")
    assert found == made
    assert found.of("a").plan == Plan(SHAPE, "sparse", sparse.plan(SHAPE, 132))
    assert found.of("b").plan == Plan(replace(SHAPE, C=3), "cudnn_fp32")
    assert found.of("c") is None


def test_a_plan_prints_as_a_table():
    lines = str(network_plan()).splitlines()
    assert lines[0] == "resnet50, batch 1, on nvidia-h200-9.0-132sm"
    assert lines[2].split()[:4] == ["a", "256,14x14->256", "3x3/1", "70%"]
    assert "4.00 us" in lines[2]
    assert "9.00 us" in lines[2]
    assert lines[3].endswith("no kernel")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"device_key": "nvidia-a100-8.0-108sm"}, "measured on nvidia-h200-9.0-132sm, this machine is nvidia-a100"),
        ({"code": "cd"}, "another build of kernel v"),
        ({"network": "resnet101"}, "is for resnet50, not for resnet101"),
    ],
)
def test_a_plan_for_something_else_is_refused(asked, sentence, tmp_path):
    network_plan().save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match=sentence):
        read(tmp_path / "plan.json", **asked)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda text: text[:40], "is no plan of a network"),
        (lambda text: "[]", "is no plan of a network"),
        (lambda text: text.replace('"B": 1', '"B": 0'), "is no plan of a network"),
        (lambda text: text.replace('"batch"', '"size"'), "is no plan of a network"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 9'), "has schema version 9"),
    ],
)
def test_a_damaged_plan_is_refused_in_a_sentence(spoil, sentence, tmp_path):
    path = tmp_path / "plan.json"
    network_plan().save(path)
    json.loads(path.read_text())
    path.write_text(spoil(path.read_text()))
    with pytest.raises(PlanError, match=sentence):
        read(path)


def test_a_plan_that_is_not_there(tmp_path):
    with pytest.raises(PlanError, match=r"there is no plan .*: calibrate first"):
        read(tmp_path / "plan.json")
