"""The options of a Budget, checked once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frugal.dtr.errors import ThrashError

if TYPE_CHECKING:
    from frugal.dtr.replay import Replay


@dataclass
class Settings:
    """eager: a storage is freed when its last wrapper dies. wall: staleness by the machine's clock, whose zero is
    `zero`. device_scope: other memory of the GPU counts too. thrash, on_thrash, reserve_bytes, debug: as in `Budget`.
    known_bytes: a budget that is known to work; None before one is.
    """

    eager: bool = True
    wall: bool = False
    zero: int = 0
    device_scope: bool = False
    thrash: float = 2.0
    on_thrash: str = "raise"
    reserve_bytes: int | None = None
    debug: bool = False
    known_bytes: int | None = None

    def thrashing(self, runtime: Replay, error: ThrashError) -> None:
        """What `on_thrash` says: raise, warn, or grow the budget; the step's counts begin anew after the latter two."""
        if self.on_thrash == "raise":
            raise error
        runtime.tallies.begin_step()
        if self.on_thrash == "grow" and runtime.budget is not None:
            runtime.budget = max(runtime.budget + runtime.budget // 4, error.smallest_bytes or 0)
            runtime.given = runtime.budget
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
