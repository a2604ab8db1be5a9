"""The published schedule against the untiled network in float64: every gradient, many steps, what is refused."""

import copy

import pytest
import torch
from torch import Tensor, nn

from frugal.memory import MacCounter
from frugal.models import build
from frugal.sft.artifact import artifact_macs, sft_artifact
from frugal.sft.chain import chain
from frugal.sft.errors import ShapeError, UnsupportedOp
from frugal.sft.ratios import macs_untiled, published

# Another order of the same sums: √(positions) · 1e-16 leaves an order of magnitude.
EXACT = 1e-12


def model_of(name: str, divisor: int = 16) -> nn.Module:
    """Float64, with weights that keep activations of order 1, so that no gradient vanishes; batch norms frozen."""
    torch.manual_seed(0)
    model = build(name, num_classes=10, width_divisor=divisor).double()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if name == "darknet19" else "relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
            module.eval()
    return model


def small(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers).double()


def step(forward, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output and gradients, with a loss that weighs every output differently."""
    model.zero_grad()
    x = x.detach().requires_grad_(x.requires_grad)
    y = forward(x)
    weights = torch.rand(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    ((y - weights) ** 2).sum().backward()
    found = {"y": y.detach(), "x": x.grad} | {name: p.grad for name, p in model.named_parameters()}
    return {name: value.clone() for name, value in found.items() if value is not None}


def error(ours: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest of all tensors' max |a − b| ÷ max |b|."""
    assert ours.keys() == right.keys()
    assert all(value.abs().max() > 1e-9 for value in right.values())
    return max(float((ours[name] - b).abs().max() / b.abs().max()) for name, b in right.items())


@pytest.mark.parametrize(
    ("name", "shape", "n"),
    [
        ("vgg16", (1, 3, 128, 128), 4),
        ("vgg16", (1, 3, 128, 256), 2),
        ("vgg16", (1, 3, 224, 224), 7),
        ("vgg16", (1, 3, 97, 70), 1),
        ("vgg16_bn", (3, 3, 64, 64), 2),
        ("darknet19", (1, 3, 128, 128), 4),
        ("darknet19_bn", (2, 3, 96, 64), 1),
        ("darknet19_bn", (2, 3, 64, 128), 2),
    ],
)
def test_output_and_every_gradient_are_the_untiled_ones(name, shape, n):
    model = model_of(name)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert error(step(sft_artifact(model, n), model, x), step(model, model, x)) <= EXACT


CHAINS = {
    "biases, groups and dilation": lambda: small(
        nn.Conv2d(3, 4, 5, padding=2), nn.GELU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),
        nn.AvgPool2d(2), nn.Conv2d(6, 2, 1),
    ),
    "ends in its activation": lambda: small(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU(inplace=True)),
    "begins with an activation in place": lambda: small(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3, padding=1)),
    "begins with a batch norm": lambda: small(nn.BatchNorm2d(3).eval(), nn.Conv2d(3, 4, 3, padding=1)),
    "batch norm without parameters": lambda: small(
        nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False).eval(), nn.SiLU(inplace=True)
    ),
    "batch norm after a pooling": lambda: small(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(4).eval(), nn.Conv2d(4, 4, 7, padding=3)
    ),
    "one pooling": lambda: small(nn.AvgPool2d(2)),
    "a head after it": lambda: small(
        nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.Tanh()
    ),
}  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("kind", CHAINS)
def test_chains(kind, n):
    model = CHAINS[kind]()
    x = torch.randn(2, 3, 24, 48, dtype=torch.float64)
    x.requires_grad_()

    def untiled(image):
        return model(image.clone())  # an activation in place must not change the image that both get

    assert error(step(sft_artifact(model, n), model, x), step(untiled, model, x)) <= EXACT


def test_five_steps_follow_the_untiled_network_and_repeat_bit_for_bit():
    def trained(forward_of) -> list[Tensor]:
        model = model_of("vgg16")
        optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        forward = forward_of(model)
        for seed in range(5):
            x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            optimiser.zero_grad()
            step(forward, model, x)
            optimiser.step()
        return [p.detach() for p in model.parameters()]

    start = [p.detach() for p in model_of("vgg16").parameters()]
    ours, again = (trained(lambda model: sft_artifact(model, 2)) for _ in range(2))
    untiled = trained(lambda model: model)
    for a, b, c, before in zip(ours, again, untiled, start, strict=True):
        assert torch.equal(a, b)
        assert (c - before).abs().max() > 1e-6  # they have moved
        assert (a - c).abs().max() <= 1e-10 * c.abs().max()  # five steps amplify a difference of 1e-14


