"""Every method trains the same network: its step against the untiled one in float64, and what it saves meanwhile."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from frugal.memory import LiveBytes, MacCounter
from frugal.models import build
from frugal.sft import methods
from frugal.sft.chain import chain
from frugal.sft.errors import PlanError, SftError, ShapeError
from frugal.sft.host import HostImage
from frugal.sft.methods import Setup, forward_of, network, sgd, step, target_of, uploaded
from frugal.sft.ratios import macs_single_halo

SHAPE = (2, 3, 64, 64)
FP32 = Setup()


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = build(name, num_classes=10, width_divisor=16).double()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and name.startswith(("vgg", "darknet")):
            nn.init.kaiming_normal_(module.weight)  # else next to nothing of the image reaches the end
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            module.eval()
    return model


def trained(name: str, method: str, settings: dict, steps: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """Losses, and parameters after the steps."""
    model = model_of(name)
    target = target_of(model, SHAPE)
    forward = forward_of(method, model, SHAPE, FP32, **settings)
    image = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    work = step(model, forward, lambda: image, target, FP32, sgd(model))
    losses = [work() for _ in range(steps)]
    assert all(parameter.grad is None for parameter in model.parameters())
    return losses, [parameter.detach() for parameter in model.parameters()]


TORCH_METHODS = [
    ("vgg16", "checkpoint", {"segments": 5}),
    ("vgg16", "checkpoint", {"segments": 2}),
    ("darknet19_bn", "checkpoint", {"segments": 10}),  # leaky ReLU in place: not what it was when done twice
    ("resnet18", "checkpoint", {"segments": 4}),
    ("resnet18", "checkpoint_blocks", {}),
    ("resnet50", "checkpoint_blocks", {}),
    ("unet_small", "checkpoint_blocks", {}),
    ("vgg16", "save_on_cpu", {}),
    ("unet_small", "compile", {"backend": "aot_eager"}),
    ("vgg16", "activation_budget", {"budget": 0.25, "backend": "aot_eager_decomp_partition"}),
    ("vgg16_bn", "sft_artifact", {"tiles": 2}),
    ("vgg16", "tiled_1seg", {"tiles": 2}),
    ("resnet18", "tiled_1seg", {"tiles": 2}),
    ("vgg16", "tiled_1seg", {"tiles": 2, "stack": 2}),
]


@pytest.mark.parametrize(("name", "method", "settings"), TORCH_METHODS)
def test_steps_are_those_of_the_network_as_it_is(name, method, settings):
    losses, parameters = trained(name, method, settings)
    right_losses, right = trained(name, "vanilla", {})
    assert len({float(loss) for loss in right_losses}) == 3  # it learns something
    start = [parameter.detach() for parameter in model_of(name).parameters()]
    assert max(float((a - b).abs().max()) for a, b in zip(right, start, strict=True)) > 1e-5
    # float64, the same operations up to the order of sums; three steps amplify that a little
    torch.testing.assert_close(losses, right_losses, rtol=1e-10, atol=0)
    for a, b in zip(parameters, right, strict=True):
        assert (a - b).abs().max() <= 1e-10 * b.abs().max()


def peak(method: str, name: str = "vgg16", **settings) -> int:
    """Bytes of tensors alive at once in a step, beside parameters and optimiser."""
    model = model_of(name).float()
    optimiser = sgd(model)
    image = torch.randn(1, 3, 128, 128)
    forward = forward_of(method, model, (1, 3, 128, 128), FP32, **settings)
    work = step(model, forward, lambda: image, target_of(model, (1, 3, 128, 128)), FP32, optimiser)
    live = LiveBytes()
    live.track((model, image, optimiser.state))
    with live:
        work()
    return live.peak


def test_checkpoints_keep_less_and_compute_more():
    assert peak("checkpoint", segments=10) < peak("checkpoint", segments=5) < 0.9 * peak("vanilla")
    assert peak("checkpoint_blocks", "resnet50") < 0.6 * peak("vanilla", "resnet50")
    assert peak("checkpoint_blocks", "unet_small") < 0.95 * peak("vanilla", "unet_small")
    model = model_of("resnet18")
    work = step(
        model, forward_of("checkpoint_blocks", model, SHAPE, FP32), lambda: torch.ones(SHAPE).double(),
        target_of(model, SHAPE), FP32, sgd(model),
    )  # fmt: skip
    with MacCounter() as counter:
        work()
    stem_and_head = SHAPE[0] * (4 * 3 * 49 * 32 * 32 + model.fc.weight.numel())
    assert counter.recompute == counter.forward - stem_and_head


@pytest.mark.parametrize(("name", "n"), [("vgg16", 2), ("vgg16", 3), ("darknet19_bn", 3)])
def test_one_segment_of_tiles_costs_what_the_closed_form_says(name, n):
    shape = (1, 3, 128, 103)
    model = model_of(name)
    image = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    forward = forward_of("tiled_1seg", model, shape, FP32, tiles=n)
    with MacCounter() as counter:
        forward(image).sum().backward()
    head = sum(module.weight.numel() for module in model if isinstance(module, nn.Linear))
    closed = macs_single_halo(chain(model).layers, *shape[2:], n)
    assert (counter.forward - head, counter.recompute) == (closed.forward, closed.recompute)
    assert (counter.dgrad - head, counter.wgrad - head) == (closed.dgrad, closed.wgrad)


def test_the_activation_budget_is_torchs():
    """With nothing to save between the passes the compiled backward computes again what it needs."""

    def saved(budget: float) -> int:
        torch.compiler.reset()
        model = model_of("vgg16").float()
        run = forward_of(
            "activation_budget", model, SHAPE, FP32, budget=budget, backend="aot_eager_decomp_partition"
        )  # fmt: skip
        image = torch.randn(SHAPE)
        own = {tensor.untyped_storage()._cdata for tensor in (image, *model.parameters())}
        node = run(image).grad_fn
        while not hasattr(node, "saved_tensors"):  # a compiled output may be a view of what the node made
            node = node.next_functions[0][0]
        return sum(tensor.nbytes for tensor in node.saved_tensors if tensor.untyped_storage()._cdata not in own)

    assert saved(0.0) < 0.1 * saved(1.0)


def test_blocks_are_themselves_again_after_the_pass():
    model = model_of("resnet18")
    forward = forward_of("checkpoint_blocks", model, SHAPE, FP32)
    handle = model.layer3.register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyError("planted")))
    with pytest.raises(KeyError, match="planted"):
        forward(torch.zeros(SHAPE).double())
    handle.remove()
    assert not any("forward" in vars(module) for module in model.modules())
    forward(torch.zeros(SHAPE).double()).sum().backward()
    assert not any("forward" in vars(module) for module in model.modules())


# ---- a step ----------------------------------------------------------------------------------------------------------


def test_a_network_is_drawn_from_its_seed_and_leaves_other_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    options = {"width_divisor": 16, "num_classes": 4}
    first, again, other = (network("vgg16_bn", "cpu", Setup(), **options, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.conv1_1.weight, again.conv1_1.weight)
    assert not torch.equal(first.conv1_1.weight, other.conv1_1.weight)
    assert (first.fc.out_features, first.conv3_1.out_channels) == (4, 16)
    assert first.bn1_1.training


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_norms_keep_their_statistics(frozen):
    model = network("resnet18", "cpu", Setup(channels_last=True), width_divisor=16, frozen_norms=frozen)
    assert model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.training
    model(torch.randn(SHAPE))
    assert torch.equal(model.bn1.running_mean, torch.zeros(4)) == frozen
    assert model.bn1.weight.requires_grad


def test_the_optimisers_state_is_there_before_the_first_step_and_changes_nothing():
    torch.manual_seed(0)
    model, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(model.state_dict())
    prepared, bare = sgd(model), torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
    assert len(prepared.state) == 2
    assert torch.equal(model.weight, plain.weight)
    for _ in range(3):
        for each, optimiser in ((model, prepared), (plain, bare)):
            optimiser.zero_grad()
            each(torch.ones(1, 3)).square().sum().backward()
            optimiser.step()
    assert torch.equal(model.weight, plain.weight)


def test_the_target_has_the_outputs_shape_and_is_the_same_each_time():
    for name, shape in (("vgg16", (2, 10)), ("unet_small", (2, 10, 64, 64))):
        model = model_of(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        target = target_of(model, SHAPE)
        assert (target.shape, target.dtype) == (shape, torch.float32)
        assert torch.equal(target, target_of(model, SHAPE))
        assert 0 <= target.min() < 0.3 < 0.7 < target.max() < 1
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_autocast_holds_for_the_forward_pass_and_the_loss_alone():
    model = model_of("vgg16").float()
    seen, target = [], target_of(model, SHAPE)
    model.conv1_2.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    setup = Setup("bf16")
    work = step(model, model, lambda: torch.randn(SHAPE), target, setup, sgd(model))
    loss = work.forward()
    assert seen == [torch.bfloat16]
    assert not torch.is_autocast_enabled("cpu")
    work.backward(loss)
    assert model.conv1_2.weight.grad.dtype == torch.float32
    work.update()
    assert model.conv1_2.weight.grad is None


def test_setups():
    assert (Setup("tf32").autocast, Setup("bf16").autocast) == (None, torch.bfloat16)
    for setup, tf32 in ((Setup("fp32"), False), (Setup("tf32"), True), (Setup("bf16"), False)):
        with setup.flags():
            assert torch.backends.cudnn.allow_tf32 is tf32
            assert torch.backends.cudnn.benchmark is True
    assert Setup(channels_last=True).memory_format is torch.channels_last
    with pytest.raises(SftError, match=r"^precision 'fp8' is not known: take one of fp32, tf32, bf16$"):
        Setup("fp8")


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_image_in_main_memory_is_moved_and_normalised(channels_last):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image.setflags(write=False)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = uploaded(image, "cpu", Setup(channels_last=channels_last), mean, std)()
    expected = (image.astype(np.float64) / 255 - mean) / std
    assert (x.dtype, x.shape) == (torch.float32, (1, 3, 5, 7))
    # three float32 operations on numbers below 3
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy(), expected, rtol=0, atol=3 * 3 * 2**-24 * 2)
    assert x.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    plain = uploaded(image, "cpu", FP32)()
    np.testing.assert_array_equal(plain[0].permute(1, 2, 0).numpy(), image.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("method", methods.METHODS)
def test_images_in_main_memory(method, kind, batch):
    """Windows for the methods that take them, the whole for the others; both are the same images."""
    whole = np.random.default_rng(0).integers(0, 256, (*((batch,) if batch else ()), 5, 7, 3), dtype=np.uint8)
    pixels = whole if kind is np.uint8 else whole.astype(np.float32) / 255
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    given = methods.from_host(method, pixels, "cpu", FP32, mean, std, prefetch=3)()
    assert isinstance(given, HostImage) == (method in methods.STREAMING)
    assert given.shape == (batch or 1, 3, 5, 7)
    if isinstance(given, HostImage):
        assert (given.mean, given.std, given.prefetch) == (mean, std, 3)
        np.testing.assert_array_equal(given.window((0, 5), (0, 7)), pixels if batch else pixels[None])
    else:
        last = (whole[-1] if batch else whole).transpose(2, 0, 1) / 255
        expected = (last - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
        # three float32 operations on numbers below 3
        np.testing.assert_allclose(given[-1].numpy(), expected, rtol=0, atol=3 * 3 * 2**-24 * 2)


@pytest.mark.parametrize("method", [*methods.STREAMING, "vanilla", "save_on_cpu", "sft_artifact"])
def test_steps_on_images_in_main_memory_are_those_of_the_network(method):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    settings = {"tiled_1seg": {"tiles": 2}, "sft_artifact": {"tiles": 2}}.get(method, {})
    if method in ("tiled", "strips", "planned"):
        settings = {"budget_bytes": 2**30, "input": "host"}
    model = model_of("vgg16").float()
    target = target_of(model, SHAPE)
    forward = forward_of(method, model, SHAPE, FP32, **settings)
    found = step(model, forward, methods.from_host(method, pixels, "cpu", FP32), target, FP32, sgd(model)).forward()
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    # two float32 passes over 13 layers, in another order of sums
    torch.testing.assert_close(found, nn.functional.mse_loss(model_of("vgg16").float()(x), target), rtol=1e-4, atol=0)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "method", "settings", "error", "sentence"),
    [
        (
            "vgg16",
            "chekpoint",
            {},
            SftError,
            r"^method 'chekpoint' is not known \(did you mean checkpoint\?\): take one",
        ),
        (
            "vgg16",
            "planned",
            {"budget_bytes": 1, "input": "disk"},
            SftError,
            r"^input 'disk' is not known: take one of",
        ),
        ("vgg16", "checkpoint", {"segments": 0}, SftError, r"^segments = 0: this network can be cut into 1 to 22$"),
        ("vgg16", "checkpoint", {"segments": 23}, SftError, r"^segments = 23: this network can be cut into 1 to 22$"),
        (
            "unet_small",
            "checkpoint",
            {"segments": 2},
            SftError,
            r"checkpoint: UNet is no chain .*: take checkpoint_blocks",
        ),
        ("vgg16", "checkpoint_blocks", {}, SftError, r"^method checkpoint_blocks: Sequential has no blocks: take"),
        ("vgg16", "activation_budget", {"budget": 1.5}, SftError, r"^budget = 1.5: .* from 0 \(recompute\) to 1"),
        ("vgg16", "tiled_1seg", {"tiles": 3}, PlanError, r"pool5"),
        ("vgg16", "tiled_1seg", {"tiles": 2, "graphs": 1}, SftError, r"graphs = 1: there are no CUDA graphs on cpu"),
        ("vgg16", "tiled_1seg", {"tiles": 2, "stack": 5}, PlanError, r"pool5: 5 of 4 windows at once"),
        ("resnet18", "tiled_1seg", {"tiles": 2, "backend": "kernel"}, SftError, r"no kernel computes in torch.float64"),
        ("vgg16", "sft_artifact", {"tiles": 4}, ShapeError, r"an image of 64 × 64: 4 tiles do not divide pool5"),
    ],
)
def test_what_a_network_cannot_do_is_said_before_anything_runs(name, method, settings, error, sentence):
    with pytest.raises(error, match=sentence):
        forward_of(method, model_of(name), SHAPE, FP32, **settings)


def test_pairs_of_layers_in_one_kernel_are_of_float32_and_of_networks_that_have_them():
    model = model_of("vgg16").float()
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    found = [forward_of("tiled_1seg", model, SHAPE, FP32, tiles=2, backend=name)(x) for name in ("torch", "kernel")]
    # float32: sums of up to 577 products, which both round, in another order
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    with pytest.raises(SftError, match="no two layers of this network are within the kernels' envelope"):
        forward_of("tiled_1seg", model_of("resnet18").float(), SHAPE, FP32, tiles=2, backend="kernel")


def test_every_method_of_the_table_in_the_docstring_is_there():
    text = methods.__doc__
    assert [name for name in methods.METHODS if f"`{name}`" not in text] == []
