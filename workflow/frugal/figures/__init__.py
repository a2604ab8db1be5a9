"""Figures: pure functions from frames (read from Parquet) to matplotlib figures, and `save`, which writes them.

No measured and no published number stands in this package; intervals are those stored in the records, never
bootstrapped while drawing (docs/methodology.md).
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from frugal.errors import FrugalError
from frugal.figures import cusnn, method, published
from frugal.figures.files import save
from frugal.figures.frames import Frames, load

__all__ = ["BLOCKS_OF", "NAMES", "Frames", "draw", "figure", "load", "save"]

NAMES = (
    "cusnn_sparsity",
    "cusnn_layer_speedup",
    "cusnn_layer_time",
    "cusnn_roofline",
    "method_equal",
    "method_noise",
)
# Figures that need more than rows: of which system the medians of blocks are read.
BLOCKS_OF = {"method_noise": "method"}


def figure(name: str, frames: Frames) -> Figure:
    """The figure `name` (one of NAMES) of `frames`. Unknown name: FrugalError with the names there are."""
    if name == "cusnn_sparsity":
        return cusnn.sparsity(frames.measurements)
    if name == "cusnn_layer_speedup":
        return cusnn.layer_speedup(frames.comparisons, frames.measurements, published.load("cusnn"))
    if name == "cusnn_layer_time":
        return cusnn.layer_time(frames.measurements, published.load("cusnn"))
    if name == "cusnn_roofline":
        return cusnn.roofline(frames.measurements, frames.runs)
    if name == "method_equal":
        return method.equal(frames.comparisons)
    if name == "method_noise":
        return method.noise(frames.measurements, frames.blocks)
    raise FrugalError(f"figure {name!r} does not exist: it must be one of {', '.join(NAMES)}")


def draw(name: str, frames: Frames, prefix: str | Path) -> tuple[Path, ...]:
    """Draw the figure `name` and write `<prefix>.png`, `.svg` and `.pdf`; returns their paths."""
    return save(figure(name, frames), prefix)
