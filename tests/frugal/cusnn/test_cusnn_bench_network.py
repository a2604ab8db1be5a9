"""Whole networks as timing cases: what they are made of, that they are measured and right, and a wrong one is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import images, model
from small_network import info

from frugal import provenance
from frugal.cusnn import bench_network
from frugal.cusnn.bench_network import Subject
from frugal.cusnn.sparsity import conv_layers, measure
from frugal.data.image_to_bin import image_to_bin
from frugal.errors import FrugalError
from frugal.timing import Arm, Case, CpuDevice, Design, measure_case

WANTED = {
    "preset": "quick", "ours": ["sparse", "dense_twin"], "baselines": ["onednn_fp32", "cudnn_tf32"], "policy": "auto",
    "deterministic": True, "batch_sizes": [1, 3],
}  # fmt: skip


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The cases of two small networks on 4 pictures, on a CPU."""
    monkeypatch.setattr(bench_network, "load_network", lambda path: (model("resnet18"), info("somebody's.pth")))
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    image_to_bin(tmp_path, tmp_path / "images.bin", size=64, resize=64)
    said: list[str] = []

    def call(**cusnn: object) -> list[tuple[Case, list[Arm]]]:
        found = bench_network.cases(
            CpuDevice(),
            provenance.device_record("cpu"),
            said.append,
            cusnn=WANTED | cusnn,
            weights=["data/weights/resnet50-torchvision_v1.5.safetensors"],
            images=[str(tmp_path / "images.bin")],
            kernels=[],
        )
        return list(found)

    call.said = said
    return call


def subject(**changed: object) -> Subject:
    return Subject(
        **{"model": model("resnet18"), "info": info(), "images": images(5, 64, 64), "dataset_sha256": "ab"} | changed
    )


# ---- the cases -------------------------------------------------------------------------------------------------------


def test_each_network_and_batch_is_a_case_with_its_arms(cases):
    found = cases()
    assert cases.said == ["resnet50 (somebody's.pth): whole, on 4 images"]
    assert [case.columns["n"] for case, _ in found] == [1, 3]
    for case, arms in found:
        assert (case.system, case.experiment, case.network, case.layer) == ("cusnn", "networks", "resnet50", None)
        assert case.axes == {
            "network": "resnet50", "definition": "torchvision_v1.5", "layer": None, "weights": "trained",
            "batch": case.columns["n"],
        }  # fmt: skip
        assert case.measures == ("time", "energy", "memory")
        assert [(arm.name, arm.role, arm.regimes) for arm in arms] == [
            ("sparse", "ours", ("wall",)), ("dense_twin", "ours", ("wall",)), ("unfused", "ours", ("wall",)),
            ("onednn_fp32", "baseline", ("wall",)),
        ]  # fmt: skip


def test_smoke_is_one_case_of_two_images(cases):
    ((case, arms),) = cases(preset="smoke")
    assert cases.said == ["resnet50 (somebody's.pth): whole, on 2 images"]
    assert case.columns["n"] == 1
    assert [arm.name for arm in arms] == ["sparse", "onednn_fp32"]


def test_work_is_that_of_the_convolutions():
    given = subject()
    x, layers = given.images, conv_layers(model("resnet18"), (1, 3, 64, 64))
    dense = 2.0 * 2 * sum(layer.macs for layer in layers)
    # the stem is torch's, and skips nothing
    zeros = {found.layer.name: found.mean for found in measure(model("resnet18"), x)} | {"conv1": 0.0}
    kept = 2.0 * 2 * sum(layer.macs * (1 - zeros[layer.name]) for layer in layers)
    arms = {arm.name: arm for arm in bench_network.arms(given, 2, WANTED, None)}
    assert arms["sparse"].flop == pytest.approx(kept, rel=1e-12)
    assert arms["unfused"].flop == pytest.approx(kept, rel=1e-12)
    assert arms["dense_twin"].flop == arms["onednn_fp32"].flop == dense
    assert bench_network.case(given, 2).columns["flop_dense_equiv"] == dense
    parameters = sum(value.numel() for value in model("resnet18").parameters())
    assert {arm.bytes_min for arm in arms.values()} == {4.0 * (parameters + 2 * 3 * 64 * 64)}


