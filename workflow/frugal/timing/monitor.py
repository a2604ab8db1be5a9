"""Who watches a session from outside: it is told before each step of an arm how long the step may take.

A hung kernel cannot be interrupted from within its process. `frugal.jobs` watches from another one and ends this one.
"""

from __future__ import annotations

from typing import Protocol


class Monitor(Protocol):
    """What `run_session` and `measure_case` tell, between timed bodies only."""

    def begin(self, case_id: str, arm: str, step: str, limit_s: float) -> None:
        """An arm's step begins, and may take `limit_s` seconds. `step` is in words: `first call`, `block in cold`."""

    def idle(self) -> None:
        """The step is over, well or with an exception: what runs now is not an arm's."""


class Unwatched:
    """Nobody watches: a script of the user's own, and tests."""

    def begin(self, case_id: str, arm: str, step: str, limit_s: float) -> None:
        pass

    def idle(self) -> None:
        pass
