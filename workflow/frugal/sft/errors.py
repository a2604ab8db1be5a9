"""What SFT refuses: each sentence names the thing, its value, what is allowed and a way out."""

from __future__ import annotations

from frugal.errors import FrugalError


class SftError(FrugalError, ValueError):
    """Any refusal of `frugal.sft`."""


class BudgetError(SftError):
    """A budget that no schedule fits. `smallest_bytes`: the smallest one that works; `binds`: what needs it."""

    def __init__(self, message: str, *, smallest_bytes: int, binds: str) -> None:
        super().__init__(message)
        self.smallest_bytes = smallest_bytes
        self.binds = binds


class UnsupportedOp(SftError):
    """An operation that cannot run in tiles. `node`: its name in the graph."""

    def __init__(self, node: str, operation: str, advice: str) -> None:
        super().__init__(f"{node}: {operation} cannot run in tiles: {advice}")
        self.node = node


class ShapeError(SftError):
    """An image whose size or channels do not fit the network, or the plan."""


class PlanError(SftError):
    """A schedule that the network does not have, or that contradicts itself."""
