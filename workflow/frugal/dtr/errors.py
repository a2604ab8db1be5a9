"""What DTR refuses: each sentence names the thing, its value, what is allowed and a way out."""

from __future__ import annotations

from frugal.errors import FrugalError


class DtrError(FrugalError, RuntimeError):
    """Any refusal of `frugal.dtr` that is not a wrong argument (those are ValueError)."""


class BudgetError(DtrError):
    """An operator that the budget has no room for, raised before it runs.

    op: its name. required_bytes: what it allocates. short_bytes: what is missing after everything that may be evicted.
    smallest_bytes: a budget that is known to work; None where none is known.
    """

    def __init__(
        self, message: str, *, op: str, required_bytes: int, short_bytes: int, smallest_bytes: int | None = None
    ) -> None:
        super().__init__(message)
        self.op = op
        self.required_bytes = required_bytes
        self.short_bytes = short_bytes
        self.smallest_bytes = smallest_bytes


class ThrashError(DtrError):
    """A step that recomputes more than its limit. smallest_bytes: a budget that holds it; None where none is known."""

    def __init__(self, message: str, *, smallest_bytes: int | None = None) -> None:
        super().__init__(message)
        self.smallest_bytes = smallest_bytes


class ReplayError(DtrError):
    """An operator that gave another result when it ran again. op: its name."""

    def __init__(self, message: str, *, op: str) -> None:
        super().__init__(message)
        self.op = op


class LogError(DtrError):
    """A log that cannot be read. where: the line of a published log, or the row of one of ours; None for the file."""

    def __init__(self, message: str, *, where: int | None = None) -> None:
        super().__init__(message)
        self.where = where


class Unsupported(DtrError):
    """Something that cannot run under a budget. op: its name."""

    def __init__(self, message: str, *, op: str) -> None:
        super().__init__(message)
        self.op = op
