"""Figures of SFT: time and reach by the image's size, what tiles cost, what plans predict, how exact it is."""

from frugal.figures.sft.exactness import exactness
from frugal.figures.sft.kernel import kernel
from frugal.figures.sft.macs import macs
from frugal.figures.sft.max_size import max_size
from frugal.figures.sft.pareto import pareto
from frugal.figures.sft.prediction import prediction
from frugal.figures.sft.streaming import streaming
from frugal.figures.sft.tile_rate import tile_rate
from frugal.figures.sft.time_vs_size import time_vs_size
from frugal.figures.sft.trajectory import trajectory

__all__ = [
    "exactness",
    "kernel",
    "macs",
    "max_size",
    "pareto",
    "prediction",
    "streaming",
    "tile_rate",
    "time_vs_size",
    "trajectory",
]
