"""The published schedule of SFT as a method to compare with (CC 2022; public artifact HPCRL/SFT-CC2022-AE).

The body of a chain is one segment of n × n tiles. A tile (i, j) is a part D0 of the *image*. Its window holds all that
D0 can influence and all that this depends on, a doubled halo (`frugal.sft.ratios.published`). The forward pass writes
of each window every output that D0 influences, so that neighbouring tiles write some outputs again, with equal values.
The backward pass recomputes the window, takes the vector-Jacobian product with those outputs' gradients, and keeps of
the image's gradient D0 alone, which is complete there; of each layer's parameters it takes the share of that layer's
own disjoint part of its output. So nothing counts twice, and tiles share nothing but sums over disjoint parts.

What the original got wrong is right here: any number of steps, biases, batches, the gradient of the image, frozen batch
norms; the ring outside the image, which the original computes and masks, is left out (up to 2 % fewer multiply-adds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import gcd

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from frugal.sft.chain import ACTIVATIONS, POOLS, Chain, chain
from frugal.sft.errors import ShapeError, UnsupportedOp
from frugal.sft.ratios import Band, Layer, Macs, Range, macs_published, published, sizes

Window = tuple[Band, Band]
ANY_GRAPH = "take frugal.sft.plan, which has no such limit"


def sft_artifact(model: nn.Module, n: int) -> Callable[[Tensor], Tensor]:
    """model(x) as a function of x [N, C, H, W] by the published schedule in n × n tiles, differentiable once.

    The parameters are the model's own. Raises UnsupportedOp for what the schedule does not know: no nn.Sequential, a
    convolution with a stride or with a padding other than (k − 1) ÷ 2, a pooling other than 2 × 2 with stride 2, batch
    norm in training mode; and, when called, ShapeError where n does not divide the image and every layer's output.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ShapeError(f"n = {n!r} tiles on an axis: it must be a whole number from 1 on")
    read = chain(model)
    _check_layers(read)

    def forward(x: Tensor) -> Tensor:
        _check_norms(read)
        rows, columns = _bands(read.layers, x, n)
        y = _Body.apply(read.body, rows, columns, x, *_parameters(read))
        for module in read.head:
            y = module(y)
        return y

    return forward


def artifact_macs(model: nn.Module, height: int, width: int, n: int) -> Macs:
    """Multiply-adds of a step of the published schedule for one image, in the body's convolutions, in closed form.

    The gradient of the image counts as if it were wanted, and so does the ring outside the image, which the original
    computes. Raises as `sft_artifact` does.
    """
    read = chain(model)
    _check_layers(read)
    try:
        return macs_published(read.layers, height, width, n)
    except ValueError as error:
        raise ShapeError(_not_divided(read.layers, (height, width), str(error))) from None


# ---- what is refused -------------------------------------------------------------------------------------------------


def _check_layers(read: Chain) -> None:
    for layer, module in zip(read.layers, (m for _, m in read.body if isinstance(m, (nn.Conv2d, *POOLS))), strict=True):
        if isinstance(module, POOLS):
            if (layer.kernel, layer.stride, layer.padding) != (2, 2, 0):
                raise UnsupportedOp(
                    layer.name,
                    f"a pooling of {layer.kernel} with stride {layer.stride} and padding {layer.padding}",
                    f"the published schedule knows 2, 2 and 0 alone; {ANY_GRAPH}",
                )
        elif layer.stride != 1:
            raise UnsupportedOp(
                layer.name,
                f"a convolution with stride {layer.stride}",
                f"the published schedule knows stride 1 alone; {ANY_GRAPH}",
            )
        elif 2 * layer.padding != layer.kernel - 1:
            raise UnsupportedOp(
                layer.name,
                f"a convolution with padding {layer.padding} and a kernel that spans {layer.kernel}",
                f"the published schedule knows padding (k - 1) / 2 alone; {ANY_GRAPH}",
            )


def _check_norms(read: Chain) -> None:
    """At each call: the mode of a module may change."""
    for name, module in read.body:
        if isinstance(module, nn.BatchNorm2d) and (module.training or module.running_mean is None):
            raise UnsupportedOp(
                name,
                "batch norm in training mode",
                f"it needs the whole image, which no window has; freeze it with .eval(), or {ANY_GRAPH}",
            )


