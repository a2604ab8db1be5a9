"""Choices by measurement: what is timed against what, who wins, what layers share, and the plan of a whole network."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_network import photographs, small
from torch import nn

from frugal import provenance
from frugal.cusnn import calibrate
from frugal.cusnn.calibrate import Calibration, Layer, calibrate_network, half, observe
from frugal.cusnn.network_steps import Conv, steps
from frugal.cusnn.plans import kernel_hash, load_plan
from frugal.errors import FrugalError
from frugal.models import densenet, resnet
from frugal.timing import CaseResult

CPU = torch.device("cpu")


def layer(**changes: object) -> Layer:
    torch.manual_seed(0)
    given = {"name": "a", "weight": torch.randn(6, 5, 3, 3), "bias": torch.randn(6), "stride": 1, "relu": True}
    return Layer(**given | changes)


def zeros(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).clamp_min(0)


class Told:
    """Stands in for `measure_case`: every arm's time is given, by its name; None: it was wrong."""

    def __init__(self, seconds: dict[str, float | None]) -> None:
        self.seconds, self.cases = seconds, []

    def __call__(self, case, arms, *rest) -> CaseResult:
        self.cases.append((case, arms))
        rows = [
            SimpleNamespace(arm=arm.name, value=self.seconds[arm.name], status="incorrect", reason="too far off")
            for arm in arms
        ]
        return CaseResult(rows=rows)


def decided(monkeypatch, x: torch.Tensor | None = None, made: Layer | None = None, **seconds: float | None):
    told = Told({"sparse 0": seconds["sparse"], "dense_twin 1": seconds["twin"], "onednn_fp32": seconds["torch"]})
    monkeypatch.setattr(calibrate, "measure_case", told)
    calibration = Calibration(CPU)
    calibration.see(made or layer(), zeros(2, 5, 6, 7) if x is None else x)
    (found,) = calibration.decide({"a": calibrate.Seen(0.25, 1)})
    return found


# ---- who wins --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "backend", "time", "reason"),
    [
        ({"sparse": 1e-6, "twin": 2e-6, "torch": 3e-6}, "sparse", 1e-6, "3.00 times as fast as onednn_fp32"),
        ({"sparse": 2e-6, "twin": 1e-6, "torch": 3e-6}, "dense_twin", 1e-6, "3.00 times as fast as onednn_fp32"),
        ({"sparse": 3e-6, "twin": 3e-6, "torch": 2e-6}, "onednn_fp32", 2e-6, "takes 1.50 times as long"),
        ({"sparse": 2e-6, "twin": 3e-6, "torch": 2e-6}, "sparse", 2e-6, "1.00 times as fast as onednn_fp32"),
        ({"sparse": None, "twin": 1e-6, "torch": 2e-6}, "dense_twin", 1e-6, "2.00 times as fast as onednn_fp32"),
        ({"sparse": None, "twin": None, "torch": 2e-6}, "onednn_fp32", 2e-6, "incorrect: too far off"),
        ({"sparse": 1e-6, "twin": 2e-6, "torch": None}, "sparse", 1e-6, "onednn_fp32 has no time"),
    ],
)  # fmt: skip
def test_the_fastest_right_one_wins_and_a_tie_is_ours(monkeypatch, seconds, backend, time, reason):
    found = decided(monkeypatch, **seconds)
    assert (found.backend, found.seconds, found.dense_seconds) == (backend, time, seconds["torch"])
    assert found.reason.endswith(reason)
    assert found.sparsity == 0.25
    assert found.plan.backend == backend


def test_layers_of_one_shape_work_and_zeros_share_a_measurement(monkeypatch):
    told = Told({"sparse 0": 1.0, "dense_twin 1": 2.0, "onednn_fp32": 3.0})
    monkeypatch.setattr(calibrate, "measure_case", told)
    calibration = Calibration(CPU)
    x = zeros(2, 5, 6, 7)
    calibration.see(layer(), x)
    calibration.see(layer(name="same", weight=torch.ones(6, 5, 3, 3)), x.flip(3))
    calibration.see(layer(name="other work", relu=False), x)
    calibration.see(layer(name="other zeros"), x * (torch.arange(7) > 3))
    calibration.see(layer(name="other shape"), x[:1])
    names = ["a", "same", "other work", "other zeros", "other shape"]
    found = calibration.decide({name: calibrate.Seen(number / 10, 1) for number, name in enumerate(names)})
    assert [plan.layer for plan in found] == names
    assert [plan.sparsity for plan in found] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert [case.layer for case, _ in told.cases] == ["a", "other work", "other zeros", "other shape"]


# ---- what is timed ---------------------------------------------------------------------------------------------------


WORK = [
    {},
    {"bias": None, "relu": False},
    {"prologue": True},
    {"residual": True, "stride": 2},
    {"weight": torch.ones(6, 5, 1, 1), "prologue": True, "residual": True},
]


