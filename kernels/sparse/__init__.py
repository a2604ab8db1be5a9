"""Exact float32 convolution that skips zeros: generated CUDA kernels, their choice and launch, and a CPU twin.

Importing this package loads neither torch nor numba; `kernels.sparse.cpu` loads both.
"""

from kernels.sparse.arguments import Workspace, arguments, weights_are_ready
from kernels.sparse.fused import Fused
from kernels.sparse.names import parse
from kernels.sparse.pack import pack_weights
from kernels.sparse.planning import Plan, plan
from kernels.sparse.shape import ConvShape, UnsupportedShape
from kernels.sparse.variant import Variant, variants

__all__ = [
    "ConvShape",
    "Fused",
    "Plan",
    "UnsupportedShape",
    "Variant",
    "Workspace",
    "arguments",
    "pack_weights",
    "parse",
    "plan",
    "variants",
    "weights_are_ready",
]
