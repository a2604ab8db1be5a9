"""What one forward pass of a residual or densely connected network does, launch by launch, as data.

A step reads and writes places in a few buffers that all steps share; nothing here holds an activation. frugal.cusnn.
executor allocates the buffers and binds the steps to kernels.

* Every batch norm is folded: into the convolution before it, or (a dense layer's first) into the prologue of the one
  behind it. ReLU, bias and the residual sum belong to the convolution's epilogue.
* A dense layer writes its new channels into their place in the block's one buffer: nothing is concatenated.
* A transition pools before its 1×1: both are linear, so the order does not matter, and a quarter of the multiply-adds
  is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from frugal.errors import FrugalError
from frugal.models.densenet import DenseLayer, DenseNet
from frugal.models.resnet import ResNet
from kernels.sparse import ConvShape


class UnknownGraph(FrugalError, TypeError):
    """A network that is none of frugal.models' residual or densely connected ones."""


@dataclass(frozen=True)
class Place:
    """Channels `start` to `start + channels` of a [B, width, H, W] tensor at the beginning of a buffer."""

    buffer: str
    width: int
    H: int
    W: int
    start: int = 0
    channels: int = 0
    """0: all of `width`."""

    @property
    def C(self) -> int:
        """Channels of this place."""
        return self.channels or self.width

    def part(self, start: int, channels: int) -> Place:
        """Some of its channels."""
        return Place(self.buffer, self.width, self.H, self.W, self.start + start, channels)


@dataclass(frozen=True)
class Stem:
    """y = max pooling of relu(norm(conv(image)))."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    pool: nn.MaxPool2d
    y: Place


@dataclass(frozen=True)
class Conv:
    """y = post(after(conv(relu(before(x)))) + residual): the norms as far as there are, post a ReLU where `relu`."""

    name: str
    """The convolution's, in the network."""
    conv: nn.Conv2d
    x: Place
    y: Place
    before: nn.BatchNorm2d | None = None
    after: nn.BatchNorm2d | None = None
    residual: Place | None = None
    relu: bool = False

    def shape(self, batch: int) -> ConvShape:
        """Its sizes for so many images."""
        conv, x = self.conv, self.x
        return ConvShape(
            batch, x.C, x.H, x.W, conv.out_channels, k=conv.kernel_size[0], stride=conv.stride[0], pad=conv.padding[0]
        )


@dataclass(frozen=True)
class Pool:
    """y = average over 2×2 pixels of relu(norm(x)); x is overwritten."""

    norm: nn.BatchNorm2d
    x: Place
    y: Place


@dataclass(frozen=True)
class Head:
    """features = relu(norm(x)), in place, or x without a norm; logits = linear(mean of features over the pixels)."""

    norm: nn.BatchNorm2d | None
    linear: nn.Linear
    x: Place


Step = Stem | Conv | Pool | Head


def steps(model: nn.Module, height: int, width: int) -> list[Step]:
    """The steps of a network from `frugal.models.build` for images of height × width pixels. Raises UnknownGraph."""
    if isinstance(model, ResNet):
        return list(_resnet(model, height, width))
    if isinstance(model, DenseNet):
        return list(_densenet(model, height, width))
    raise UnknownGraph(
        f"{type(model).__name__} is no network of frugal.models: give a name that `frugal.models.build` knows, or call "
        "frugal.cusnn.sparsify for a network of your own"
    )


def _resnet(model: ResNet, height: int, width: int) -> Iterator[Step]:
    rows, columns = (_stem_side(model.conv1, model.maxpool, side) for side in (height, width))
    x = Place("even", model.conv1.out_channels, rows, columns)
    names = {module: name for name, module in model.named_modules()}
    yield Stem(model.conv1, model.bn1, model.maxpool, x)
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            name = names[block]
            shortcut = x
            if block.downsample is not None:
                conv, norm = block.downsample
                shortcut = _behind(conv, x, "shortcut")
                yield Conv(f"{name}.downsample.0", conv, x, shortcut, after=norm)
            last = 3 if hasattr(block, "conv3") else 2
            at, out = x, "odd" if x.buffer == "even" else "even"
            for i in range(1, last + 1):
                conv, norm = getattr(block, f"conv{i}"), getattr(block, f"bn{i}")
                y = _behind(conv, at, out if i == last else f"middle{i}")
                yield Conv(
                    f"{name}.conv{i}", conv, at, y, after=norm, residual=shortcut if i == last else None, relu=True
                )
                at = y
            x = at
    yield Head(None, model.fc, x)


def _densenet(model: DenseNet, height: int, width: int) -> Iterator[Step]:
    parts = model.features
    rows, columns = (_stem_side(parts.conv0, parts.pool0, side) for side in (height, width))
    count = sum(name.startswith("denseblock") for name, _ in parts.named_children())
    channels, pooled = parts.conv0.out_channels, None
    for stage in range(1, count + 1):
        layers = dict(parts.get_submodule(f"denseblock{stage}").named_children())
        growth = sum(layer.conv2.out_channels for layer in layers.values())
        block = Place("even" if stage % 2 else "odd", channels + growth, rows, columns)
        start = block.part(0, channels)
        if stage == 1:
            yield Stem(parts.conv0, parts.norm0, parts.pool0, start)
        else:
            name = f"transition{stage - 1}"
            yield Conv(f"features.{name}.conv", parts.get_submodule(name).conv, pooled, start)
        for name, layer in layers.items():
            yield from _dense_layer(f"features.denseblock{stage}.{name}", layer, block, channels)
            channels += layer.conv2.out_channels
        if stage < count:
            transition = parts.get_submodule(f"transition{stage}")
            rows, columns = rows // 2, columns // 2
            pooled = Place("pooled", channels, rows, columns)
            yield Pool(transition.norm, block, pooled)
            channels = transition.conv.out_channels
    yield Head(parts.norm5, model.classifier, block)


def _dense_layer(name: str, layer: DenseLayer, block: Place, channels: int) -> Iterator[Step]:
    """Two convolutions, of which the second adds its channels to the first `channels` of the block."""
    middle = _behind(layer.conv1, block, "bottleneck")
    x, y = block.part(0, channels), block.part(channels, layer.conv2.out_channels)
    yield Conv(f"{name}.conv1", layer.conv1, x, middle, before=layer.norm1, after=layer.norm2, relu=True)
    yield Conv(f"{name}.conv2", layer.conv2, middle, y)


def _behind(conv: nn.Conv2d, x: Place, buffer: str) -> Place:
    """A buffer for what a convolution of x gives."""
    rows, columns = (_side(conv, i, side) for i, side in enumerate((x.H, x.W)))
    return Place(buffer, conv.out_channels, rows, columns)


def _side(conv: nn.Conv2d, axis: int, side: int) -> int:
    return (side + 2 * conv.padding[axis] - conv.kernel_size[axis]) // conv.stride[axis] + 1


def _stem_side(conv: nn.Conv2d, pool: nn.MaxPool2d, side: int) -> int:
    return (_side(conv, 0, side) + 2 * pool.padding - pool.kernel_size) // pool.stride + 1
