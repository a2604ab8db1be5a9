"""Our two arms of a CPU, measured; and what a GPU's arms ask of their kernels, shown on kernels without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import fake_kernels
import pytest
import torch
from measured_layers import CONV, SHAPE, layer_case, layer_inputs, measured

from frugal.cusnn import choices, ours
from frugal.provenance import source_hash
from frugal.timing import Unsupported
from kernels.sparse import ConvShape, Variant, pack_weights, plan, variants
from kernels.sparse.variant import ladder

CPU = ours.OFFERED["cpu"]


def arm(name: str, kernels=None):
    return ours.arm(name, SHAPE, kernels, sparsity=0.25, bytes_min=13.0)


# ---- CPU -------------------------------------------------------------------------------------------------------------


def test_both_arms_of_a_cpu_are_right_before_and_after_in_every_regime():
    rows = measured(*map(arm, CPU), regimes=("cold", "graph", "wall"))
    assert set(rows) == {(name, regime) for name in ("sparse", "dense_twin") for regime in ("cold", "graph", "wall")}
    for row in rows.values():
        assert row.status in ("ok", "unstable"), row.reason  # a busy machine may spread a block's samples
        assert (row.verified_before, row.verified_after, row.tolerance_rule) == (True, True, "a_priori")
        assert row.value > 0
        assert (row.role, row.tf32, row.layout, row.compiled) == ("ours", False, "nchw", True)
        assert row.bytes_min == 13.0
        assert row.flop == (1.5 if row.arm == "sparse" else 2.0) * SHAPE.macs
        assert json.loads(row.arm_json) == {"variant": "cpu", "backend": row.arm}
        assert row.source_hash == source_hash("frugal.cusnn.ours", "kernels.sparse.cpu")


def test_the_twin_differs_in_the_zeros_alone():
    inputs = layer_inputs()
    sparse, dense = (arm(name).prepare(inputs).run() for name in CPU)
    assert (inputs["x"] == 0).any()
    assert torch.equal(sparse, dense)  # a product with zero changes no sum
    infinite = {**inputs, "x": inputs["x"].index_fill(0, torch.tensor([1]), torch.inf)}
    assert torch.equal(*(arm(name).prepare(infinite).run().isfinite() for name in CPU))


@pytest.mark.parametrize(("name", "skips"), [("sparse", True), ("dense_twin", False)])
def test_only_the_sparse_arm_asks_for_skipping(name: str, skips: bool, monkeypatch: pytest.MonkeyPatch):
    asked = []  # the answers are the same bits, so what is asked for is looked at
    for function in ("conv", "loop"):
        monkeypatch.setattr(ours.cpu, function, lambda *given, skip=None, **named: asked.append(skip))
    prepared = arm(name).prepare(layer_inputs())
    prepared.run()
    prepared.loop(2)
    assert asked == [skips, skips]


@pytest.mark.parametrize("name", CPU)
def test_the_loop_computes_what_one_run_computes(name: str):
    inputs = layer_inputs()
    prepared = arm(name).prepare(inputs)
    (y,) = prepared.outputs
    once = prepared.run().clone()
    assert prepared.run() is y
    y.fill_(torch.nan)
    prepared.loop(0)
    assert y.isnan().all()
    prepared.loop(3)
    assert torch.equal(y, once)
    inputs["x"].mul_(2)  # it reads the inputs each time
    prepared.loop(1)
    assert torch.equal(y, 2 * once)


def test_a_cpu_has_two_arms():
    assert tuple(CPU) == ("sparse", "dense_twin")
    assert [arm(name).regimes for name in CPU] == [("cold", "graph", "wall")] * 2
    assert [arm(name).binary_hash for name in CPU] == [None] * 2


@pytest.mark.parametrize("name", ["v1_naive", "v6_fused"])
def test_a_step_of_the_ladder_is_a_row_that_says_what_it_needs(name: str):
    (row,) = measured(arm(name)).values()
    assert (row.status, row.value) == ("unsupported", None)
    assert row.reason == f"{name} is a kernel for a GPU, and this machine measures on its CPU"


# ---- GPU, faked ------------------------------------------------------------------------------------------------------


# arm: (rung, skips zeros)
LAUNCHED = {
    "sparse": ("v6_fused", True), "dense_twin": ("v6_fused", False), "v6_fused": ("v6_fused", True),
    "v3_ballot": ("v3_ballot", True), "v2_dense": ("v2_dense", False), "v1_naive": ("v1_naive", False),
}  # fmt: skip
BUILT = [variant for variant in (*variants(), *ladder()) if isinstance(variant, Variant)]


def launched(name: str):
    rung, skip = LAUNCHED[name]
    return plan(SHAPE, 132, skip=skip, rung=rung, variants=BUILT)


@pytest.mark.parametrize("name", LAUNCHED)
def test_an_arm_of_a_gpu_carries_its_kernels_numbers(name: str, tmp_path: Path, monkeypatch):
    kernels, loads = fake_kernels.kernels(BUILT, tmp_path, monkeypatch)
    made = arm(name, kernels)
    chosen = launched(name)
    number = [variant.name for variant in BUILT].index(chosen.variant.name)
    skip = LAUNCHED[name][1]
    backend = "sparse" if skip else "dense_twin"
    assert made.settings == {"variant": chosen.variant.name, "splits": chosen.splits, "backend": backend}
    assert made.flop == (1.5 if skip else 2.0) * SHAPE.macs  # a quarter of the input is zero
    assert (made.binary_hash, made.registers) == (f"cubin {number}", 100 + number)
    assert (made.spill_bytes, made.shared_bytes) == (200 + number, 500 + number)
    assert made.regimes == ("cold", "graph", "graph_rotated", "wall")
    assert (made.role, made.tf32, made.layout, made.compiled) == ("ours", False, "nchw", True)
    assert made.source_hash == source_hash("frugal.cusnn.ours", "kernels.launch", "kernels.sparse")
    assert loads == []  # nothing is loaded before it is used


@pytest.mark.parametrize("name", LAUNCHED)
def test_an_arm_of_a_gpu_binds_the_planned_launch_to_its_own_output(name: str, tmp_path: Path, monkeypatch):
    kernels, loads = fake_kernels.kernels(BUILT, tmp_path, monkeypatch)
    inputs, made = layer_inputs(), arm(name, kernels)
    prepared = made.prepare(inputs)
    (y,) = prepared.outputs
    assert y.shape == (SHAPE.B, CONV.N, CONV.H, CONV.W)
    ((grid, block, args, *how),) = kernels.kernel(made.settings["variant"]).bound
    chosen = launched(name)
    assert (grid, block, *how) == (chosen.grid, chosen.block, chosen.cluster, chosen.overlap)
    named = dict(zip((parameter for parameter, _ in chosen.variant.parameters), args, strict=True))
    assert named["x"].data_ptr() == inputs["x"].data_ptr()
    assert named["y"].data_ptr() == y.data_ptr()
    assert torch.equal(fake_kernels.weights(named), pack_weights(inputs["w"]))
    assert prepared.run() is None
    torch.testing.assert_close(y.double(), layer_case().reference(inputs).y, rtol=0, atol=1e-4)
    assert loads == [tmp_path / f"{chosen.variant.name}.sm_90"]


def test_a_kernel_is_loaded_once_and_all_share_a_workspace(tmp_path: Path, monkeypatch):
    kernels, loads = fake_kernels.kernels(BUILT, tmp_path, monkeypatch)
    made = arm("sparse", kernels)
    first, second = made.prepare(layer_inputs()), made.prepare(layer_inputs())
    assert len(loads) == 1
    assert kernels.workspace in first.keep
    assert kernels.workspace in second.keep
    assert first.outputs[0].data_ptr() != second.outputs[0].data_ptr()


def test_a_gpus_arms_measured_end_to_end_on_fake_kernels(tmp_path: Path, monkeypatch):
    kernels, _ = fake_kernels.kernels(BUILT, tmp_path, monkeypatch)
    rows = measured(*(arm(name, kernels) for name in LAUNCHED))
    assert {name for name, _ in rows} == set(LAUNCHED)
    for row in rows.values():
        assert row.status in ("ok", "unstable"), row.reason
        assert row.registers >= 100


def test_a_kernel_that_was_not_built_leaves_a_row_that_says_so(tmp_path: Path, monkeypatch):
    missing = arm("sparse", fake_kernels.kernels(BUILT, tmp_path, monkeypatch)[0]).settings["variant"]
    kernels, loads = fake_kernels.kernels([v for v in BUILT if v.name != missing], tmp_path / "some", monkeypatch)
    with pytest.raises(
        Unsupported, match=f"{missing} was not built .* its target is results/kernels/sparse/{missing}.sm_90.json"
    ):
        kernels.kernel(missing)
    made = arm("sparse", kernels)
    assert (made.binary_hash, made.registers, made.spill_bytes, made.shared_bytes) == (None, None, None, None)
    rows = measured(made, arm("dense_twin", kernels))
    row = rows["sparse", "wall"]
    assert (row.status, row.value) == ("unsupported", None)
    assert missing in row.reason
    assert rows["dense_twin", "wall"].status in ("ok", "unstable")
    assert all(missing not in str(path) for path in loads)


def test_a_shape_that_no_kernel_computes_is_a_row_that_says_so(tmp_path: Path, monkeypatch):
    kernels, _ = fake_kernels.kernels(BUILT, tmp_path, monkeypatch)
    large = ConvShape(1, 8, 8, 8, 32, k=3, stride=2, pad=0)
    made = ours.arm("sparse", large, kernels, sparsity=0.0, bytes_min=1.0)
    with pytest.raises(Unsupported, match=r"pad = 0 with k = 3.*leave this layer to cuDNN"):
        made.prepare({})


def test_an_ablation_keeps_all_else_and_one_that_changes_nothing_is_no_arm(tmp_path: Path, monkeypatch):
    kernels, _ = fake_kernels.kernels(BUILT, tmp_path, monkeypatch)
    whole = launched("sparse")
    found = {name: arm(name, kernels) for name in choices.ABLATIONS}
    twin = found["sparse@skip=false"].settings
    assert (twin["variant"], twin["splits"], twin["backend"]) == (whole.variant.twin.name, whole.splits, "dense_twin")
    narrow = found["sparse@outputs_per_lane=1"]
    assert (narrow is None) == (whole.variant.outputs_per_lane == 1)
