"""A network that is one chain of layers, as the published schedule and `frugal.sft.ratios` want it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from frugal.sft.errors import UnsupportedOp
from frugal.sft.ratios import Layer

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Identity)
POOLS = (nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class Chain:
    """The modules of a network in the order in which they run.

    `body`: (name, module) up to the last of the leading layers that look at a neighbourhood or at single positions;
    `layers`: the body's convolutions and poolings; `head`: what follows the body.
    """

    body: tuple[tuple[str, nn.Module], ...]
    head: tuple[nn.Module, ...]
    layers: tuple[Layer, ...]


def chain(model: nn.Module) -> Chain:
    """Read an nn.Sequential, nested ones too. Raises UnsupportedOp for another module or a layer that is not square."""
    if not isinstance(model, nn.Sequential):
        raise UnsupportedOp(
            "the network",
            f"{type(model).__name__}, which is no nn.Sequential,",
            "only chains are read here, without branches and joins; take frugal.sft.plan, which reads any graph",
        )
    modules = list(_leaves(model, ""))
    known = (nn.Conv2d, nn.BatchNorm2d, *POOLS, *ACTIVATIONS)
    end = next((i for i, (_, module) in enumerate(modules) if not isinstance(module, known)), len(modules))
    body = tuple(modules[:end])
    layers = tuple(layer(name, module) for name, module in body if isinstance(module, (nn.Conv2d, *POOLS)))
    if not layers:
        first = type(modules[end][1]).__name__ if end < len(modules) else "no layer at all"
        raise UnsupportedOp(
            "the network", f"{first} without a convolution or a pooling before it", "begin the chain with one of them"
        )
    return Chain(body, tuple(module for _, module in modules[end:]), layers)


def layer(name: str, module: nn.Module) -> Layer:
    """A convolution or a pooling by its numbers; a dilated kernel by its extent. Raises UnsupportedOp if not square."""
    kernel, stride = _square(name, "kernel_size", module.kernel_size), _square(name, "stride", module.stride)
    dilation = _square(name, "dilation", getattr(module, "dilation", 1))
    extent = dilation * (kernel - 1) + 1
    if getattr(module, "ceil_mode", False):
        raise UnsupportedOp(name, "ceil_mode=True in a chain", "take frugal.sft.plan, which reads any graph")
    if not isinstance(module, nn.Conv2d):
        return Layer(name, extent, stride, _square(name, "padding", module.padding))
    if module.padding_mode != "zeros":
        raise UnsupportedOp(name, f"Conv2d padding_mode={module.padding_mode!r}", "pad with zeros")
    padding = module.padding
    if isinstance(padding, str):  # torch's words; an even extent would be padded by one more at the end
        if padding == "same" and extent % 2 == 0:
            raise UnsupportedOp(
                name,
                f"padding='same' with a kernel that spans {extent}",
                "its padding differs between the sides; take frugal.sft.plan, which reads any graph",
            )
        padding = (extent - 1) // 2 if padding == "same" else 0
    macs = module.out_channels * (module.in_channels // module.groups) * kernel**2
    return Layer(name, extent, stride, _square(name, "padding", padding), macs)


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(module, nn.Sequential):
        yield name, module
        return
    for child, inner in module.named_children():
        yield from _leaves(inner, f"{name}.{child}" if name else child)


def _square(name: str, what: str, value: int | tuple[int, ...]) -> int:
    first, *others = value if isinstance(value, tuple) else (value,)
    if any(other != first for other in others):
        raise UnsupportedOp(name, f"{what}={value} in a chain", "a chain is read with square layers alone")
    return first