def test_gradients_that_nobody_wants_are_not_computed():
    model = model_of("vgg16")
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    model.conv2_1.weight.requires_grad_(False)
    assert error(step(sft_artifact(model, 2), model, image), step(model, model, image)) <= EXACT
    with MacCounter() as counter:
        step(sft_artifact(model, 2), model, image)
    with MacCounter() as wanted:
        step(sft_artifact(model, 2), model, image.clone().requires_grad_())
    assert counter.dgrad < wanted.dgrad  # the first convolution's
    assert counter.wgrad == wanted.wgrad
    model.requires_grad_(False)
    assert not sft_artifact(model, 2)(image).requires_grad
    model.requires_grad_(True)
    with torch.no_grad():
        torch.testing.assert_close(sft_artifact(model, 2)(image), model(image), rtol=EXACT, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(sft_artifact(model, 2)(image), model(image), rtol=EXACT, atol=0)


@pytest.mark.parametrize(("name", "side", "n"), [("vgg16", 2048, 4), ("darknet19", 2048, 4)])
def test_counted_multiply_adds_are_the_closed_form_but_for_the_ring(name, side, n):
    with torch.device("meta"):
        model = build(name)
    read = chain(model)
    x = torch.empty(1, 3, side, side, device="meta", requires_grad=True)
    with MacCounter() as counter:
        y = sft_artifact(nn.Sequential(*(module for _, module in read.body)), n)(x)
        forward = counter.forward
        y.sum().backward()
    bands = [band.kept for band in published(read.layers, side, n)]
    kept = [sum(hi - lo for lo, hi in level) for level in zip(*bands, strict=True)]
    within = sum(layer.macs * size**2 for layer, size in zip(read.layers, kept[1:], strict=True))
    assert forward == counter.recompute == counter.dgrad == within
    assert counter.wgrad == macs_untiled(read.layers, side, side).wgrad
    closed = artifact_macs(model, side, side, n)
    assert 0.98 * closed.forward < within < closed.forward


def test_under_autocast_weights_are_cast_and_gradients_are_float32():
    model = build("vgg16", num_classes=10, width_divisor=8).float()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    right = step(lambda image: copied(image.double()), copied := copy.deepcopy(model).double(), x)

    def cast(forward):
        def run(image):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return forward(image).float()

        return run

    untiled, ours = (step(cast(forward), model, x) for forward in (model, sft_artifact(model, 2)))
    assert ours["conv1_1.weight"].dtype == ours["x"].dtype == torch.float32
    for name, b in right.items():
        # No worse than autocast itself: twice its own error, and one rounding to bfloat16 (2⁻⁹) of the largest value.
        limit = 2 * (untiled[name] - b).abs().max() + 2**-9 * b.abs().max()
        assert (ours[name] - b).abs().max() <= limit, name


def test_float32_is_no_worse_than_the_networks_own():
    model = model_of("vgg16").float()
    x = torch.randn(1, 3, 128, 128, requires_grad=True)
    copied = copy.deepcopy(model).double()
    right = step(lambda image: copied(image.double()), copied, x)
    untiled, ours = (step(forward, model, x) for forward in (model, sft_artifact(model, 4)))
    for name, b in right.items():
        limit = 2 * (untiled[name] - b).abs().max() + 1e-7 * b.abs().max()
        assert (ours[name] - b).abs().max() <= limit, name


def test_channels_last_stays():
    model = model_of("vgg16").to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    body = nn.Sequential(*(module for _, module in chain(model).body))
    assert sft_artifact(body, 2)(x).is_contiguous(memory_format=torch.channels_last)
    assert error(step(sft_artifact(model, 2), model, x), step(model, model, x)) <= EXACT


def test_an_error_inside_leaves_nothing_behind():
    model = model_of("vgg16")
    forward = sft_artifact(model, 2)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    handle = model.relu3_1.register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyError("planted")))
    with pytest.raises(KeyError, match="planted"):
        forward(x)
    handle.remove()
    assert error(step(forward, model, x), step(model, model, x)) <= EXACT


def test_it_is_differentiable_once():
    model = small(nn.Conv2d(3, 2, 3, padding=1))
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(sft_artifact(model, 2)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([nn.Conv2d(3, 4, 3, stride=2, padding=1)], r"^0: a convolution with stride 2 cannot .* knows stride 1 alone"),
        ([nn.Conv2d(3, 4, 3)], r"^0: a convolution with padding 0 and a kernel that spans 3 cannot run in tiles"),
        ([nn.Conv2d(3, 4, 2, padding=1)], r"padding 1 and a kernel that spans 2 cannot"),
        ([nn.MaxPool2d(3, 2, 1)], r"^0: a pooling of 3 with stride 2 and padding 1 cannot"),
        ([nn.MaxPool2d(2, 1)], r"a pooling of 2 with stride 1 and padding 0 cannot"),
    ],
)
def test_what_the_published_schedule_does_not_know(layers, sentence):
    with pytest.raises(UnsupportedOp, match=sentence):
        sft_artifact(nn.Sequential(*layers), 1)
    with pytest.raises(UnsupportedOp, match=sentence):
        artifact_macs(nn.Sequential(*layers), 8, 8, 1)


def test_branches_and_training_norms_are_refused():
    with pytest.raises(UnsupportedOp, match=r"ResNet, which is no nn.Sequential, .* without branches and joins"):
        sft_artifact(build("resnet18", width_divisor=16), 2)
    model = model_of("vgg16_bn")
    forward = sft_artifact(model, 2)
    model.train()
    with pytest.raises(UnsupportedOp, match=r"^bn1_1: batch norm in training mode cannot .* freeze it with .eval\(\)"):
        forward(torch.randn(1, 3, 64, 64, dtype=torch.float64))


def test_sizes_that_tiles_do_not_divide_are_refused():
    model = model_of("vgg16")
    with pytest.raises(
        ShapeError, match=r"^an image of 224 × 224: 4 tiles do not divide pool4, which has 14 .* 1 or 7$"
    ):
        sft_artifact(model, 4)(torch.zeros(1, 3, 224, 224, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"an image of 64 × 96: 2 tiles do not divide pool5, .*; take n = 1$"):
        sft_artifact(model, 2)(torch.zeros(1, 3, 64, 96, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"the image has shape \(3, 64, 64\): it must be \[N, C, H, W\]"):
        sft_artifact(model, 2)(torch.zeros(3, 64, 64, dtype=torch.float64))
    for n in (0, -1, 2.0, True):
        with pytest.raises(ShapeError, match="tiles on an axis: it must be a whole number from 1 on"):
            sft_artifact(model, n)
