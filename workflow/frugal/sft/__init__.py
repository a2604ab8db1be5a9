"""SFT: training on images whose activations do not fit, through segments, tiles and strips (CC 2022), exactly.

A network is cut into segments at maps that are kept; within a segment, tiles or strips of the image run through all
layers, forward and backward, so that memory no longer grows with the activations. What is imported from here is loaded
on first use; torch is not loaded before.
"""

from importlib import import_module

# name -> the module that has it
_PLACES = {
    "BudgetError": "frugal.sft.errors",
    "Graph": "frugal.sft.graph",
    "HostImage": "frugal.sft.host",
    "Plan": "frugal.sft.plans",
    "PlanError": "frugal.sft.errors",
    "Segment": "frugal.sft.plans",
    "SegmentedSequential": "frugal.sft.segments",
    "SftError": "frugal.sft.errors",
    "ShapeError": "frugal.sft.errors",
    "UnsupportedOp": "frugal.sft.errors",
    "compare": "frugal.sft.checks",
    "plan": "frugal.sft.planner",
    "saved_bytes": "frugal.sft.checks",
    "trace": "frugal.sft.graph",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
