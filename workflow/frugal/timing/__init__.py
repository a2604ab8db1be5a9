"""How frugal measures time: named regimes, palindromes of arms, and verification before and after.

A system describes what it computes as `Case`s and `Arm`s; `run_session` does the rest and writes one job file.
The design and the description of cases need no torch, so that the workflow can import them while it plans; what does
need it is imported on first use.
"""

from importlib import import_module

from frugal.timing.arms import Arm, Case, Inputs, Prepared, Reference, Unsupported
from frugal.timing.design import Design, DesignError, derive_seed, palindromes
from frugal.timing.monitor import Monitor
from frugal.timing.result import CaseResult

_NEEDS_TORCH = {
    "CpuDevice": "devices",
    "CudaDevice": "devices",
    "Device": "devices",
    "device_of": "devices",
    "measure_case": "case",
    "run_session": "session",
    "Check": "verify",
    "Verifier": "verify",
    "Report": "bench",
    "benchmark": "bench",
}

__all__ = [
    "Arm",
    "Case",
    "CaseResult",
    "Check",
    "CpuDevice",
    "CudaDevice",
    "Design",
    "DesignError",
    "Device",
    "Inputs",
    "Monitor",
    "Prepared",
    "Reference",
    "Report",
    "Unsupported",
    "Verifier",
    "benchmark",
    "derive_seed",
    "device_of",
    "measure_case",
    "palindromes",
    "run_session",
]


def __getattr__(name: str) -> object:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)
