"""Figures: pure functions from frames (read from Parquet) to matplotlib figures, and `save`, which writes them.

No measured and no published number stands in this package; intervals are those stored in the records, never
bootstrapped while drawing (docs/methodology.md).
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from frugal.errors import FrugalError
from frugal.figures import published
from frugal.figures.files import save
from frugal.figures.frames import Frames, load

__all__ = ["BLOCKS_OF", "NAMES", "Frames", "draw", "figure", "load", "save"]

NAMES = (
    "cusnn_sparsity",
    "cusnn_layer_speedup",
    "cusnn_layer_time",
    "cusnn_break_even",
    "cusnn_end_to_end",
    "cusnn_energy",
    "cusnn_ladder",
    "cusnn_gain",
    "cusnn_error",
    "cusnn_prediction",
    "cusnn_roofline",
    "sft_time_vs_size",
    "sft_max_size",
    "sft_macs",
    "sft_pareto",
    "sft_prediction",
    "sft_exactness",
    "sft_tile_rate",
    "sft_streaming",
    "sft_trajectory",
    "sft_kernel",
    "dtr_pareto",
    "dtr_ablation",
    "dtr_dealloc",
    "dtr_accesses",
    "dtr_chain",
    "dtr_static",
    "dtr_prototype",
    "dtr_predicted_measured",
    "dtr_arms",
    "dtr_reach",
    "dtr_overhead",
    "dtr_fragmentation",
    "method_equal",
    "method_noise",
)
# Figures that need more than rows: of which system the medians of blocks are read.
BLOCKS_OF = {"method_noise": "method"}


def figure(name: str, frames: Frames) -> Figure:
    """The figure `name` (one of NAMES) of `frames`. Unknown name: FrugalError with the names there are."""
    if name.startswith("cusnn_"):
        return _cusnn(name, frames)
    if name.startswith("sft_"):
        return _sft(name, frames)
    if name.startswith("dtr_"):
        return _dtr(name, frames)
    if name.startswith("method_"):
        return _method(name, frames)
    raise _unknown(name)


# A system's drawing code is imported with its first figure: a job draws one, and what the others need takes a second.


def _cusnn(name: str, frames: Frames) -> Figure:
    from frugal.figures import cusnn

    measurements, comparisons, papers = frames.measurements, frames.comparisons, published.load("cusnn")
    match name:
        case "cusnn_sparsity":
            return cusnn.sparsity(measurements)
        case "cusnn_layer_speedup":
            return cusnn.layer_speedup(comparisons, measurements, papers)
        case "cusnn_layer_time":
            return cusnn.layer_time(measurements, papers)
        case "cusnn_break_even":
            return cusnn.break_even(measurements)
        case "cusnn_end_to_end":
            return cusnn.end_to_end(measurements, comparisons, papers)
        case "cusnn_energy":
            return cusnn.energy(measurements, papers)
        case "cusnn_ladder":
            return cusnn.ladder(measurements)
        case "cusnn_gain":
            return cusnn.gain(measurements)
        case "cusnn_error":
            return cusnn.error(measurements)
        case "cusnn_prediction":
            return cusnn.prediction(measurements, frames.runs)
        case "cusnn_roofline":
            return cusnn.roofline(measurements, frames.runs)
    raise _unknown(name)


def _sft(name: str, frames: Frames) -> Figure:
    from frugal.figures import sft

    measurements, papers = frames.measurements, published.load("sft")
    match name:
        case "sft_time_vs_size":
            return sft.time_vs_size(measurements, papers)
        case "sft_max_size":
            return sft.max_size(measurements, papers)
        case "sft_macs":
            return sft.macs(measurements)
        case "sft_pareto":
            return sft.pareto(measurements)
        case "sft_prediction":
            return sft.prediction(measurements)
        case "sft_exactness":
            return sft.exactness(measurements)
        case "sft_tile_rate":
            return sft.tile_rate(measurements)
        case "sft_streaming":
            return sft.streaming(measurements)
        case "sft_trajectory":
            return sft.trajectory(measurements)
        case "sft_kernel":
            return sft.kernel(measurements)
    raise _unknown(name)


def _dtr(name: str, frames: Frames) -> Figure:
    from frugal.figures import dtr

    measurements = frames.measurements
    match name:
        case "dtr_pareto":
            return dtr.pareto(measurements)
        case "dtr_ablation":
            return dtr.ablation(measurements)
        case "dtr_dealloc":
            return dtr.dealloc(measurements)
        case "dtr_accesses":
            return dtr.accesses(measurements)
        case "dtr_chain":
            return dtr.chain(measurements)
        case "dtr_static":
            return dtr.static(measurements)
        case "dtr_prototype":
            return dtr.prototype(measurements, published.load("dtr"))
        case "dtr_predicted_measured":
            return dtr.predicted_measured(measurements)
        case "dtr_arms":
            return dtr.arms(measurements)
        case "dtr_reach":
            return dtr.reach(measurements)
        case "dtr_overhead":
            return dtr.overhead(measurements)
        case "dtr_fragmentation":
            return dtr.fragmentation(measurements)
    raise _unknown(name)


def _method(name: str, frames: Frames) -> Figure:
    from frugal.figures import method

    match name:
        case "method_equal":
            return method.equal(frames.comparisons)
        case "method_noise":
            return method.noise(frames.measurements, frames.blocks)
    raise _unknown(name)


def _unknown(name: str) -> FrugalError:
    return FrugalError(f"figure {name!r} does not exist: it must be one of {', '.join(NAMES)}")


def draw(name: str, frames: Frames, prefix: str | Path) -> tuple[Path, ...]:
    """Draw the figure `name` and write `<prefix>.png`, `.svg` and `.pdf`; returns their paths."""
    return save(figure(name, frames), prefix)
