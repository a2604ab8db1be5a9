"""One node of a network's body: what a torch module does, and along each axis which of its input it looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from frugal.sft.errors import UnsupportedOp
from frugal.sft.ranges import TRANSPOSED, UPSAMPLE, WINDOW, Axis

# Operations on maps [N, C, H, W] that run window by window.
CONV, CONV_TRANSPOSE, MAX_POOL, AVG_POOL = "conv", "conv_transpose", "max_pool", "avg_pool"
ACTIVATION, AFFINE, JOIN, CAT, UPSAMPLING, DROPOUT = "activation", "affine", "join", "cat", "upsample", "dropout"
NORMALISE = "normalise"  # (y − μ)·r·γ + β with μ and r from a STATISTICS node, its vector input
# Operations that need a whole map, or none: they run between segments.
STATISTICS = "statistics"  # of a map that is normalised by what it holds itself: [2, N or 1, C], μ and r = (σ² + ε)^−½
MEAN = "mean"  # of a map over its positions
VECTOR = "vector"  # anything at all on such means

# f(0) = 0: padding may be added before the activation instead of behind it
ZERO_KEEPING = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish)
ACTIVATIONS = (*ZERO_KEEPING, nn.Sigmoid)


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    op: one of the words above. inputs: the maps that it reads; vectors: further inputs without positions. axes: what it
    does along rows and columns. module: the module whose parameters and settings count, or None. call: of a JOIN, a
    function of two operands; of a VECTOR, a function of (values by name, shapes by name). attrs: `channels` (output
    channels, where they are not the first input's), `scalar` and `swapped` (second operand of a JOIN with a number),
    `like` (a map whose size the output has), `keepdim` (of a MEAN).
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    axes: tuple[Axis, Axis] = (Axis(), Axis())
    module: nn.Module | None = None
    call: Callable[..., Tensor] | None = None
    vectors: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether it runs between segments, on whole maps or on vectors."""
        return self.op in (STATISTICS, MEAN, VECTOR)


def conv(name: str, module: nn.Conv2d, source: str) -> Node:
    """A convolution with zero padding, which may differ per side."""
    if module.padding_mode != "zeros":
        raise UnsupportedOp(
            name,
            f"Conv2d padding_mode={module.padding_mode!r}",
            "its padding repeats pixels of other tiles; use 'zeros'",
        )
    left, right, top, bottom = module._reversed_padding_repeated_twice
    pads = ((top, bottom), (left, right))
    return Node(
        name, CONV, (source,), _windows(module.kernel_size, module.stride, module.dilation, pads),
        module, attrs={"channels": module.out_channels},
    )  # fmt: skip


def conv_transpose(name: str, module: nn.ConvTranspose2d, source: str, like: str | None) -> Node:
    """A transposed convolution; like: the map whose size its output shall have (`output_size`)."""
    if module.padding_mode != "zeros":
        raise UnsupportedOp(name, f"ConvTranspose2d padding_mode={module.padding_mode!r}", "use 'zeros'")
    axes = tuple(
        Axis(TRANSPOSED, k, s, d, p, p - extra)
        for k, s, d, p, extra in zip(
            module.kernel_size, module.stride, module.dilation, module.padding, module.output_padding, strict=True
        )
    )
    attrs = {"channels": module.out_channels} | ({"like": like} if like else {})
    return Node(name, CONV_TRANSPOSE, (source,), axes, module, attrs=attrs)


def max_pool(name: str, module: nn.MaxPool2d, source: str) -> Node:
    """A maximum over windows."""
    if module.return_indices:
        raise UnsupportedOp(
            name, "MaxPool2d return_indices=True", "indices count from the tile's corner; unpool otherwise"
        )
    kernel, stride, padding, dilation = map(
        pair, (module.kernel_size, module.stride or module.kernel_size, module.padding, module.dilation)
    )
    _check_pool_padding(name, kernel, padding)
    pads = tuple((p, p) for p in padding)
    return Node(name, MAX_POOL, (source,), _windows(kernel, stride, dilation, pads, module.ceil_mode), module)


def avg_pool(name: str, module: nn.AvgPool2d, source: str) -> Node:
    """A mean over windows."""
    kernel, stride, padding = map(pair, (module.kernel_size, module.stride or module.kernel_size, module.padding))
    _check_pool_padding(name, kernel, padding)
    pads = tuple((p, p) for p in padding)
    return Node(name, AVG_POOL, (source,), _windows(kernel, stride, (1, 1), pads, module.ceil_mode), module)


def upsample(name: str, module: nn.Upsample, source: str, like: str | None) -> Node:
    """Each pixel repeated; like: the map whose size the output shall have."""
    if module.mode not in ("nearest", "nearest-exact"):
        raise UnsupportedOp(name, f"Upsample mode={module.mode!r}", "use mode='nearest'")
    if like is not None:  # the factor is known once the image's size is
        return Node(name, UPSAMPLING, (source,), (Axis(UPSAMPLE), Axis(UPSAMPLE)), attrs={"like": like})
    factors = pair(module.scale_factor) if module.scale_factor is not None else None
    if factors is None or any(factor is None or factor != int(factor) or factor < 1 for factor in factors):
        raise UnsupportedOp(
            name, f"Upsample with size={module.size}, scale_factor={module.scale_factor}", "use an integer scale_factor"
        )
    return Node(name, UPSAMPLING, (source,), tuple(Axis(UPSAMPLE, stride=int(factor)) for factor in factors))


def pair(value: Any) -> tuple[Any, Any]:
    """A setting of both axes, as torch's modules take it: one number or two."""
    return (value[0], value[-1]) if isinstance(value, (tuple, list)) else (value, value)


def _windows(kernel, stride, dilation, pads, ceil: bool = False) -> tuple[Axis, Axis]:
    return tuple(
        Axis(WINDOW, k, s, d, low, high, ceil)
        for k, s, d, (low, high) in zip(kernel, stride, dilation, pads, strict=True)
    )


def _check_pool_padding(name: str, kernel: tuple[int, int], padding: tuple[int, int]) -> None:
    if any(2 * p > k for k, p in zip(kernel, padding, strict=True)):
        raise UnsupportedOp(name, f"a pool of {kernel} with padding {padding}", "torch pads half a kernel at most")
