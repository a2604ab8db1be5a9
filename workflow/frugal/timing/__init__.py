"""How frugal measures time: named regimes, palindromes of arms, and verification before and after.

A system describes what it computes as `Case`s and `Arm`s; `run_session` does the rest and writes one job file.
"""

from frugal.timing.arms import Arm, Case, Inputs, Prepared, Reference, Unsupported
from frugal.timing.design import Design, DesignError, derive_seed, palindromes

__all__ = [
    "Arm",
    "Case",
    "Design",
    "DesignError",
    "Inputs",
    "Prepared",
    "Reference",
    "Unsupported",
    "derive_seed",
    "palindromes",
]
