"""SFT's networks: their layers against the published lists, their exact multiply-adds, and what training keeps."""

import pytest
import torch
from torch import nn
from torch.nn import functional as f

from frugal.memory import MacCounter
from frugal.models import build

# Channels of the convolutions, M a 2×2 maximum: the lists of the public artifact. A 1×1 convolution has a dash.
VGG = "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M"
DARKNET = (
    "32 M 64 M 128 64- 128 M 256 128- 256 M 512 256- 512 256- 512 M 1024 512- 1024 512- 1024 1000-"
)  # fmt: skip


def meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return build(name, **options)


def listed(model: nn.Module) -> str:
    """A chain in the words of VGG and DARKNET; other layers are left out."""
    words = []
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            k = layer.kernel_size[0]
            assert (layer.stride, layer.padding, layer.dilation, layer.groups) == ((1, 1), (k // 2, k // 2), (1, 1), 1)
            words.append(f"{layer.out_channels}{'-' if k == 1 else ''}")
        elif isinstance(layer, nn.MaxPool2d):
            assert (layer.kernel_size, layer.stride, layer.padding) == (2, 2, 0)
            words.append("M")
    return " ".join(words)


def test_layers_are_those_of_the_published_lists():
    assert listed(meta("vgg16")) == listed(meta("vgg16_bn")) == VGG
    assert listed(meta("darknet19")) == listed(meta("darknet19_bn")) == DARKNET
    published = (nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.Softmax)
    assert all(isinstance(layer, published) for layer in meta("vgg16"))
    # a linear network, as published
    assert {type(layer).__name__ for layer in meta("darknet19")} == {
        "Conv2d", "MaxPool2d", "AdaptiveAvgPool2d", "Flatten", "Softmax",
    }  # fmt: skip
    assert [name for name, _ in meta("vgg16").named_parameters() if name.endswith("bias")] == []
    assert [name for name, _ in meta("darknet19").named_parameters() if name.endswith("bias")] == []


def test_only_the_last_convolution_of_the_real_darknet_has_a_bias():
    model = meta("darknet19_bn")
    assert [name for name, m in model.named_children() if getattr(m, "bias", None) is not None and "conv" in name] == [
        "conv19"
    ]
    kinds = [type(layer).__name__ for layer in model if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU))]
    assert kinds == ["Conv2d", "BatchNorm2d", "LeakyReLU"] * 18 + ["Conv2d"]
    assert {layer.negative_slope for layer in model if isinstance(layer, nn.LeakyReLU)} == {0.1}


@pytest.mark.parametrize(
    ("name", "side", "macs"),
    [
        ("vgg16", 224, 15_346_630_656),
        ("vgg16", 2048, 1_282_853_044_224),
        ("vgg16", 32, 305_856 * 32 * 32),
        ("vgg16_bn", 2048, 1_282_853_044_224),
        ("darknet19", 224, 2_790_989_824),
        ("darknet19", 2048, 233_303_965_696),
        ("darknet19", 32, 55_624 * 32 * 32),
        ("darknet19_bn", 2048, 233_303_965_696),
    ],
)
def test_multiply_adds_are_the_exact_integers(name, side, macs):
    model = meta(name)
    linear = 512 * 1024 if name.startswith("vgg") else 0
    with MacCounter() as counter, torch.no_grad():
        model(torch.empty(1, 3, side, side, device="meta"))
    assert counter.total == counter.forward == macs + linear


@pytest.mark.parametrize(
    ("name", "bytes_a_pixel"),
    [("vgg16", 1456), ("vgg16_bn", 2537), ("darknet19", 558), ("resnet18", 443), ("resnet50", 1718)],
)
def test_bytes_that_autograd_saves_a_pixel(name, bytes_a_pixel):
    """Float32, one image of 192², each storage once, parameters and buffers left out; measured on torch 2.13."""
    model = meta(name)
    x = torch.empty(1, 3, 192, 192, device="meta")
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(x)
    assert output.requires_grad
    # The numbers are rounded to a byte.
    assert sum(storage.nbytes() for storage in saved.values()) / 192**2 == pytest.approx(bytes_a_pixel, abs=0.5)


