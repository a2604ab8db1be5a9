"""Figures of DTR: overheads by budget, what heuristics look at, plans, measured steps, reach, the runtime itself."""

from frugal.figures.dtr.accesses import accesses
from frugal.figures.dtr.arms import arms
from frugal.figures.dtr.chain import chain
from frugal.figures.dtr.curves import ablation, dealloc, pareto
from frugal.figures.dtr.fragmentation import fragmentation
from frugal.figures.dtr.predicted import predicted_measured
from frugal.figures.dtr.prototype import prototype
from frugal.figures.dtr.reach import reach
from frugal.figures.dtr.runtime import overhead
from frugal.figures.dtr.static import static

__all__ = [
    "ablation",
    "accesses",
    "arms",
    "chain",
    "dealloc",
    "fragmentation",
    "overhead",
    "pareto",
    "predicted_measured",
    "prototype",
    "reach",
    "static",
]
