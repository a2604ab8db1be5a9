"""Figures of cuSNN: where the zeros are, what skipping them is worth, and how far from the machine's limits it runs."""

from frugal.figures.cusnn.break_even import break_even
from frugal.figures.cusnn.end_to_end import end_to_end
from frugal.figures.cusnn.energy import energy
from frugal.figures.cusnn.error import error
from frugal.figures.cusnn.gain import gain
from frugal.figures.cusnn.ladder import ladder
from frugal.figures.cusnn.layer_speedup import layer_speedup
from frugal.figures.cusnn.layer_time import layer_time
from frugal.figures.cusnn.prediction import prediction
from frugal.figures.cusnn.roofline import roofline
from frugal.figures.cusnn.sparsity import sparsity

__all__ = [
    "break_even",
    "end_to_end",
    "energy",
    "error",
    "gain",
    "ladder",
    "layer_speedup",
    "layer_time",
    "prediction",
    "roofline",
    "sparsity",
]
