"""`sparsify` on networks that torch.fx can trace and on one that it cannot: what is replaced, fused, left, refused.

The converted copy is compared with the network itself; which backend is chosen is decided by times that a stand-in
gives, so that no test depends on how fast this machine is.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_network import photographs, small
from torch import nn
from torch.nn import functional

from frugal.cusnn import NotDifferentiable, SparseConv2d, UnsupportedInput, UnsupportedShape, conversion, sparsify
from frugal.cusnn.calibrate import Calibration
from frugal.cusnn.plans import PlanError
from frugal.errors import FrugalError

IMAGES = photographs(6)
CONVOLUTIONS = [f"steps.{index}" for index in range(0, 19, 3)]
# Both compute in float32, in other orders: 1e-7 a layer, a few layers deep.
TOLERANCE = 1e-5


class Timed(Calibration):
    """Chooses by given times instead of measuring: ours takes `ours(layer)`, torch's own 1 s."""

    def __init__(self, ours) -> None:
        super().__init__(torch.device("cpu"))
        self.ours, self.inputs = ours, {}

    def see(self, layer, x):
        self.inputs[layer.name] = x.clone()
        super().see(layer, x)

    def _measure(self, layer, x):
        backend = "sparse" if self.ours(layer) <= 1 else "onednn_fp32"
        return conversion.LayerPlan(layer=layer.name, shape=layer.shape(x), backend=backend, reason="as given")


def ours_of(model: nn.Module) -> dict[str, SparseConv2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, SparseConv2d)}


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert ((found - wanted).norm() / wanted.norm()).item() < TOLERANCE


@pytest.mark.parametrize(("policy", "backend"), [("always", "sparse"), ("never", "dense_twin")])
def test_every_convolution_with_its_norm_and_relu_becomes_one_launch(policy: str, backend: str):
    model = small()
    before = copy.deepcopy(model.state_dict())
    found = sparsify(model, IMAGES, policy=policy)
    with torch.inference_mode():
        same(found(IMAGES[:2]), model(IMAGES[:2]))
    assert list(ours_of(found)) == CONVOLUTIONS
    assert all(layer.relu and layer.bias is not None for layer in ours_of(found).values())
    assert not any(isinstance(module, nn.BatchNorm2d | nn.ReLU | nn.Conv2d) for module in found.modules())
    assert {layer.backend for layer in found.report.plan.layers} == {backend}
    assert found.report.replaced == tuple(CONVOLUTIONS)
    # the network itself is as it was
    assert not ours_of(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_auto_replaces_what_is_not_slower_and_says_why_the_others_stay():
    slow = {"steps.3", "steps.18"}
    found = sparsify(small(), IMAGES, measured_by=Timed(lambda layer: 1.1 if layer.name in slow else 1.0))
    assert set(ours_of(found)) == set(CONVOLUTIONS) - slow
    assert isinstance(found.get_submodule("steps.3"), nn.Conv2d)
    assert isinstance(found.get_submodule("steps.4"), nn.BatchNorm2d)
    with torch.inference_mode():
        same(found(IMAGES), small()(IMAGES))
    text = str(found.report)
    assert "5 of 7 convolutions replaced" in text
    assert next(line for line in text.splitlines() if line.startswith("steps.18")).split()[4:] == [
        "onednn_fp32", "as", "given",
    ]  # fmt: skip


def test_choices_rest_on_the_first_half_of_the_images_and_are_checked_on_the_others(monkeypatch):
    meter, passes = Timed(lambda layer: 1.0), []
    model = small()
    model.register_forward_pre_hook(lambda module, args: passes.append(args[0].clone()))
    looked = []
    monkeypatch.setattr(conversion, "_results", lambda m, images, batch: looked.append(images) or [torch.ones(1)])
    sparsify(model, IMAGES, batch=2, measured_by=meter)
    assert torch.equal(meter.inputs["steps.0"], IMAGES[:2])
    seen = torch.cat(passes)
    assert all((image == IMAGES[:3]).flatten(1).all(1).any() for image in seen)  # half of 6 images, in batches of 2
    assert [images.shape[0] for images in looked] == [3, 3]
    assert torch.equal(looked[0], IMAGES[3:])


def test_zeros_are_those_of_the_images():
    found = sparsify(small(), IMAGES, policy="always")
    inputs = {}
    model = small()
    for name in CONVOLUTIONS:
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: inputs.setdefault(name, args[0].clone())
        )
    with torch.inference_mode():
        model(IMAGES[:3])
    for layer in found.report.plan.layers:
        assert layer.sparsity == pytest.approx((inputs[layer.layer] == 0).double().mean().item())
        assert (1, *inputs[layer.layer].shape[1:3]) == (layer.shape.B, layer.shape.C, layer.shape.H)


def test_a_plan_of_an_earlier_call_needs_no_measuring():
    first = sparsify(small(), IMAGES, measured_by=Timed(lambda layer: 1.1 if layer.name == "steps.6" else 0.9))

    class Never(Timed):
        def _measure(self, layer, x):
            raise AssertionError("measured again")

    again = sparsify(small(), IMAGES, plan=first.report.plan, measured_by=Never(lambda layer: 1.0))
    assert again.report.replaced == first.report.replaced
    with pytest.raises(PlanError, match="the plan is for batch 1, not 2"):
        sparsify(small(), IMAGES, batch=2, plan=first.report.plan)
    other = replace(first.report.plan, layers=first.report.plan.layers[1:])
    with pytest.raises(PlanError, match=r"the plan has nothing for steps\.0"):
        sparsify(small(), IMAGES, plan=other)


