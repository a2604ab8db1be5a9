"""torch's arms for a whole network: what they run is the network, under the flags that their names say."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from frugal.cusnn import network_baselines
from frugal.cusnn.network_offered import BASELINES, OURS, measured, offered
from frugal.models import build

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["densenet121", "resnet18"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    """A network whose batch norms do something."""
    torch.manual_seed(0)
    made = build(request.param).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.bias, std=0.3)
    return made


def arm(name: str, model: nn.Module, device: torch.device = CPU):
    return network_baselines.arm(name, lambda: model, device, ("wall",), flop=7.0, bytes_min=8.0)


@torch.inference_mode()
def test_folding_changes_nothing_but_the_norms(model: nn.Module):
    before = copy.deepcopy(model.state_dict())
    folded = network_baselines.without_norms(model)
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    # in a DenseNet the norm that reads a concatenation stays: of each layer, each transition, and the last
    layers = sum(name.endswith(".conv2") for name, _ in model.named_modules())
    assert len(left) == (layers + 3 + 1 if isinstance(model, type(build("densenet121"))) else 0)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    want = copy.deepcopy(model).double()(x)
    # torch folds in float32: a rounding or two a weight, which passes of 18 to 120 layers add up
    assert ((folded.double()(x) - want).norm() / want.norm()).item() < 2e-6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", BASELINES["cpu"])
def test_an_arm_computes_the_network(name: str, model: nn.Module):
    x = torch.randn(2, 3, 64, 64)
    made = arm(name, model)
    with made.context():
        y = made.prepare({"x": x}).run()
    with torch.inference_mode():
        want = copy.deepcopy(model).double()(x.double())
    assert ((y.double() - want).norm() / want.norm()).item() < made.norm_bound
    assert (made.flop, made.bytes_min, made.role) == (7.0, 8.0, "baseline")


@pytest.mark.parametrize("name", network_baselines.ARMS)
def test_an_arms_flags_are_what_its_name_says(name: str, monkeypatch: pytest.MonkeyPatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **options: compiled.append(options) or module)
    seen = []
    made = arm(name, _Spy(seen), torch.device("cpu"))
    torch.backends.cudnn.allow_tf32 = True  # torch's own default
    with made.context():
        made.prepare({"x": torch.randn(2, 3, 4, 4)}).run()
    (flags,) = seen
    assert flags["tf32"] == ((name.split("_")[-1] == "tf32") or name == "cudnn_tf32_cl")
    assert flags["dtype"] == (torch.float16 if "fp16" in name else torch.float32)
    assert flags["channels_last"] == name.endswith("_cl")
    assert (made.dtype, made.layout) == (
        "float16" if "fp16" in name else "float32",
        "nhwc" if name.endswith("_cl") else "nchw",
    )
    assert made.bytes_min == (4.0 if "fp16" in name else 8.0)
    assert (made.norm_bound is not None) == ("fp32" in name)  # TF32 would not be within it
    expected = [{"mode": "max-autotune-no-cudagraphs", "dynamic": False}] if name.startswith("torch_compile") else []
    assert compiled == expected


def test_what_is_dear_is_made_once():
    made = []
    found = network_baselines.arm(
        "onednn_fp32", lambda: made.append(1) or nn.Identity(), CPU, ("wall",), flop=1.0, bytes_min=1.0
    )
    assert made == []
    for _ in range(3):
        found.prepare({"x": torch.randn(1, 3, 4, 4)})
    assert made == [1]


class _Spy(nn.Module):
    """Notes what it is called with, and under which flags."""

    def __init__(self, seen: list) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.seen = seen

    def __deepcopy__(self, memo: dict) -> _Spy:
        return _Spy(self.seen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == self.weight.dtype
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32
        self.seen.append({"tf32": torch.backends.cudnn.allow_tf32, "dtype": x.dtype, "channels_last": last})
        return x


# ---- which ones a case gets ------------------------------------------------------------------------------------------


WANTED = ["sparse", "dense_twin", *network_baselines.ARMS]


def test_every_arm_that_is_offered_is_known():
    assert {name for arms in BASELINES.values() for name in arms} == set(network_baselines.ARMS)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_device_gets_what_it_has(kind: str):
    ours, baselines = offered(kind, "quick", WANTED, "resnet50", 8)
    assert list(ours) == ["sparse", "dense_twin", "unfused"]
    assert list(baselines) == list(BASELINES[kind])
    assert {regimes for arms in (ours, baselines) for regimes in arms.values()} == {
        ("graph", "wall") if kind == "cuda" else ("wall",)
    }


@pytest.mark.parametrize(
    ("network", "batch", "compiles"),
    [("resnet50", 1, True), ("densenet169", 8, True), ("resnet50", 4, False), ("resnet101", 1, False)],
)
def test_only_some_networks_are_compiled(network: str, batch: int, compiles: bool):
    found = offered("cuda", "quick", WANTED, network, batch)[1]
    assert ({"torch_compile_fp32", "torch_compile_tf32"} <= set(found)) == compiles


def test_what_is_not_wanted_is_not_measured():
    assert offered("cuda", "quick", ["dense_twin", "cudnn_tf32"], "resnet50", 1) == (
        {"dense_twin": OURS["cuda"]["dense_twin"]},
        {"cudnn_tf32": BASELINES["cuda"]["cudnn_tf32"]},
    )


def test_smoke_takes_one_case_and_two_arms():
    assert measured("smoke", ["densenet169", "resnet50"], [2, 1]) == [("densenet169", 1)]
    assert measured("quick", ["densenet169", "resnet50"], [1, 8]) == [
        ("densenet169", 1), ("densenet169", 8), ("resnet50", 1), ("resnet50", 8),
    ]  # fmt: skip
    for kind, baseline in (("cpu", "onednn_fp32"), ("cuda", "cudnn_fp32")):
        assert [list(arms) for arms in offered(kind, "smoke", WANTED, "densenet169", 1)] == [["sparse"], [baseline]]
