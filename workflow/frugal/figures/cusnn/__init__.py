"""Figures of cuSNN: where the zeros are, what skipping them is worth, and how far from the machine's limits it runs."""

from frugal.figures.cusnn.layer_speedup import layer_speedup
from frugal.figures.cusnn.layer_time import layer_time
from frugal.figures.cusnn.roofline import roofline
from frugal.figures.cusnn.sparsity import sparsity

__all__ = ["layer_speedup", "layer_time", "roofline", "sparsity"]
