"""What a model becomes: nodes with the sizes that torch gives them, and one sentence for what cannot run in tiles."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from frugal.models.darknet import darknet19_bn
from frugal.models.resnet import resnet50
from frugal.models.unet import unet_small
from frugal.models.vgg import vgg16
from frugal.sft import PlanError, ShapeError, UnsupportedOp, trace


@pytest.mark.parametrize("size", [(64, 64), (203, 171), (33, 500)])
@pytest.mark.parametrize("make", [vgg16, darknet19_bn, resnet50, unet_small])
def test_shapes_are_those_of_the_modules(make, size):
    model = make().to("meta")
    found: dict[int, list] = {}
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, args, out: found.setdefault(id(m), []).append(tuple(out.shape)))
    model(torch.zeros(2, 3, *size, device="meta"))
    for module in model.modules():
        module._forward_hooks.clear()
    graph = trace(model).sized((2, 3, *size))
    shapes = graph.shapes((2, 3, *size))
    checked = 0
    for node in graph.nodes:
        if node.module is not None and not node.whole:
            assert shapes[node.name] in found[id(node.module)]
            checked += 1
    assert checked > 15


def test_the_head_begins_with_the_mean_and_shares_the_modules():
    model = vgg16(width_divisor=16)
    graph = trace(model)
    assert (graph.output, graph.head.mean) == ("pool5", True)
    y = torch.rand(2, 32, 3, 3)
    expected = model.softmax(model.fc(y.mean((2, 3))))
    torch.testing.assert_close(graph.head(y.mean((2, 3))), expected)
    assert graph.head.module.fc is model.fc


def test_a_map_as_the_result_has_no_head():
    head = trace(unet_small()).head
    assert (head.mean, head.module) == (None, None)


def test_a_pool_over_everything_is_the_mean():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(4, 2))
    graph = trace(model)
    assert (graph.output, graph.head.mean) == ("_2", None)
    assert (graph.sized((1, 3, 16, 16)).output, graph.sized((1, 3, 16, 16)).head.mean) == ("_1", True)
    assert graph.sized((1, 3, 32, 32)).output == "_2"


def test_segments_have_the_inputs_they_read():
    graph = trace(resnet50().eval())
    parts = graph.cut(["maxpool", "layer1_0_relu_2"])
    assert [part.output for part in parts] == ["maxpool", "layer1_0_relu_2", "layer4_2_relu_2"]
    assert [part.inputs for part in parts] == [("x",), ("maxpool",), ("layer1_0_relu_2",)]
    assert sum(len(part.nodes) for part in parts) == len(graph.nodes)
    both = graph.cut(["layer1_0_conv1", "layer1_0_bn2"])  # the shortcut of the first block starts at neither of them
    assert both[-1].inputs[:1] == ("x",)
    assert "conv1" in {node.name for node in both[0].nodes} & {node.name for node in both[-1].nodes}


def test_statistics_force_their_input_to_be_kept():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4))
    graph = trace(model)
    assert graph.forced == {"_0", "_3"}
    assert [(part.inputs, part.vectors) for part in graph.cut([])] == [
        (("input_1",), ()), (("_0",), ("_1_statistics",)), (("_3",), ("_4_statistics",)),
    ]  # fmt: skip
    assert graph.current
    model.eval()
    assert not graph.current
    assert trace(model).forced == {"_3"}


class InPlace(nn.Module):
    """What torch itself overwrites is read overwritten."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.add = nn.ReLU(inplace=True)  # a name like a function's

    def forward(self, x):
        x = self.conv(x)
        y = self.conv(self.add(x))
        y += x
        functional.relu_(y)
        return y


def test_readers_of_an_overwritten_map_read_the_result():
    graph = trace(InPlace())
    conv, relu, _, added, result = graph.nodes
    assert relu.inputs == (conv.name,)
    assert added.inputs[1] == relu.name
    assert (result.inputs, graph.output) == ((added.name,), result.name)


class Two(nn.Module):
    def forward(self, x, y):
        return x + y


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Middle(nn.Module):
    """A convolution, something, a convolution."""

    def __init__(self, middle):
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 4, 3, padding=1), middle, nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        a = self.a(x)
        return a, self.b(a)


class Space(nn.Module):
    def forward(self, x):
        return functional.layer_norm(x, x.shape[1:])


hooked = nn.ReLU()
hooked.register_forward_hook(lambda *_: None)

REFUSED = {
    "two inputs": (Two(), r"Two: a model of 2 inputs"),
    "condition": (Branch(), r"Branch: what torch.fx cannot trace .*conditions on tensors"),
    "nothing": (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), r"Flatten cannot run in tiles"),
    "several": (Several(), r"a head that reads a beside b"),
    "dropout": (Middle(nn.Dropout(0.5)), r"middle: Dropout in the body .*allow_dropout=True"),
    "reflect": (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), r"Conv2d padding_mode='reflect'"),
    "layer norm": (Middle(Space()), r"layer_norm cannot run in tiles: move it behind"),
    "softmax": (Middle(nn.Softmax(2)), r"middle: Softmax cannot run in tiles"),
    "bilinear": (Middle(nn.Upsample(scale_factor=2, mode="bilinear")), r"mode='bilinear' .*use mode='nearest'"),
    "fraction": (Middle(nn.Upsample(scale_factor=1.5)), r"use an integer scale_factor"),
    "hook": (Middle(hooked), r"middle: a module with forward hooks"),
    "running": (Middle(nn.InstanceNorm2d(4, track_running_stats=True)), r"leave track_running_stats at False"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_in_tiles_is_named(case):
    model, sentence = REFUSED[case]
    with pytest.raises(UnsupportedOp, match=sentence):
        trace(model)


def test_dropout_is_allowed_where_it_is_asked_for_and_where_it_does_nothing():
    assert [node.op for node in trace(Middle(nn.Dropout(0.5)), allow_dropout=True).nodes] == ["conv", "dropout", "conv"]
    assert len(trace(Middle(nn.Dropout(0.5)).eval()).nodes) == 2
    assert len(trace(Middle(nn.Dropout(0.0))).nodes) == 2


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((1, 4, 64, 64), "conv1_1 takes 3 channels and gets 4"),
        ((1, 3, 16, 64), "pool5: its input has 1 × 4 pixels"),
        ((1, 3, 0, 64), "each at least 1"),
        ((64, 64), r"give \(N, C, H, W\) or \(C, H, W\)"),
    ],
)
def test_images_that_do_not_fit(shape, sentence):
    with pytest.raises(ShapeError, match=sentence):
        trace(vgg16(width_divisor=16)).shapes(shape)


class Meets(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x):
        return x + self.up(self.pool(x))


def test_maps_of_different_sizes_do_not_meet():
    graph = trace(Meets())
    assert graph.shapes((1, 3, 8, 8))["add"] == (1, 3, 8, 8)
    with pytest.raises(ShapeError, match="multiples of the network's strides"):
        graph.shapes((1, 3, 9, 8))


def test_unknown_cuts():
    with pytest.raises(PlanError, match="no map 'pool9' to cut at: take one of"):
        trace(vgg16(width_divisor=16)).cut(["pool9"])