def _bands(layers: Sequence[Layer], x: Tensor, n: int) -> tuple[list[Band], list[Band]]:
    if x.dim() != 4:
        raise ShapeError(f"the image has shape {tuple(x.shape)}: it must be [N, C, H, W]")
    try:
        return published(layers, x.shape[2], n), published(layers, x.shape[3], n)
    except ValueError as error:
        raise ShapeError(_not_divided(layers, tuple(x.shape[2:]), str(error))) from None


def _not_divided(layers: Sequence[Layer], shape: tuple[int, ...], reason: str) -> str:
    whole = [size for side in shape for size in sizes(layers, side)]
    common = gcd(*whole)
    allowed = " or ".join(str(n) for n in range(1, common + 1) if common % n == 0)
    way_out = f"take n = {allowed}" if min(whole) > 0 else "take a larger image"
    return f"an image of {' × '.join(map(str, shape))}: {reason}; {way_out}"


# ---- one pass over all tiles -----------------------------------------------------------------------------------------


def _parameters(read: Chain) -> Iterator[Tensor | None]:
    """Two for each convolution (weight, bias) and each frozen batch norm (scale, shift of y = scale · x + shift)."""
    for _, module in read.body:
        if isinstance(module, nn.Conv2d):
            yield from (module.weight, module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            scale = torch.rsqrt(module.running_var + module.eps)
            scale = scale if module.weight is None else scale * module.weight
            shift = -module.running_mean * scale
            yield from (scale, shift if module.bias is None else shift + module.bias)


class _Body(torch.autograd.Function):
    """All tiles of the body: nothing of a tile is kept from the forward to the backward pass."""

    @staticmethod
    def forward(ctx, body, rows, columns, x, *parameters):
        ctx.body, ctx.rows, ctx.columns = body, rows, columns
        ctx.dtype = _compute_dtype(x)
        ctx.save_for_backward(x, *parameters)
        cast = _cast(parameters, ctx.dtype)
        y = None
        for window in _windows(rows, columns):
            part = _run(body, window, _cut(x, window, 0).to(ctx.dtype), cast)
            if y is None:
                size = (rows[-1].own[-1][1], columns[-1].own[-1][1])
                shape = (*part.shape[:2], *size)
                y = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=_layout(part))
            _cut(y, window, -1).copy_(part)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, *parameters = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        gx = torch.zeros_like(x) if wanted[0] else None
        leaves = [
            None if p is None else p.detach().requires_grad_(w)
            for p, w in zip(_cast(parameters, ctx.dtype), wanted[1:], strict=True)
        ]
        # Sums over many tiles lose digits in half precision.
        sums = [
            torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) if w else None
            for p, w in zip(parameters, wanted[1:], strict=True)
        ]
        for window in _windows(ctx.rows, ctx.columns):
            tile = _cut(x, window, 0).detach().to(ctx.dtype).requires_grad_(wanted[0])
            with torch.enable_grad():
                part = _run(ctx.body, window, tile, leaves)
            sources = [leaf for leaf in (tile, *leaves) if leaf is not None and leaf.requires_grad]
            found = iter(torch.autograd.grad(part, sources, _cut(g, window, -1)))
            if gx is not None:
                _add_own(gx, next(found), window)
            for total in sums:
                if total is not None:
                    total += next(found)
        given = [None if s is None else s.to(p.dtype) for s, p in zip(sums, parameters, strict=True)]
        return None, None, None, gx, *given


def _compute_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast else x.dtype


