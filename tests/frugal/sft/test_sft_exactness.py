"""Tiles and strips against the untiled module in float64: outputs and all gradients.

The bound 1e-12 is relative to the largest element: sums of up to 10³·10³ products in another order differ by about
√n·2⁻⁵³ ≈ 1e-13 in the worst network here, and an order of magnitude is left.
"""

import pytest
import torch
from exactness import distances, image, step, untiled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from frugal.memory import MacCounter
from frugal.models.darknet import darknet19, darknet19_bn
from frugal.models.resnet import resnet18, resnet34, resnet50
from frugal.models.unet import unet_small
from frugal.models.vgg import vgg16, vgg16_bn
from frugal.sft import Plan, SegmentedSequential, ranges, trace

BOUND = 1e-12

NETWORKS = {
    "vgg16": (vgg16, ["pool2", "pool4"]),
    "vgg16_bn": (vgg16_bn, ["pool3"]),
    "darknet19": (darknet19, ["pool2"]),
    "darknet19_bn": (darknet19_bn, ["conv9"]),
    "resnet18": (resnet18, ["maxpool", "layer2_0_relu_1"]),
    "resnet34": (resnet34, ["layer1_2_relu_1"]),
    "resnet50": (resnet50, ["layer2_0_relu_2"]),
    "unet_small": (unet_small, ["pool_1"]),
}
SHAPES = [(1, 3, 64, 64), (3, 3, 203, 171), (1, 3, 250, 197), (1, 3, 33, 500)]


def network(name: str) -> nn.Module:
    """In evaluation mode: batch norms keep their statistics, which are no identity."""
    torch.manual_seed(0)
    model = NETWORKS[name][0](width_divisor=16).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return model


def schedule(model, shape, cuts, kind):
    """All segments of one kind, in 5 × 4 tiles or in 9 strips, or as many as there are rows and columns."""
    graph = trace(model).sized(shape)
    shapes = graph.shapes(shape)
    tiles = []
    for part in graph.cut(cuts):
        height, width = shapes[part.output][2:]
        tiles.append({"tiles": (min(height, 5), min(width, 4)), "strips": (min(height, 9), 1)}.get(kind, (1, 1)))
    return Plan.manual(model, shape, cuts=cuts, kinds=[kind] * len(tiles), tiles=tiles)


@pytest.mark.parametrize("kind", ["tiles", "strips"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, shape, kind):
    model = network(name)
    x = image(*shape)
    expected = step(untiled(model), x)
    plan = schedule(model, shape, NETWORKS[name][1], kind)
    found = distances(step(SegmentedSequential(model, plan), x), expected)
    assert max(found.values()) <= BOUND


@pytest.mark.parametrize("cuts", [[], ["relu1_1"], ["conv2_1"], ["pool1", "conv2_1", "pool5"]])
def test_segments_may_end_and_begin_anywhere(cuts):
    model = network("vgg16")
    x = image(2, 3, 70, 53)
    expected = step(untiled(model), x)
    for kind in ("tiles", "strips", "checkpoint", "store"):
        plan = schedule(model, x.shape, cuts, kind)
        assert max(distances(step(SegmentedSequential(model, plan), x), expected).values()) <= BOUND


def test_a_tile_and_a_strip_for_every_row():
    model = network("vgg16")
    x = image(1, 3, 224, 64)
    expected = step(untiled(model), x)
    for kind in ("tiles", "strips"):
        plan = Plan.manual(model, x.shape, cuts=["pool2"], kinds=[kind] * 2, tiles=[(56, 1), (7, 1)])
        assert max(distances(step(SegmentedSequential(model, plan), x), expected).values()) <= BOUND


# ---- operations ------------------------------------------------------------------------------------------------------

OPERATIONS = {
    "even kernels": nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(4, 4, 2, 1, 1), nn.MaxPool2d(4, 2, 2)),
    "same": nn.Sequential(nn.Conv2d(3, 4, 4, padding="same"), nn.GELU(), nn.Conv2d(4, 3, (2, 5), padding="same")),
    "7x7": nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.SiLU(), nn.MaxPool2d(3, 2, 1)),
    "dilation and groups": nn.Sequential(
        nn.Conv2d(3, 6, 3, 1, 2, 2),
        nn.LeakyReLU(0.1),
        nn.Conv2d(6, 6, 3, 2, 3, 3, 6),
        nn.Hardswish(),
        nn.Conv2d(6, 4, 1),
    ),
    "one by one after a pool": nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 1), nn.Sigmoid()),
    "padding wider than the kernel": nn.Sequential(nn.Conv2d(3, 4, 1, 1, 2), nn.ReLU(), nn.Conv2d(4, 4, 2, 3, 5)),
    "stride over the kernel": nn.Sequential(nn.Conv2d(3, 4, 2, 3), nn.ReLU6(), nn.Conv2d(4, 4, 3, 1, 1)),
    "ceil": nn.Sequential(
        nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(3, 4, 3, 1, 1), nn.MaxPool2d(2, ceil_mode=True)
    ),
    "dilated maximum": nn.Sequential(nn.MaxPool2d(3, 2, 1, 2), nn.Conv2d(3, 4, 3)),
    "average": nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.AvgPool2d(3, 2, 1), nn.Conv2d(4, 4, 1)),
    "average of what is there": nn.Sequential(
        nn.ReLU(), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)
    ),
    "average, ceil": nn.Sequential(nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True), nn.Conv2d(3, 4, 3, 1, 1)),
    "average, divisor": nn.Sequential(nn.AvgPool2d(3, 2, 1, divisor_override=5), nn.Conv2d(3, 4, 3, 1, 1)),
    "transposed": nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 5, 3, 2, 1, output_padding=1), nn.ReLU(), nn.Conv2d(5, 3, 3)
    ),
    "transposed with gaps": nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 3, output_padding=2), nn.Conv2d(4, 3, 3, 1, 1)),
    "transposed, dilated, grouped": nn.Sequential(nn.ConvTranspose2d(3, 6, 3, 2, 2, 0, 3, dilation=2), nn.ReLU()),
    "upsample": nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=3), nn.Conv2d(3, 4, 3, 1, 1), nn.Identity()),
    "leaky downwards": nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.LeakyReLU(-0.5), nn.Conv2d(4, 4, 3, 1, 1)),
    "no bias": nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False)),
}