def test_vgg_is_the_written_formula():
    torch.manual_seed(0)
    model = build("vgg16", width_divisor=16).double()
    x = torch.randn(2, 3, 70, 41, dtype=torch.float64)
    weights = list(model.parameters())
    y = x
    for word in VGG.split():
        y = f.max_pool2d(y, 2) if word == "M" else f.conv2d(y, weights.pop(0), padding=1).clamp_min(0)
    logits = y.flatten(2).mean(2) @ weights.pop(0).t()
    assert weights == []
    expected = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=0)  # float64, another order of the same sums


def test_darknet_is_the_written_formula():
    torch.manual_seed(0)
    model = build("darknet19", num_classes=5, width_divisor=16).double()
    x = torch.randn(2, 3, 70, 41, dtype=torch.float64)
    weights = list(model.parameters())
    y = x
    for word in DARKNET.split():
        y = f.max_pool2d(y, 2) if word == "M" else f.conv2d(y, weights.pop(0), padding=0 if "-" in word else 1)
    assert weights == []
    y = y.flatten(2).mean(2)
    torch.testing.assert_close(model(x), y.exp() / y.exp().sum(1, keepdim=True), rtol=1e-12, atol=0)


@pytest.mark.parametrize("divisor", [1, 4, 8, 16])
def test_widths_are_divided_down_to_two(divisor):
    def channels(name):
        return [m.out_channels for m in meta(name, width_divisor=divisor).modules() if isinstance(m, nn.Conv2d)]

    assert channels("vgg16") == [max(2, int(word) // divisor) for word in VGG.split() if word != "M"]
    *inner, classes = (int(word.strip("-")) for word in DARKNET.split() if word != "M")
    assert channels("darknet19") == [max(2, c // divisor) for c in inner] + [classes]
    widths = [max(2, c // divisor) for c in (64, 128, 256, 512)]
    resnet = meta("resnet50", width_divisor=divisor)
    assert [resnet.conv1.out_channels, *(s[0].conv2.out_channels for s in (resnet.layer2, resnet.layer4))] == [
        widths[0], widths[1], widths[3],
    ]  # fmt: skip
    assert resnet.fc.in_features == 4 * widths[3]
    assert [block[0].out_channels for block in meta("unet_small", width_divisor=divisor).down] == [
        max(2, c // divisor) for c in (16, 32, 64)
    ]


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (203, 171), (33, 500)])
def test_the_unet_answers_for_every_pixel_of_any_size(size):
    torch.manual_seed(0)
    model = build("unet_small", width_divisor=8).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    parameters = dict(model.named_parameters())

    def twice(y, name):
        for place in (0, 2):
            y = f.conv2d(y, parameters[f"{name}.{place}.weight"], parameters[f"{name}.{place}.bias"], padding=1)
            y = y.clamp_min(0)
        return y

    y, copies = x, []
    for level in range(3):
        copies.append(twice(y, f"down.{level}"))
        y = f.max_pool2d(copies[-1], 2)
    y = twice(y, "bottom")
    for level, copy in enumerate(reversed(copies)):
        weight, bias = parameters[f"widen.{level}.weight"], parameters[f"widen.{level}.bias"]
        wide = bias[:, None, None].expand(2, -1, *copy.shape[2:]).clone()  # an odd side's last row is the bias alone
        for row in range(2):
            for column in range(2):
                part = torch.einsum("nihw,io->nohw", y, weight[:, :, row, column])
                wide[:, :, row : 2 * y.shape[2] : 2, column : 2 * y.shape[3] : 2] += part
        y = twice(torch.cat([copy, wide], 1), f"up.{level}")
    expected = f.conv2d(y, parameters["classes.weight"], parameters["classes.bias"])
    assert expected.shape == (2, 2, *size)
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-12)  # float64, another order of the same sums
