"""Normalisation by what a whole image holds, and means over it, exactly: batch norm in training mode, group norm,
instance norm, squeeze-and-excite.

The map y that is normalised is kept, and its statistics are a value of their own between two segments: the mean μ and
r = (σ² + ε)^−½ of each channel, over N, H and W for batch norm, over a group's channels, H and W else. The segment
behind it begins with (y − μ)·r·γ + β and gives gradients of μ and of r beside that of y; through the statistics y gets

    gμ/M − r³·(y − μ)·gr/M        (M values in one mean)

in addition (batch norm's backward pass, S. Ioffe and C. Szegedy, ICML 2015, section 3, in other variables). Both passes
go through y in bands of rows. A band's mean and sum of squared distances are merged two by two in a fixed order with
the formula of T. Chan, G. Golub and R. LeVeque (COMPSTAT 1982, eq. 2.1), in float32 at least: never E[y²] − E[y]².
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from frugal.sft.errors import ShapeError

if TYPE_CHECKING:
    from frugal.sft.sums import Shared  # which imports windows, and they this

BAND_ELEMENTS = 2**22  # of one band: 16 MiB in float32, of which a few copies live for a moment
MOST_BANDS = 32  # of a large map: a few copies of a band are then a tenth of the map, and launches are few
Norm = nn.BatchNorm2d | nn.InstanceNorm2d | nn.GroupNorm


def statistics(name: str, module: Norm, y: Tensor, shared: Shared | None = None) -> Tensor:
    """μ and r of a map [N, C, H, W] as [2, 1, C] (batch norm) or [2, N, C], in float32 (float64 of float64).

    Batch norm in training mode changes its running statistics, as torch does: momentum None is the mean of all steps.
    shared: where the map's readers add up its gradient. Raises ShapeError for a mean over one value, as torch does.
    """
    values = _count(module, y)
    if values < 2:
        raise ShapeError(
            f"{name}: {type(module).__name__} takes the variance of {values} value a channel of {tuple(y.shape)}: give "
            "a larger image or batch"
        )
    return _Statistics.apply(module, shared, y)


def normalise(x: Tensor, found: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """(x − μ)·r·γ + β of a window [N, C, h, w], in x's type, computed in that of the statistics [2, N or 1, C].

    It keeps x alone for the backward pass. Differentiable once: by x, the statistics, γ and β.
    """
    return _Normalised.apply(x, found, weight, bias)


def spatial_mean(y: Tensor, keepdim: bool, shared: Shared | None = None) -> Tensor:
    """The mean over the positions of a map [N, C, H, W]: [N, C], or [N, C, 1, 1] with keepdim.

    Its gradient is an expanded view, which has no bytes of its own. shared: as in `statistics`.
    """
    return _SpatialMean.apply(y, keepdim, shared)


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, module: Norm, shared: Shared | None, y: Tensor) -> Tensor:
        values = _count(module, y)
        mean, squares = _merged(module, y)
        variance = squares / values
        if isinstance(module, nn.BatchNorm2d) and module.training and module.track_running_stats:
            _track(module, mean[0], squares[0] / (values - 1))
        scale = torch.rsqrt(variance + module.eps)
        ctx.module, ctx.shared = module, shared
        ctx.save_for_backward(y, mean, scale)
        return torch.stack([_by_channel(module, each) for each in (mean, scale)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[None, None, Tensor | None]:
        y, mean, scale = ctx.saved_tensors
        module, values = ctx.module, _count(ctx.module, y)
        of_mean, of_scale = (_by_group(module, each) for each in g)
        # By channel: what is added to y's gradient everywhere, and what is multiplied by y − μ.
        added = _by_channel(module, of_mean / values)[:, :, None, None]
        factor = _by_channel(module, scale**3 * of_scale / values)[:, :, None, None]
        centre = _by_channel(module, mean)[:, :, None, None]
        before = ctx.shared.before() if ctx.shared else None
        total = torch.empty_like(y) if before is None else before
        for rows in _bands(y):
            band = added - (y[:, :, rows].to(added.dtype) - centre) * factor
            if before is None:
                total[:, :, rows].copy_(band)
            else:
                total[:, :, rows].add_(band)
        return None, None, ctx.shared.after(total) if ctx.shared else total


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, found: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, found, weight)
        mean, scale = found[:, :, :, None, None]
        y = (x.to(found.dtype) - mean).mul_(scale if weight is None else scale * weight[:, None, None])
        return (y if bias is None else y.add_(bias[:, None, None])).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, found, weight = ctx.saved_tensors
        mean, scale = found[:, :, :, None, None]
        wide = g.to(found.dtype)
        gamma = 1.0 if weight is None else weight[:, None, None]
        own = (0, 2, 3) if found.shape[1] == 1 else (2, 3)
        slope = scale * gamma  # of the result by x
        needs = ctx.needs_input_grad
        gx = (wide * slope).to(x.dtype) if needs[0] else None
        centred = (x.to(found.dtype) - mean).mul_(wide) if needs[1] or needs[2] else None
        gf = None
        if needs[1]:
            of_mean = (-wide.sum(own, keepdim=True) * slope).flatten(1)
            of_scale = (centred.sum(own, keepdim=True) * gamma).flatten(1)
            gf = torch.stack([of_mean, of_scale])
        gw = (centred.sum((2, 3)) * scale.flatten(1)).sum(0).to(weight.dtype) if needs[2] else None
        return gx, gf, gw, wide.sum((0, 2, 3)) if needs[3] else None


class _SpatialMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, keepdim: bool, shared: Shared | None) -> Tensor:
        ctx.shared, ctx.shape, ctx.keepdim = shared, y.shape, keepdim
        return y.mean((2, 3), keepdim=keepdim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None]:
        each = (g if ctx.keepdim else g[:, :, None, None]) / (ctx.shape[2] * ctx.shape[3])
        grad = each.expand(ctx.shape)
        if ctx.shared is None:
            return grad, None, None
        before = ctx.shared.before()
        return ctx.shared.after(grad.contiguous() if before is None else before.add_(each)), None, None


def _bands(y: Tensor) -> Iterator[slice]:
    """Rows of a map, so many at a time that a band has about BAND_ELEMENTS, or there are MOST_BANDS."""
    row = y.shape[0] * y.shape[1] * y.shape[3]
    rows = max(1, BAND_ELEMENTS // row, -(-y.shape[2] // MOST_BANDS))
    return (slice(first, first + rows) for first in range(0, y.shape[2], rows))


def _grouped(module: Norm, band: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """A band, and the dimensions over which one mean goes."""
    if isinstance(module, nn.BatchNorm2d):
        return band, (0, 2, 3)
    if isinstance(module, nn.GroupNorm):
        return band.unflatten(1, (module.num_groups, -1)), (2, 3, 4)
    return band, (2, 3)


def _count(module: Norm, y: Tensor) -> int:
    """How many values one mean is of."""
    n, channels, height, width = y.shape
    if isinstance(module, nn.BatchNorm2d):
        return n * height * width
    return height * width * (channels // module.num_groups if isinstance(module, nn.GroupNorm) else 1)


def _merged(module: Norm, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared distances from it, [1, C], [N, groups] or [N, C], of all bands."""
    dtype = torch.promote_types(y.dtype, torch.float32)
    stack: list[tuple[int, int, Tensor, Tensor]] = []  # bands merged, values, mean, squares: ever fewer bands
    for rows in _bands(y):
        band, over = _grouped(module, y[:, :, rows].to(dtype))
        variance, mean = torch.var_mean(band, over, correction=0)
        values = _count(module, y[:, :, rows])
        stack.append((1, values, mean, variance * values))
        while len(stack) > 1 and stack[-2][0] <= stack[-1][0]:
            stack[-2:] = [_both(*stack[-2:])]
    while len(stack) > 1:
        stack[-2:] = [_both(*stack[-2:])]
    _, _, mean, squares = stack[0]
    return (mean[None], squares[None]) if isinstance(module, nn.BatchNorm2d) else (mean, squares)


