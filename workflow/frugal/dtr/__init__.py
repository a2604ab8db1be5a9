"""DTR: a byte budget for training, kept by evicting tensors and computing them again (Kirisame et al., ICLR 2021).

The simulator: `read_log`, `chain`, `adversary`, `simulate`, `sweep`, `minimum_budget`. The runtime: `Budget`,
`budgeted_step`, `capture_log`. Planners that know the graph beforehand: `static_plan`, `static_graph`, `layer_graph`.
What is imported from here is loaded on first use; torch is not loaded before.
"""

from importlib import import_module

# name -> the module that has it
_PLACES = {
    "Baseline": "frugal.dtr.sim",
    "Budget": "frugal.dtr.budget",
    "BudgetError": "frugal.dtr.errors",
    "CostTable": "frugal.dtr.costs",
    "DtrError": "frugal.dtr.errors",
    "HEURISTICS": "frugal.dtr.heuristics",
    "Heuristic": "frugal.dtr.heuristics",
    "Instruction": "frugal.dtr.logs",
    "Log": "frugal.dtr.logs",
    "LogError": "frugal.dtr.errors",
    "MinBudget": "frugal.dtr.minbudget",
    "ReplayError": "frugal.dtr.errors",
    "Report": "frugal.dtr.report",
    "Roofline": "frugal.dtr.costs",
    "SimResult": "frugal.dtr.sim",
    "StaticGraph": "frugal.dtr.static",
    "StaticPlan": "frugal.dtr.static",
    "StepResult": "frugal.dtr.budget",
    "ThrashError": "frugal.dtr.errors",
    "Unsupported": "frugal.dtr.errors",
    "adversary": "frugal.dtr.adversaries",
    "budgeted_step": "frugal.dtr.budget",
    "capture_log": "frugal.dtr.capture",
    "chain": "frugal.dtr.logs",
    "layer_graph": "frugal.dtr.static",
    "minimum_budget": "frugal.dtr.minbudget",
    "read_log": "frugal.dtr.logs",
    "simulate": "frugal.dtr.sim",
    "static_graph": "frugal.dtr.static",
    "static_plan": "frugal.dtr.static",
    "sweep": "frugal.dtr.grid",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
