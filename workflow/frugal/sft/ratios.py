"""Multiply-adds of a chain that is run in n × n tiles, in closed form: how much more than untiled, for two schedules.

A schedule splits each axis by itself into n bands. Band i computes w_i positions of a convolution's output on that
axis, neighbouring bands overlap, and with S the output's size the forward pass costs

    E = Σ macs · (Σ_i w_i) · (Σ_j w_j) ÷ Σ macs · S_h · S_w        (macs: c_in · c_out · k² of one position)

* ``single_halo``: disjoint tiles of the output; a band computes of each layer what its tile needs, none of it outside
  the image. Forward pass, recomputation and the gradients of data and of weights all cost E: 4·E ÷ 3 of an untiled
  step, which has no recomputation.
* ``published``: SFT's own (CC 2022, public artifact HPCRL/SFT-CC2022-AE): disjoint tiles D0 of the input. A band
  computes all that D0 can influence, and all that this depends on: a doubled halo, positions outside the image
  included. The weights' gradients are taken on disjoint tiles: (3·E + 1) ÷ 3 of an untiled step.

Ranges are half-open. Plain integers: nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Range = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """A convolution or a pooling of a chain, the same on both axes.

    `macs`: multiply-adds of one output position, over all channels; 0 for a pooling.
    """

    name: str
    kernel: int
    stride: int
    padding: int
    macs: int = 0

    @property
    def pools(self) -> bool:
        return self.macs == 0


@dataclass(frozen=True)
class Band:
    """What the published schedule does on one axis for one of its n bands; index 0 is the image, l the l-th layer.

    `own`: the disjoint band of each layer's output, [i·S/n, (i+1)·S/n). `kept`: the part of each output that the window
    holds, within the image; that of the last layer is everything `own[0]` can influence. `computed`: the same with the
    positions outside the image that the published program computes too.
    """

    own: tuple[Range, ...]
    kept: tuple[Range, ...]
    computed: tuple[Range, ...]


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one step: exact integers for one image."""

    forward: int
    recompute: int
    dgrad: int
    wgrad: int

    @property
    def total(self) -> int:
        return self.forward + self.recompute + self.dgrad + self.wgrad


def sizes(layers: Sequence[Layer], size: int) -> list[int]:
    """The image's size on an axis and each layer's output's: floor((S + 2p − k) ÷ s) + 1; it may come to 0 or below."""
    found = [size]
    for layer in layers:
        found.append((found[-1] + 2 * layer.padding - layer.kernel) // layer.stride + 1)
    return found


def single_halo(layers: Sequence[Layer], size: int, n: int) -> list[list[Range]]:
    """For each of n bands of the last output, what is needed of the image and of each layer's output, within it.

    ValueError unless 1 <= n <= the last output's size.
    """
    whole = sizes(layers, size)
    _check_bands(n, whole[-1])
    bands = []
    for i in range(n):
        lo, hi = whole[-1] * i // n, whole[-1] * (i + 1) // n
        found = [(lo, hi)]
        for layer, below in zip(reversed(layers), reversed(whole[:-1]), strict=True):
            lo = max(0, lo * layer.stride - layer.padding)
            hi = min(below, (hi - 1) * layer.stride - layer.padding + layer.kernel)
            found.append((lo, hi))
        bands.append(found[::-1])
    return bands


def published(layers: Sequence[Layer], size: int, n: int) -> list[Band]:
    """The published schedule's n bands of an axis.

    The layers are convolutions of stride 1 with padding (k − 1) ÷ 2 and poolings of 2, stride 2. ValueError unless n
    divides the image's and every layer's size.
    """
    whole = sizes(layers, size)
    for name, each in zip(("the image", *(layer.name for layer in layers)), whole, strict=True):
        if n < 1 or each < n or each % n:
            raise ValueError(f"{n} tiles do not divide {name}, which has {each} positions on that axis")
    return [_band(layers, whole, n, i) for i in range(n)]


def _band(layers: Sequence[Layer], whole: Sequence[int], n: int, i: int) -> Band:
    own = tuple((i * size // n, (i + 1) * size // n) for size in whole)
    lo, hi = own[0]
    for layer, size in zip(layers, whole[1:], strict=True):
        if layer.pools:
            lo, hi = lo // 2, min(size, (hi - 1) // 2 + 1)
        else:
            lo, hi = max(0, lo - layer.padding), min(size, hi + layer.padding)
    kept, computed = [(lo, hi)], [(lo, hi)]
    for layer, below in zip(reversed(layers), reversed(whole[:-1]), strict=True):
        if layer.pools:
            lo, hi = kept[-1]
            lo, hi = 2 * lo, min(below, 2 * hi)
        else:
            lo, hi = computed[-1]
            lo, hi = lo - layer.padding, hi + layer.padding
        computed.append((lo, hi))
        kept.append((max(0, lo), min(below, hi)))
    return Band(own, tuple(kept[::-1]), tuple(computed[::-1]))


def macs_untiled(layers: Sequence[Layer], height: int, width: int) -> Macs:
    """Of an untiled step; the gradient of the image counts as if it were wanted."""
    one = _forward(layers, [(size,) for size in sizes(layers, height)], [(size,) for size in sizes(layers, width)])
    return Macs(one, 0, one, one)


def macs_single_halo(layers: Sequence[Layer], height: int, width: int, n: int) -> Macs:
    """Of a step in n × n tiles with a single halo; ValueError as `single_halo`."""
    one = _forward(layers, *(_lengths(single_halo(layers, size, n)) for size in (height, width)))
    return Macs(one, one, one, one)


def macs_published(layers: Sequence[Layer], height: int, width: int, n: int) -> Macs:
    """Of a step of the published schedule; ValueError as `published`."""
    one = _forward(
        layers, *(_lengths([band.computed for band in published(layers, size, n)]) for size in (height, width))
    )
    return Macs(one, one, one, macs_untiled(layers, height, width).wgrad)


def _lengths(bands: Sequence[Sequence[Range]]) -> list[tuple[int, ...]]:
    """For the image and each layer, the lengths of its ranges in all bands."""
    return [tuple(hi - lo for lo, hi in ranges) for ranges in zip(*bands, strict=True)]


def _forward(layers: Sequence[Layer], rows: Sequence[Sequence[int]], columns: Sequence[Sequence[int]]) -> int:
    return sum(layer.macs * sum(h) * sum(w) for layer, h, w in zip(layers, rows[1:], columns[1:], strict=True))


def _check_bands(n: int, size: int) -> None:
    if not 1 <= n <= size:
        raise ValueError(f"{n} tiles of an output with {size} positions on that axis: take from 1 to {size}")
