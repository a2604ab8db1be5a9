"""The convolutions of every network that cuSNN knows, as a table: what planning needs to know without building them.

`python -m frugal.cusnn.convolutions` writes convolutions.csv anew, from the networks themselves; a test compares. Only
that command imports torch.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import get_args

from frugal.config.models import Definition, Network
from frugal.cusnn.shapes import SMOKE
from frugal.files import publishing
from kernels.sparse.shape import ConvShape

NAME = "convolutions.csv"
SIDE = 224  # pixels: the height and width of the images for which the table stands
Shape = tuple[int, int, int, int, int, int]  # c, h, w, n, k, stride
HEAD = ("network", "definition", "layer", "c", "h", "w", "n", "k", "stride", "pad")


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """One convolution's input [c, h, w], filters [n, c, k, k], stride and padding."""

    layer: str
    c: int
    h: int
    w: int
    n: int
    k: int
    stride: int
    pad: int

    @property
    def shape(self) -> Shape:
        """What convolutions of one shape have in common; the padding is k // 2 in all of these networks."""
        return self.c, self.h, self.w, self.n, self.k, self.stride

    def of_batch(self, batch: int) -> ConvShape:
        """Its sizes for so many images."""
        return ConvShape(batch, self.c, self.h, self.w, self.n, k=self.k, stride=self.stride, pad=self.pad)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image, padding counted as dense code does."""
        return self.of_batch(1).macs

    @property
    def values(self) -> int:
        """Elements of input and output for one image."""
        shape = self.of_batch(1)
        return self.c * self.h * self.w + self.n * shape.H_out * shape.W_out


def convolutions(network: str, definition: str, size: int = SIDE) -> list[Convolution]:
    """A network's convolutions, in the order of its definition, for images of `size` × `size` pixels.

    A DenseNet is one graph in both definitions. For another size than 224 heights and widths are scaled and rounded up,
    which is exact for multiples of 32 and else off by a pixel in some layers.
    """
    named = "torchvision_v1.5" if network.startswith("densenet") else definition
    return [_scaled(conv, size) for conv in _table()[network, named]]


def measured(
    network: str,
    definition: str,
    selection: str = "distinct",
    kernel_sizes: Collection[int] = (3, 1),
    preset: str = "quick",
    size: int = SIDE,
) -> list[Convolution]:
    """The convolutions that experiment `layers` takes (`groups`), of each group its first."""
    named = {conv.layer: conv for conv in convolutions(network, definition, size)}
    shapes = {name: conv.shape for name, conv in named.items()}
    return [named[group[0]] for group in groups(shapes, selection, kernel_sizes, preset, size)]


def groups(
    shapes: Mapping[str, Shape], selection: str, kernel_sizes: Collection[int], preset: str, side: int
) -> list[list[str]]:
    """Which of a network's convolutions (name → shape) experiment `layers` measures; those in a list are one case.

    kernel_sizes: the filters that are wanted, with stride 1 or 2. selection `all`: each by itself; `distinct`: by
    shape, and in preset `smoke` of these only frugal.cusnn.shapes.SMOKE, or the first where the network has none. side:
    height of the images.
    """
    wanted = {name: shape for name, shape in shapes.items() if shape[4] in kernel_sizes and shape[5] in (1, 2)}
    if selection == "all":
        return [[name] for name in wanted]
    found: dict[Shape, list[str]] = {}
    for name, shape in wanted.items():
        found.setdefault(shape, []).append(name)
    if preset != "smoke":
        return list(found.values())
    few = {(c, -(-h * side // SIDE), n, k, 1) for c, h, n, k in SMOKE}
    return [names for (c, h, _, n, k, s), names in found.items() if (c, h, n, k, s) in few] or list(found.values())[:1]


def _scaled(conv: Convolution, size: int) -> Convolution:
    if size == SIDE:
        return conv
    return Convolution(**asdict(conv) | {"h": -(-conv.h * size // SIDE), "w": -(-conv.w * size // SIDE)})


@functools.cache
def _table() -> dict[tuple[str, str], list[Convolution]]:
    found: dict[tuple[str, str], list[Convolution]] = {}
    with resources.files("frugal.cusnn").joinpath(NAME).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = (row.pop("network"), row.pop("definition"))
            found.setdefault(key, []).append(
                Convolution(layer=row.pop("layer"), **{name: int(text) for name, text in row.items()})
            )
    return found


def rows() -> list[tuple]:
    """The table's rows, read off the networks (built without memory for their weights)."""
    import torch

    from frugal.cusnn.sparsity import conv_layers
    from frugal.models import build

    found = []
    for network in get_args(Network):
        for definition in get_args(Definition):
            if network.startswith("densenet") and definition != "torchvision_v1.5":
                continue
            with torch.device("meta"):
                layers = conv_layers(build(network, definition), (1, 3, SIDE, SIDE))
            found += [(network, definition, x.name, x.C, x.H, x.W, x.N, x.k, x.stride, x.pad) for x in layers]
    return found


def write(path: Path) -> None:
    """Write the table, beside and renamed."""
    lines = [",".join(map(str, row)) for row in (HEAD, *rows())]
    with publishing(path) as file:
        file.write("\n".join([*lines, ""]).encode())


if __name__ == "__main__":
    write(Path(__file__).with_name(NAME))
