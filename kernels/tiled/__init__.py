"""Two convolution layers in one kernel, what lies between them never leaving the chip: generated CUDA kernels, their
choice and launch, and a CPU twin.

Importing this package loads neither torch nor numba; `kernels.tiled.cpu` loads both.
"""

from kernels.tiled.arguments import arguments, bind
from kernels.tiled.mma_variant import MmaVariant
from kernels.tiled.names import parse
from kernels.tiled.pack import pack
from kernels.tiled.planning import Plan, Step, check, cut, plan, worth
from kernels.tiled.shape import PairShape, UnsupportedPair
from kernels.tiled.variant import Variant

__all__ = [
    "MmaVariant",
    "PairShape",
    "Plan",
    "Step",
    "UnsupportedPair",
    "Variant",
    "arguments",
    "bind",
    "check",
    "cut",
    "pack",
    "parse",
    "plan",
    "worth",
]
