"""Cases whose outcome is known in advance, in every session of every preset (docs/methodology.md, "Controls").

A session that calls equal things different, overlooks a planted difference or lets a wrong output pass cannot be
believed about anything else. `cases` gives the controls of a job, to be measured among its own cases in random order;
`judge` says from the session's rows which of them came out as they must. The workflow imports `frugal.controls.builds`
while it plans, so everything else is imported on first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frugal.controls.judging import Judged, judge
    from frugal.timing import Arm, Case, Device

__all__ = ["Judged", "cases", "judge"]


def cases(machine: Device, preset: str, host: str, kernels: Sequence[str | Path] = ()) -> list[tuple[Case, list[Arm]]]:
    """The controls of one session, with their arms: null, planted, planted_copy and wrong.

    machine: the session's device. preset: how much work is planted (`frugal.controls.wanted`). host: the
    "system/experiment" of the job that they are measured in, an axis of their cases. kernels: reports of built kernels,
    of which those of family `control` are used; without one the planted arms of a GPU are `unsupported`, which is red.
    """
    from frugal.controls import null, planted, wrong

    return [
        null.case(machine.kind, host),
        planted.case(machine.kind, preset, host, kernels),
        planted.copy_case(machine, preset, host),
        wrong.case(machine.kind, host),
    ]


def __getattr__(name: str) -> object:
    if name not in ("Judged", "judge"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("frugal.controls.judging"), name)
