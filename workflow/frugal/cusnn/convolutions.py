"""The convolutions of every network that cuSNN knows, as a table: what planning needs to know without building them.

`python -m frugal.cusnn.convolutions` writes convolutions.csv anew, from the networks themselves; a test compares. Only
that command imports torch.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import get_args

from frugal.config.models import Definition, Network
from frugal.files import publishing

NAME = "convolutions.csv"
SIDE = 224  # pixels: the height and width of the images for which the table stands
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
    def macs(self) -> int:
        """Multiply-accumulates for one image, padding counted as dense code does."""
        out = [(side + 2 * self.pad - self.k) // self.stride + 1 for side in (self.h, self.w)]
        return self.n * self.c * self.k**2 * out[0] * out[1]

    @property
    def values(self) -> int:
        """Elements of input and output for one image; the output of a layer with stride 1 and this padding."""
        return (self.c + self.n) * self.h * self.w


def convolutions(network: str, definition: str, size: int = SIDE) -> list[Convolution]:
    """A network's convolutions, in the order of its definition, for images of `size` × `size` pixels.

    A DenseNet is one graph in both definitions. For another size than 224 heights and widths are scaled and rounded up,
    which is exact for multiples of 32 and else off by a pixel in some layers.
    """
    named = "torchvision_v1.5" if network.startswith("densenet") else definition
    return [_scaled(conv, size) for conv in _table()[network, named]]


def measured(network: str, definition: str, selection: str, size: int = SIDE) -> list[Convolution]:
    """The 3×3 convolutions with stride 1, as experiment `layers` takes them: `all`, or one of each `distinct` shape."""
    chosen = [conv for conv in convolutions(network, definition, size) if (conv.k, conv.stride) == (3, 1)]
    return chosen if selection == "all" else list({(conv.c, conv.h, conv.w, conv.n): conv for conv in chosen}.values())


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