def test_phases_see_images_of_their_own():
    case = bench_network.case(subject(images=images(8, 64, 64)), 2)
    seen = [case.inputs(7, phase)["x"] for phase in ("verify", "warm", "timed", "recheck")]
    assert {tuple(x.shape) for x in seen} == {(2, 3, 64, 64)}
    firsts = {image.sum().item() for x in seen for image in x}
    assert len(firsts) == 8


@pytest.mark.parametrize(("batch", "seen"), [(1, range(4, 8)), (4, range(4, 8)), (5, range(8))])
def test_images_that_a_calibration_has_seen_are_not_measured(batch: int, seen: range):
    numbered = torch.arange(8.0)[:, None, None, None].expand(8, 3, 64, 64).contiguous()
    made = bench_network.case(subject(images=numbered), batch, chosen_on=4)
    found = {int(i) for seed in range(50) for i in made.inputs(seed, "timed")["x"][:, 0, 0, 0]}
    # with one image a batch a phase has a quarter of them
    assert found <= set(seen) if batch == 1 else found == set(seen)


def test_a_batch_that_no_images_fill_is_refused(cases):
    with pytest.raises(FrugalError, match=r"cusnn\.batch_sizes has 8, but there are 4 images"):
        cases(batch_sizes=[8])


# ---- measured --------------------------------------------------------------------------------------------------------


DESIGN = Design.of("smoke", n_min=3, block_max_s=0.002)


def test_a_network_is_measured_and_right():
    given = subject()
    arms = bench_network.arms(given, 2, WANTED, None)
    rows = measure_case(bench_network.case(given, 2), arms, DESIGN, 0, CpuDevice()).rows
    assert {(row.arm, row.metric, row.regime) for row in rows} == {
        (arm.name, *kind) for arm in arms for kind in (("time", "wall"), ("peak_live", None))
    }
    for row in rows:
        assert row.status in ("ok", "unstable"), row.reason  # a busy machine may spread a block's samples
        assert (row.verified_before, row.verified_after, row.tolerance_rule) == (True, True, "norm")
        assert row.err_bound == (5e-6 if row.role == "ours" else 5e-5)
        if row.role == "ours":
            settings = json.loads(row.arm_json)
            backend = "dense_twin" if row.arm == "dense_twin" else "sparse"
            assert settings["backends"] == {backend: 19}  # 16 3×3 and 3 shortcuts
            assert (settings["left_to_torch"], settings["fused"]) == ({}, row.arm != "unfused")
            assert (settings["top1_images"], settings["top1_same"] + settings["top1_ties"] >= 5) == (5, True)
            assert settings["buffer_bytes"] > 4 * 2 * (64 * 16 * 16 * 2)


def test_a_network_that_is_wrong_publishes_no_time():
    given = subject()
    assert given.in_float64 is not None  # the reference is of the right network
    spoiled = copy.deepcopy(model("resnet18"))
    spoiled.layer2[0].conv1.weight.data *= 1.001
    given.model = spoiled
    (arm,) = bench_network.arms(given, 1, WANTED | {"ours": ["dense_twin"], "baselines": []}, None)
    for row in measure_case(bench_network.case(given, 1), [arm], DESIGN, 0, CpuDevice()).rows:
        assert (row.status, row.value) == ("incorrect", None)
        assert "> 5e-06 (norm)" in row.reason


# ---- classes ---------------------------------------------------------------------------------------------------------


class Says:
    """A network whose logits are known: images are answered by their first pixel."""

    def __init__(self, answers: torch.Tensor) -> None:
        self.answers = answers

    def bind(self, x: torch.Tensor):
        self.x = x
        return self

    def run(self) -> torch.Tensor:
        return self.answers[self.x[:, 0, 0, 0].long()]


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_classes_are_compared_on_every_image(batch: int):
    numbered = torch.arange(5.0)[:, None, None, None].expand(5, 3, 4, 4).contiguous()
    given = subject(images=numbered)
    given.logits = torch.tensor([[3.0, 1, 0], [0, 2, 1], [1, 1.5, 0], [5, 0, 0], [0, 0, 4]])
    ours = given.logits.clone()
    ours[1] = torch.tensor([0, 2.0, 2.5])  # another class, though torch's was clear by 1 and the results differ by 1.5
    ours[2] += torch.tensor([0.6, 0, 0])  # another class, and no wonder
    ours[3] += 0.1
    found = bench_network.top1(Says(ours), given, batch)
    assert found == {"top1_images": 5, "top1_same": 3, "top1_ties": 2}
