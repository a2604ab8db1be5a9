"""DTR: a byte budget for training, kept by evicting tensors and computing them again (Kirisame et al., ICLR 2021).

The simulator: `read_log`, `chain`, `simulate`, `sweep`, `minimum_budget`. What is imported from here is loaded on
first use; torch is not loaded before.
"""

from importlib import import_module

# name -> the module that has it
_PLACES = {
    "BudgetError": "frugal.dtr.errors",
    "DtrError": "frugal.dtr.errors",
    "Instruction": "frugal.dtr.logs",
    "Log": "frugal.dtr.logs",
    "LogError": "frugal.dtr.errors",
    "ReplayError": "frugal.dtr.errors",
    "ThrashError": "frugal.dtr.errors",
    "Unsupported": "frugal.dtr.errors",
    "chain": "frugal.dtr.logs",
    "read_log": "frugal.dtr.logs",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