# ---- networks of other kinds -----------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Convolutions that ours can and cannot be, with functional ReLUs, a sum between, and readers besides the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, padding=3)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.read_twice = nn.Conv2d(8, 8, 1)
        self.after = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.unused = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        x = functional.relu(self.norm(self.first(x)) + x)  # a sum stands between norm and ReLU
        x = self.twice(self.twice(self.grouped(x).relu()))
        y = self.read_twice(x)
        return {"up": self.up(y), "sum": self.after(y) + y}


def mixed() -> Mixed:
    torch.manual_seed(0)
    return Mixed().eval()


def test_what_cannot_be_replaced_is_left_with_its_reason():
    found = sparsify(mixed(), IMAGES, policy="always")
    assert set(ours_of(found)) == {"first", "read_twice"}
    assert found.report.left == {
        "stem": "kernel_size = (7, 7): (1, 1) or (3, 3) is allowed; leave this layer to torch.",
        "grouped": "groups = 2: 1 is allowed; leave this layer to torch.",
        "twice": "it runs 2 times in one pass",
        "up": "module = ConvTranspose2d: nn.Conv2d itself is allowed",
        "unused": "no image reaches it",
    }
    assert not ours_of(found)["first"].relu
    assert ours_of(found)["read_twice"].bias is not None
    assert isinstance(found.after, nn.BatchNorm2d)  # read_twice has another reader
    with torch.inference_mode():
        ours, wanted = found(IMAGES), mixed()(IMAGES)
    for name in ("up", "sum"):
        same(ours[name], wanted[name])


class Branching(nn.Module):
    """Control flow that looks at a tensor: torch.fx cannot trace it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.inner(x)
        return self.last(x) if x.sum() > 0 else x


def test_a_model_that_cannot_be_traced_keeps_its_code_and_loses_its_convolutions():
    torch.manual_seed(0)
    model = Branching().eval()
    found = sparsify(model, IMAGES, policy="always")
    assert type(found) is Branching
    assert set(ours_of(found)) == {"inner.0", "last"}
    assert not ours_of(found)["inner.0"].relu
    assert isinstance(found.inner[1], nn.BatchNorm2d)
    with torch.inference_mode():
        same(found(IMAGES), model(IMAGES))


def test_a_convolution_that_two_names_share_is_replaced_under_both():
    torch.manual_seed(0)
    model = Branching().eval()
    model.also = model.last
    found = sparsify(model, IMAGES, policy="always")
    assert found.also is found.last
    assert isinstance(found.last, SparseConv2d)


def test_other_reasons_to_leave_a_convolution_alone():
    model = small()
    model.steps[0].register_forward_hook(lambda module, args, output: None)
    model.steps[3].weight.data[0, 0, 0, 0] = torch.nan
    model.steps[6] = type("Special", (nn.Conv2d,), {})(8, 8, 3, padding=1)
    found = sparsify(model, photographs(2).zero_(), policy="always")
    assert found.report.left == {
        "steps.0": "it has hooks, which would no longer be called",
        "steps.3": "its weights are not finite: skipping zeros is exact for finite weights only",
        "steps.6": "module = Special: nn.Conv2d itself is allowed",
    }


def test_a_shape_that_no_kernel_is_built_for_stays_torchs(monkeypatch):
    def refuses(shape, **options):
        if shape.k == 1:
            raise UnsupportedShape("no kernel is built for it")
        return plan(shape, **options)

    plan = conversion.default_plan
    monkeypatch.setattr(conversion, "default_plan", refuses)
    found = sparsify(small(), IMAGES, policy="always")
    assert found.report.replaced == tuple(CONVOLUTIONS[:-1])
    assert found.report.plan.of("steps.18").reason == "no kernel is built for it"


def test_a_network_in_channels_last_is_left_alone():
    images = IMAGES.to(memory_format=torch.channels_last)
    model = small().to(memory_format=torch.channels_last)
    found = sparsify(model, images, policy="always")
    assert found.report.replaced == ()
    assert "channels-last" in found.report.left["steps.3"]


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_the_copy_is_for_inference():
    model = small()
    model.train()
    found = sparsify(model, IMAGES, policy="always")
    assert model.training
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    found(IMAGES[:1])  # nothing requires a gradient
    with pytest.raises(NotDifferentiable, match=r"torch.inference_mode\(\)"):
        found(IMAGES[:1].clone().requires_grad_())
    with pytest.raises(NotDifferentiable, match=r"call .eval\(\)"):
        found.train()(IMAGES[:1])


@pytest.mark.parametrize(
    ("images", "batch", "sentence"),
    [
        ([], 1, "calibration holds no images"),
        (IMAGES.double(), 1, r"calibration is torch.float64 .*: float32 on the model's device cpu"),
        (IMAGES[:3], 4, "batch = 4, but there are 3 images, and a batch repeats none"),
    ],
)
def test_images_that_do_not_do(images, batch: int, sentence: str):
    with pytest.raises(FrugalError, match=sentence):
        sparsify(small(), images, policy="always", batch=batch)
    assert issubclass(UnsupportedInput, FrugalError)


def test_batches_of_images_do_as_well_as_one_tensor():
    found = sparsify(small(), (IMAGES[start : start + 2] for start in (0, 2, 4)), policy="always")
    assert found.report.plan.images == 3


class Forgetful(nn.Module):
    """Its result depends on how often it was called, which a traced graph does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 4, 1), 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x) * self.calls


def test_a_copy_that_computes_something_else_is_not_given_out():
    with pytest.raises(FrugalError, match="the copy's results differ from the model's"):
        sparsify(Forgetful(), IMAGES, policy="always")