@pytest.mark.parametrize("windows", [("tiles", (3, 2)), ("tiles", (5, 7)), ("strips", (4, 1)), ("strips", (7, 1))])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name, windows):
    model = OPERATIONS[name].double()
    x = image(2, 3, 31, 29)
    expected = step(untiled(model), x)
    kind, tiles = windows
    plan = Plan.manual(model, x.shape, kinds=[kind], tiles=[tiles])
    assert max(distances(step(SegmentedSequential(model, plan), x), expected).values()) <= BOUND


class Gate(nn.Module):
    """Squeeze and excite: a map times a vector that is made of its own mean."""

    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Linear(channels, 2), nn.Linear(2, channels)

    def forward(self, x):
        n, c, _, _ = x.size()
        s = torch.sigmoid(self.up(functional.relu(self.down(x.mean((2, 3))))))
        return x * s.view(n, c, 1, 1)


class Joins(nn.Module):
    """Sums, differences, products, numbers, concatenation, a shared module, and functions in place of modules."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.last = nn.Conv2d(12, 2, 1)

    def forward(self, x):
        a = functional.leaky_relu(self.first(x), 0.2)
        b = self.shared(a)
        c = 1.0 - self.shared(functional.relu(b)) * 0.5
        b += a
        d = functional.interpolate(functional.max_pool2d(a, 2, ceil_mode=True), size=a.shape[-2:])
        y = self.last(torch.cat([b * c, d, functional.avg_pool2d(c, 3, 1, 1)], 1))
        return torch.flatten(functional.adaptive_avg_pool2d(y, 1), 1)


@pytest.mark.parametrize("kind", ["store", "tiles", "strips"])
def test_joins_and_shared_modules(kind):
    model = Joins().double()
    x = image(2, 3, 32, 24)
    expected = step(untiled(model), x)
    for cuts in ([], ["leaky_relu", "shared"]):
        assert (
            max(distances(step(SegmentedSequential(model, schedule(model, x.shape, cuts, kind)), x), expected).values())
            <= BOUND
        )


@pytest.mark.parametrize("kind", ["store", "tiles", "strips"])
def test_squeeze_and_excite(kind):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Gate(4), nn.Conv2d(4, 5, 3, 2), Gate(5), nn.ReLU()).double()
    x = image(2, 3, 32, 24)
    expected = step(untiled(model), x)
    assert (
        max(distances(step(SegmentedSequential(model, schedule(model, x.shape, [], kind)), x), expected).values())
        <= BOUND
    )


# ---- random networks -------------------------------------------------------------------------------------------------


class Random(nn.Module):
    """Layers as drawn; a layer may read any earlier map of its own size as well, as a sum or a concatenation."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers
        self.modules_of = nn.ModuleList()
        c = 2
        for layer in layers:
            kind, k, s, d, p = layer[:5]
            if kind == "conv":
                made = nn.Conv2d(c, 2, k, s, p, d)
                c = 2
            elif kind == "max":
                # Where a window lies in the padding alone torch writes past the end of a gradient: dilation without it.
                made = nn.MaxPool2d(k, s, min(p, k // 2), ceil_mode=layer[5]) if p else nn.MaxPool2d(k, s, 0, d)
            elif kind == "avg":
                made = nn.AvgPool2d(k, s, min(p, k // 2), layer[5], count_include_pad=layer[6])
            elif kind == "cat":
                made, c = nn.Identity(), 2 * c
            else:
                made = {"relu": nn.ReLU(), "leaky": nn.LeakyReLU(0.1), "sigmoid": nn.Sigmoid()}.get(kind, nn.Identity())
            self.modules_of.append(made)

    def forward(self, x):
        for layer, module in zip(self.layers, self.modules_of, strict=True):
            if layer[0] == "residual":  # a join of two branches with equal sizes
                x = x + functional.silu(functional.max_pool2d(x, 3, 1, 1))
            elif layer[0] == "cat":
                x = torch.cat([x, functional.avg_pool2d(x, 3, 1, 1)], 1)
            else:
                x = module(x)
        return x


layers = st.tuples(
    st.sampled_from(["conv", "conv", "max", "avg", "relu", "leaky", "sigmoid", "residual", "cat"]),
    st.integers(1, 7), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.booleans(), st.booleans(),
)  # fmt: skip


def drawn(data) -> tuple[nn.Module, torch.Tensor]:
    """A network and an image."""
    before, behind = data.draw(st.lists(layers, max_size=3)), data.draw(st.lists(layers, max_size=3))
    chosen = [*before, ("conv", 3, 1, 1, 1), *behind]
    torch.manual_seed(data.draw(st.integers(0, 9)))
    model = Random(chosen).double()
    x = image(data.draw(st.integers(1, 2)), 2, data.draw(st.integers(17, 97)), data.draw(st.integers(17, 97)))
    return model, x


def random_plan(data, model, x):
    graph = trace(model)
    maps = [node.name for node in graph.nodes if not node.whole]
    cuts = data.draw(st.lists(st.sampled_from(maps), unique=True, max_size=3))
    sized = graph.sized(x.shape)
    shapes = sized.shapes(x.shape)
    parts = sized.cut(cuts)
    kinds, tiles = [], []
    for part in parts:
        kind = data.draw(st.sampled_from(["store", "checkpoint", "tiles", "strips"]))
        kinds.append(kind)
        height, width = shapes[part.output][2:]
        th = data.draw(st.integers(1, min(height, 7))) if kind in ("tiles", "strips") else 1
        tiles.append((th, data.draw(st.integers(1, min(width, 5))) if kind == "tiles" else 1))
    return Plan.manual(model, x.shape, cuts=cuts, kinds=kinds, tiles=tiles)


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_random_networks_in_random_windows(data):
    model, x = drawn(data)
    try:
        expected = step(untiled(model), x)
    except RuntimeError:  # the image is too small for the kernels: torch's own words
        return
    plan = random_plan(data, model, x)
    assert max(distances(step(SegmentedSequential(model, plan), x), expected).values()) <= BOUND


# ---- multiply-adds ---------------------------------------------------------------------------------------------------


def macs(model, x) -> MacCounter:
    counter = MacCounter()
    with counter:
        model(x).sum().backward()
    return counter


def test_multiply_adds_of_tiles_are_the_closed_form():
    model = vgg16(width_divisor=16).to("meta")
    x = torch.zeros(1, 3, 256, 192, device="meta")
    graph = trace(model)
    shapes = graph.shapes(x.shape)
    part = graph.cut([])[0]
    rows, columns = (
        ranges.computed(part.nodes, part.output, parts, {n: s[2 + axis] for n, s in shapes.items()}, axis)
        for parts, axis in ((4, 0), (3, 1))
    )
    body = sum(
        node.module.weight.numel() * rows[node.name] * columns[node.name] for node in part.nodes if node.op == "conv"
    )
    first = graph.nodes[0]
    unwanted = first.module.weight.numel() * rows[first.name] * columns[first.name]
    head = model.fc.weight.numel()
    found = macs(SegmentedSequential(model, Plan.manual(model, x.shape, tiles=[(4, 3)])), x)
    assert (found.forward, found.recompute, found.dgrad, found.wgrad) == (
        body + head,
        body,
        body - unwanted + head,
        body + head,
    )


@pytest.mark.parametrize("make", [vgg16, darknet19, unet_small])
def test_strips_compute_nothing_twice_within_a_pass(make):
    model = make(width_divisor=16).to("meta")
    x = torch.zeros(1, 3, 256, 192, device="meta")
    expected = macs(model, x)
    found = macs(SegmentedSequential(model, Plan.manual(model, x.shape, kinds=["strips"], tiles=[(5, 1)])), x)
    head = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    assert (found.forward, found.dgrad, found.wgrad) == (expected.forward, expected.dgrad, expected.wgrad)
    assert found.recompute == expected.forward - head
