"""From the name of any kernel of the sparse family, as its files are called, to the kernel."""

from __future__ import annotations

from kernels.sparse import paper, pointwise
from kernels.sparse.variant import Variant


def parse(name: str) -> Variant | pointwise.Variant | paper.Transform | paper.Conv | paper.Count:
    """The kernel of a name: what has `name`, `threads`, `parameters` and `source`. Raises ValueError if it is none."""
    if name.startswith("paper_"):
        return paper.parse(name)
    return pointwise.Variant.parse(name) if name.startswith("pointwise_") else Variant.parse(name)