@pytest.mark.parametrize("work", WORK, ids=["relu", "plain", "prologue", "residual", "all"])
def test_every_candidate_does_the_same_work_and_is_verified(monkeypatch, work: dict):
    rows = []
    real = calibrate.measure_case

    def kept(*given) -> CaseResult:
        result = real(*given)
        rows.extend(result.rows)
        return result

    monkeypatch.setattr(calibrate, "measure_case", kept)
    monkeypatch.setattr(calibrate, "BLOCK_S", 0.01)
    calibration = Calibration(CPU)
    calibration.see(layer(**work), zeros(2, 5, 6, 7))
    (found,) = calibration.decide({"a": calibrate.Seen(0.5, 1)})
    assert [row.arm for row in rows] == ["sparse 0", "dense_twin 1", "onednn_fp32"]
    for row in rows:
        assert (row.verified_before, row.verified_after) == (True, True), row.reason
    assert found.seconds == min(row.value for row in rows)


def test_the_reference_is_the_layer_in_float64():
    made = layer(prologue=True, residual=True)
    given = calibrate._given(made, zeros(1, 5, 4, 4))
    found = calibrate._reference(made, given)
    wide = nn.functional.conv2d(given["x"].double(), made.weight.double(), made.bias.double(), padding=1)
    assert torch.equal(found.y, (wide + given["residual"].double()).relu())
    assert (found.s >= found.y).all()
    assert found.terms == 5 * 9 + 2


# ---- what reaches the layers -----------------------------------------------------------------------------------------


def test_half_of_the_images_is_for_choosing():
    images = photographs(5)
    assert torch.equal(half(images, 1), images[:3])
    assert torch.equal(half(images, 3), images[:3])
    assert torch.equal(half(images, 4), images)
    with pytest.raises(FrugalError, match="batch = 6, but there are 5 images"):
        half(images, 6)


def test_zeros_and_calls_are_counted_over_whole_batches():
    model, images, first = small(), photographs(5), {}
    found = observe(model, ["steps.3", "steps.18"], images, 2, lambda name, x: first.update({name: x.clone()}))
    inputs = []
    model.get_submodule("steps.3").register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.inference_mode():
        model(images[:4])
    assert found["steps.3"].sparsity == pytest.approx((inputs[0] == 0).double().mean().item())
    assert found["steps.3"].calls == 1
    torch.testing.assert_close(first["steps.3"], inputs[0][:2])
    assert set(first) == set(found) == {"steps.3", "steps.18"}
    assert all(not module._forward_pre_hooks for module in small().modules())


# ---- whole networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        lambda: densenet.DenseNet((2, 1), "torchvision_v1.5", 10),
        lambda: resnet.ResNet(resnet.Bottleneck, (1, 1, 1, 1), "torchvision_v1.5", 10),
    ],
    ids=["densenet", "resnet"],
)
def test_a_networks_plan_has_the_sizes_that_network_launches(model, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(
        calibrate, "measure_case", Told(dict.fromkeys(("sparse 0", "dense_twin 1", "onednn_fp32"), 1.0))
    )
    torch.manual_seed(0)
    made, images = model().eval(), torch.randn(4, 3, 64, 64)
    found = calibrate_network(made, "small", images, 2, Calibration(CPU))
    wanted = {step.name: step.shape(2) for step in steps(made, 64, 64) if isinstance(step, Conv)}
    assert {plan.layer: plan.shape for plan in found.layers} == wanted
    assert (found.network, found.batch, found.images) == ("small", 2, 2)
    assert found.device_key == provenance.device_key("cpu")
    found.save(tmp_path / "plan.json")
    read = load_plan(
        tmp_path / "plan.json", device_key=found.device_key, hash_of=lambda name: kernel_hash(None, name)
    )  # fmt: skip
    assert read == found


def test_the_rules_job_writes_a_plan_for_its_network(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(
        calibrate, "measure_case", Told(dict.fromkeys(("sparse 0", "dense_twin 1", "onednn_fp32"), 1.0))
    )
    monkeypatch.setattr(calibrate, "warm_up", lambda *given: None)
    torch.manual_seed(0)
    made = resnet.ResNet(resnet.Bottleneck, (1, 1, 1, 1), "torchvision_v1.5", 10).eval()
    info = SimpleNamespace(network="resnet50", preprocess="torchvision")
    monkeypatch.setattr(calibrate, "load_network", lambda path: (made, info))
    monkeypatch.setattr(calibrate, "read_bin", lambda path, preprocess: (torch.randn(2, 3, 64, 64), None))
    (tmp_path / "device.json").write_text(json.dumps(provenance.device_record("cpu")))
    lines = []
    threads = torch.get_num_threads()
    calibrate.write_plan(
        weights=tmp_path / "w.safetensors", images=tmp_path / "x.bin", device=tmp_path / "device.json", kernels=[],
        batch=1, deterministic=True, more=[], threads=threads, out=tmp_path / "plan.json", say=lines.append,
    )  # fmt: skip
    found = json.loads((tmp_path / "plan.json").read_text())
    assert (found["network"], found["batch"], found["images"]) == ("resnet50", 1, 1)
    assert lines[-1] == "resnet50, batch 1: 16 of 16 convolutions are ours"