def _cast(parameters: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    """Weights in the type that is computed in, once a pass."""
    return [None if p is None else p.detach().to(dtype) for p in parameters]


def _layout(part: Tensor) -> torch.memory_format:
    """A window's; contiguous where it is both."""
    last = part.is_contiguous(memory_format=torch.channels_last) and not part.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _windows(rows: Sequence[Band], columns: Sequence[Band]) -> Iterator[Window]:
    return ((row, column) for row in rows for column in columns)


def _cut(tensor: Tensor, window: Window, level: int) -> Tensor:
    """The view of a whole image (level 0) or output (level −1) that a window holds."""
    (top, bottom), (left, right) = (band.kept[level] for band in window)
    return tensor[:, :, top:bottom, left:right]


def _add_own(gx: Tensor, part: Tensor, window: Window) -> None:
    """Write D0's share of a window's gradient of the image."""
    (top, bottom), (left, right) = (_own(band, 0) for band in window)
    (above, _), (before, _) = (band.kept[0] for band in window)
    gx[:, :, above + top : above + bottom, before + left : before + right] = part[:, :, top:bottom, left:right]


def _own(band: Band, level: int) -> Range:
    """A band's own part of the image or of a layer's output, counted from the start of what the window holds of it."""
    start, stop = band.kept[level]
    lo, hi = band.own[level]
    return max(lo, start) - start, min(hi, stop) - start


# ---- one tile --------------------------------------------------------------------------------------------------------


def _run(body, window: Window, x: Tensor, parameters: Sequence[Tensor | None]) -> Tensor:
    """A window of the image through the body: what it holds of the last output."""
    left = iter(parameters)
    level = 0
    own = tuple(_own(band, 0) for band in window)
    for _, module in body:
        if isinstance(module, nn.Conv2d):
            level += 1
            own = tuple(_own(band, level) for band in window)
            x = _padded(x, window, level, module)
            x = _Convolution.apply(x, next(left), next(left), module.dilation, module.groups, own)
        elif isinstance(module, nn.BatchNorm2d):
            x = _Affine.apply(x, next(left), next(left), own)
        elif isinstance(module, ACTIVATIONS):
            # In place it would change the image, of which a window is a view, or a leaf of the graph.
            x = module(x.clone() if level == 0 and getattr(module, "inplace", False) else x)
        else:
            level += 1
            own = tuple(_own(band, level) for band in window)
            x = module(x)
    return x


def _padded(x: Tensor, window: Window, level: int, module: nn.Conv2d) -> Tensor:
    """Zeros where the convolution looks outside the image, which only windows at its border do."""
    pads = []
    for band, kernel, dilation in zip(reversed(window), module.kernel_size[::-1], module.dilation[::-1], strict=True):
        reach = dilation * (kernel - 1) // 2
        (low, high), (below, above) = band.kept[level], band.kept[level - 1]
        pads += [below - (low - reach), high + reach - above]
    return functional.pad(x, pads) if any(pads) else x


class _Convolution(torch.autograd.Function):
    """A convolution without padding whose parameters' gradients come from a part of its output alone."""

    @staticmethod
    def forward(ctx, x, weight, bias, dilation, groups, own):
        ctx.save_for_backward(x, weight)
        ctx.dilation, ctx.groups, ctx.own, ctx.biased = dilation, groups, own, bias is not None
        return functional.conv2d(x, weight, bias, dilation=dilation, groups=groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        data, *parameters = ctx.needs_input_grad[:3]
        gx = gw = gb = None
        if data:
            gx = _backward(ctx, g, x, weight, [True, False, False])[0]
        if any(parameters):
            (top, bottom), (left, right) = ctx.own
            high, wide = (d * (k - 1) for d, k in zip(ctx.dilation, weight.shape[2:], strict=True))
            seen = x[:, :, top : bottom + high, left : right + wide]
            _, gw, gb = _backward(ctx, g[:, :, top:bottom, left:right], seen, weight, [False, *parameters])
        return gx, gw, gb, None, None, None


def _backward(ctx, g: Tensor, x: Tensor, weight: Tensor, mask: list[bool]) -> tuple[Tensor | None, ...]:
    bias = [weight.shape[0]] if ctx.biased else None
    return torch.ops.aten.convolution_backward(
        g, x, weight, bias, [1, 1], [0, 0], ctx.dilation, False, [0, 0], ctx.groups, mask
    )


class _Affine(torch.autograd.Function):
    """y = scale · x + shift a channel, whose parameters' gradients come from a part of its output alone."""

    @staticmethod
    def forward(ctx, x, scale, shift, own):
        ctx.save_for_backward(x, scale)
        ctx.own = own
        return x * scale[:, None, None] + shift[:, None, None]

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        x, scale = ctx.saved_tensors
        (top, bottom), (left, right) = ctx.own
        part = g[:, :, top:bottom, left:right]
        gx = g * scale[:, None, None] if ctx.needs_input_grad[0] else None
        gscale = (part * x[:, :, top:bottom, left:right]).sum((0, 2, 3)) if ctx.needs_input_grad[1] else None
        gshift = part.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return gx, gscale, gshift, None
