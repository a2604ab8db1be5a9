"""Whole networks on the CPU twin against float64, and on kernels that a fake stands for."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from small_models import distance, images, model, right
from torch.nn import functional

from frugal.cusnn import executor
from frugal.cusnn.errors import UnsupportedInput
from frugal.cusnn.executor import Choice
from frugal.cusnn.network import Network, NetworkError
from frugal.cusnn.network_steps import Conv, steps
from frugal.cusnn.network_weights import weighted
from frugal.cusnn.plans import LayerPlan, NetworkPlan
from frugal.models import UnknownNetwork, WeightsError
from frugal.timing.verify import poison
from kernels.sparse import Fused, UnsupportedShape

BOUND = 5e-6  # relative L2, of features and logits: what the project promises
GRAPHS = [
    ("densenet121", "torchvision_v1.5"),
    ("resnet18", "torchvision_v1.5"),
    ("resnet50", "torchvision_v1.5"),
    ("resnet50", "keras_v1"),
]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("name", "definition"), GRAPHS)
def test_features_and_logits_are_the_networks(name: str, definition: str, batch: int):
    x = images(batch)
    network = Network(model(name, definition))
    features, logits = right(name, definition, x)
    assert distance(network(x), logits) < BOUND
    assert network.features(x).shape == features.shape
    assert distance(network.features(x), features) < BOUND


@pytest.mark.parametrize("name", ["densenet121", "resnet50"])
def test_what_is_fused_is_what_is_done_apart(name: str):
    x = images(2)
    fused, apart = (Network(model(name), fused=fused)(x) for fused in (True, False))
    assert distance(fused, apart.double()) < 1e-6


def test_a_policy_says_which_layers_skip(monkeypatch: pytest.MonkeyPatch):
    from kernels.sparse import cpu

    asked, compute = [], cpu.conv

    def conv(*args, skip: bool, **named):
        asked.append(skip)
        return compute(*args, skip=skip, **named)

    monkeypatch.setattr(cpu, "conv", conv)
    x, found = images(1), {}
    for policy, backend in (("auto", "sparse"), ("always", "sparse"), ("never", "dense_twin")):
        network = Network(model("resnet18"), policy=policy)
        found[policy] = network(x)
        assert {choice.backend for choice in network.choices().values()} == {backend}
        assert set(asked) == {policy != "never"}
        asked.clear()
    assert torch.equal(found["always"], found["never"])  # a product with zero changes no sum


def test_a_pass_depends_on_its_input_alone():
    network = Network(model("densenet121"))
    first, second, many = images(1, seed=1), images(1, seed=2), images(2, seed=3)
    kept = first.clone()
    alone = [Network(model("densenet121"))(x) for x in (first, second, many)]
    for _ in range(2):  # the second time every buffer holds another pass
        for x, logits in zip((first, second, many), alone, strict=True):
            assert torch.equal(network(x), logits)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["densenet121", "resnet50"])
def test_nothing_is_read_that_the_pass_did_not_write(name: str, fused: bool):
    x = images(2)
    program = Network(model(name), fused=fused).bind(x)
    poison(program.buffers)
    assert not program.run().isnan().any()
    assert program.logits.data_ptr() in {buffer.data_ptr() for buffer in program.buffers}


def test_nan_stays_with_its_image():
    x = images(3)
    x[1, 0, 20, 30] = torch.nan
    logits = Network(model("resnet18"))(x)
    assert logits.isnan().all(1).tolist() == [False, True, False]
    assert not logits[[0, 2]].isnan().any()


def test_results_are_tensors_of_their_own():
    network = Network(model("resnet18"))
    first, second = network(images(1, seed=1)), network(images(1, seed=2))
    assert not torch.equal(first, second)


# ---- captured --------------------------------------------------------------------------------------------------------


def test_a_runner_returns_the_same_memory_each_time():
    network = Network(model("resnet18"), batch=2)
    runner = network.capture(side=64)
    x, other = images(2, 64, 64, seed=1), images(2, 64, 64, seed=2)
    logits = runner(x)
    assert torch.equal(logits, network(x))
    assert runner(other) is logits
    assert torch.equal(logits, network(other))
    assert network.capture(batch=1, side=64)(x[:1]).shape == (1, 50)


@pytest.mark.parametrize("x", [images(1, 64, 64), images(2, 64, 96), images(2, 64, 64).double()])
def test_a_runner_takes_what_it_was_captured_for(x: torch.Tensor):
    with pytest.raises(UnsupportedInput, match=r"captured for torch\.float32 \(2, 3, 64, 64\); capture another"):
        Network(model("resnet18")).capture(batch=2, side=64)(x)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (images(1).half(), r"images are torch\.float16 \(1, 3, 64, 96\): float32 \[B, 3, H, W\] is needed"),
        (images(1)[0], r"float32 \[B, 3, H, W\] is needed"),
        (images(1)[:, :2], r"float32 \[B, 3, H, W\] is needed"),
        (images(2)[:0], r"float32 \[B, 3, H, W\] is needed"),
        (images(1).to(memory_format=torch.channels_last), r"dense NCHW is needed; call \.contiguous\(\)"),
        (images(1).to("meta"), r"images are on meta: this network is on cpu"),
    ],
)
def test_images_that_would_have_to_be_converted_are_refused(x: torch.Tensor, message: str):
    with pytest.raises(UnsupportedInput, match=message):
        Network(model("resnet18"))(x)


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(NetworkError, match=r"training mode: call model\.eval\(\) first"):
        Network(copy.deepcopy(model("resnet18")).train())


def test_a_policy_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="policy = 'maybe': auto, always, never are allowed"):
        Network(model("resnet18"), policy="maybe")


# ---- what computes a convolution -------------------------------------------------------------------------------------


def without_pointwise(shape, **given):
    """As frugal.cusnn.plan, where no kernel is built for 1×1."""
    if shape.k == 1:
        raise UnsupportedShape(f"no kernel for k = {shape.k}")
    return SimpleNamespace(backend="sparse", launch=None)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["densenet121", "resnet50"])
def test_what_no_kernel_computes_is_left_to_torch(name: str, fused: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(executor, "plan", without_pointwise)
    x = images(2)
    network = Network(model(name), fused=fused)
    choices = network.choices()
    kinds = {step.name: step.conv.kernel_size[0] for step in steps(network.model, 224, 224) if isinstance(step, Conv)}
    assert set(kinds) == set(choices)
    for layer, choice in choices.items():
        known = ("sparse", None) if kinds[layer] == 3 else ("onednn_fp32", "no kernel for k = 1")
        assert (choice.backend, choice.reason) == known
    assert distance(network(x), right(name, "torchvision_v1.5", x)[1]) < BOUND


def test_a_calibrations_choice_holds_for_its_shape_and_for_policy_auto():
    passes = steps(model("resnet18"), 64, 64)
    convs = [step for step in passes if isinstance(step, Conv)]
    layers = [
        LayerPlan(layer=step.name, shape=step.shape(2), backend=backend, reason=f"measured {backend}")
        for step, backend in zip(convs, ("dense_twin", "onednn_fp32"), strict=False)
    ]
    planned = NetworkPlan(network="resnet18", batch=2, device_key="d", kernels={}, images=4, layers=tuple(layers))
    network = Network(model("resnet18"), planned=planned)
    choices = network.choices(batch=2, side=64)
    assert [choices[layer.layer] for layer in layers] == [
        Choice("dense_twin", None, "measured dense_twin"), Choice("onednn_fp32", None, "measured onednn_fp32"),
    ]  # fmt: skip
    assert {choice.backend for name, choice in choices.items() if name not in {x.layer for x in layers}} == {"sparse"}
    assert {choice.backend for choice in network.choices(batch=1, side=64).values()} == {"sparse"}
    always = Network(model("resnet18"), planned=planned, policy="always")
    assert {choice.backend for choice in always.choices(batch=2, side=64).values()} == {"sparse"}
    x = images(2, 64, 64)
    assert distance(network(x), right("resnet18", "torchvision_v1.5", x)[1]) < BOUND


# ---- a GPU's kernels, faked ------------------------------------------------------------------------------------------


@dataclass
class FakeKernels:
    """Launches that compute with torch what their arguments say; nothing is computed before they are called."""

    names: list[str] = field(default_factory=list)
    bound: list[tuple] = field(default_factory=list)
    reserved: list[object] = field(default_factory=list)

    @property
    def workspace(self):
        return self

    def reserve_for(self, launch) -> None:
        assert not self.bound, "a launch is bound already"
        self.reserved.append(launch)

    def kernel(self, variant: str):
        self.names.append(variant)
        return self

    def bind(self, grid, block, given, *, cluster, overlap):
        self.bound.append((grid, block, cluster, overlap))
        launch, x, w, y, bias, fused = given
        shape = launch.shape

        def run() -> None:
            v = x if fused.pre_scale is None else x * fused.pre_scale[:, None, None] + fused.pre_shift[:, None, None]
            v = v.relu() if fused.pre_relu else v
            weight = w[..., : shape.N].permute(3, 0, 1, 2)
            z = functional.conv2d(v, weight, bias, shape.stride, shape.pad)
            z = z if fused.residual is None else z + fused.residual
            y.copy_(z.relu() if fused.post_relu else z)

        return run


def fake_plan(shape, **given):
    number = shape.C + shape.N
    launch = SimpleNamespace(
        variant=SimpleNamespace(name=f"k{shape.k}s{shape.stride}"), shape=shape, grid=(number, 1, 1), block=shape.H,
        cluster=(1, 1, shape.k), overlap=shape.k == 3, slot_floats=number, tickets=shape.W,
    )  # fmt: skip
    return SimpleNamespace(backend="sparse", launch=launch)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("name", "definition"), GRAPHS)
def test_each_convolution_is_one_launch_of_its_kernel(name: str, definition: str, fused: bool, monkeypatch):
    monkeypatch.setattr(executor, "plan", fake_plan)
    given_to, works = {}, []

    def arguments(launch, x, w, y, workspace, bias=None, fused=None):
        given_to[id(workspace)] = workspace
        works.append((bias is not None, fused))
        return launch, x, w, y, bias, fused

    monkeypatch.setattr(executor, "arguments", arguments)
    x, kernels = images(2), FakeKernels()
    passes = steps(model(name, definition), *x.shape[2:])
    convs = [step for step in passes if isinstance(step, Conv)]
    choices = executor.choose(passes, 2, x.device)
    program = executor.bind(
        passes, x, choices, lambda step, packed: executor.operands(step, packed, x.device), kernels, fused=fused
    )
    shapes = [step.shape(2) for step in convs]
    assert kernels.names == [f"k{shape.k}s{shape.stride}" for shape in shapes]
    assert kernels.bound == [((shape.C + shape.N, 1, 1), shape.H, (1, 1, shape.k), shape.k == 3) for shape in shapes]
    # the largest launch's room is there before the first launch is bound
    assert sorted(launch.slot_floats for launch in kernels.reserved) == sorted(s.C + s.N for s in shapes)
    assert list(given_to.values()) == [kernels]
    if not fused:
        assert works == [(False, Fused())] * len(convs)
    else:
        for step, (bias, work) in zip(convs, works, strict=True):
            assert bias == (step.after is not None or step.conv.bias is not None)
            assert (work.pre_scale is not None, work.pre_relu) == (step.before is not None,) * 2
            assert (work.residual is not None, work.post_relu) == (step.residual is not None, step.relu)
    assert len(kernels.bound) == len(convs)
    features, logits = right(name, definition, x)
    for _ in range(2):
        assert distance(program.run(), logits) < BOUND
        assert distance(program.features, features) < BOUND


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_a_network_is_built_from_a_state_dict_or_a_file(tmp_path):
    name, state = "resnet18", {key: value.clone() for key, value in whole().state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    x = images(1)
    with torch.inference_mode():
        want = copy.deepcopy(whole()).double()(x.double())
    for weights, origin in ((state, "state dict"), (tmp_path / "weights.pth", "weights.pth")):
        network = Network.build(name, weights=weights, batch=4)
        assert (network.name, network.definition, network.origin) == (name, "torchvision_v1.5", origin)
        assert network.batch == 4
        assert distance(network(x), want) < BOUND


def test_auto_takes_what_a_campaign_left_in_this_folder(tmp_path, monkeypatch: pytest.MonkeyPatch):
    from frugal.models.weights import convert

    torch.save(whole().state_dict(), tmp_path / "published.pth")
    (tmp_path / "data" / "weights").mkdir(parents=True)
    kept = tmp_path / "data" / "weights" / "resnet18-torchvision_v1.5.safetensors"
    convert(tmp_path / "published.pth", "resnet18", "torchvision_v1.5", None, kept)
    monkeypatch.chdir(tmp_path)
    found, origin = weighted("resnet18", "torchvision_v1.5", "auto")
    assert origin == "published.pth"
    assert torch.equal(found.fc.weight, whole().fc.weight)


def test_auto_draws_where_there_is_nothing(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found, origin = weighted("resnet18", "torchvision_v1.5", "auto")
    assert origin == "random weights"
    assert not found.training
    assert found.layer1[0].bn1.bias.std() > 0.1  # what makes the zeros


def test_weights_of_another_network_are_refused():
    state = dict(whole().state_dict())
    with pytest.raises(
        WeightsError, match=r"does not fit resnet50 \(torchvision_v1\.5\): .* Give that of this network"
    ):
        Network.build("resnet50", weights=state)


def test_a_network_that_is_not_known_is_refused_before_weights_are_looked_for():
    with pytest.raises(UnknownNetwork, match=r"'resnet5' is not known \(did you mean resnet50\?\)"):
        Network.build("resnet5", weights="there/is/no/such/file.pth")


def whole() -> torch.nn.Module:
    """With the published number of classes."""
    torch.manual_seed(0)
    from frugal.models import build

    return build("resnet18").eval()
