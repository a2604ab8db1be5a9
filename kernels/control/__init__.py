"""A kernel whose time is known in advance: the loop of multiply-adds that the planted control times twice.

The loop is as long as a launch says, so two launches of one kernel differ in nothing but their work, and a method that
measures rightly must find that difference (docs/methodology.md, "Controls"). Importing this package loads neither torch
nor numba; `kernels.control.cpu` loads both.
"""

from kernels.control.arguments import ADDEND, FACTOR, arguments, grid
from kernels.control.variant import Variant, variants

__all__ = ["ADDEND", "FACTOR", "Variant", "arguments", "grid", "parse", "variants"]

parse = Variant.parse