def _both(a: tuple, b: tuple) -> tuple[int, int, Tensor, Tensor]:
    """Two sets of values as one (Chan, Golub and LeVeque, eq. 2.1)."""
    n = a[1] + b[1]
    apart = b[2] - a[2]
    return a[0] + b[0], n, a[2] + apart * (b[1] / n), a[3] + b[3] + apart**2 * (a[1] * b[1] / n)


def _track(module: nn.BatchNorm2d, mean: Tensor, unbiased: Tensor) -> None:
    """Move the running statistics, without waiting for the device to say how many steps there were."""
    if module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
    for running, found in ((module.running_mean, mean), (module.running_var, unbiased)):
        part = 1.0 / module.num_batches_tracked.to(running.dtype) if module.momentum is None else module.momentum
        running.lerp_(found.to(running.dtype), part)


def _by_channel(module: Norm, value: Tensor) -> Tensor:
    """From a value a group to one a channel, [N, C]; others are."""
    if not isinstance(module, nn.GroupNorm):
        return value
    return value.repeat_interleave(module.num_channels // module.num_groups, 1)


def _by_group(module: Norm, value: Tensor) -> Tensor:
    """The sums over a group's channels."""
    return value.unflatten(1, (module.num_groups, -1)).sum(2) if isinstance(module, nn.GroupNorm) else value
