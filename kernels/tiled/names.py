"""From the name of any kernel of the tiled family, as its files are called, to the kernel."""

from __future__ import annotations

from kernels.tiled.mma_variant import MmaVariant
from kernels.tiled.variant import Variant


def parse(name: str) -> Variant | MmaVariant:
    """The kernel of a name. Raises ValueError if it is none."""
    return MmaVariant.parse(name) if name.startswith("v5_") else Variant.parse(name)
