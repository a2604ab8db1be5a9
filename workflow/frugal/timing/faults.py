"""From an exception of an arm to the status and reason of its rows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from frugal.errors import FrugalError, out_of_memory
from frugal.records import scrub
from frugal.timing.arms import Unsupported

_MEMORY = re.compile(r"(?i)(tried to allocate [\d.]+ ?\w+|\d+ bytes)")
_LONGEST = 200  # characters of a reason: enough for a driver's sentence


@dataclass(frozen=True)
class Fault:
    """Why there is no value: `status` (unsupported, oom, incorrect, failed, …) and a reason of one line."""

    status: str
    reason: str


class DeviceLost(FrugalError):
    """A step of an arm has killed the device's context: nothing can be measured in this process any more."""

    def __init__(self, case_id: str, label: str, arm: str, fault: Fault) -> None:
        super().__init__(
            f"the device stopped working in case {label}, in {arm} ({fault.reason}): what was finished is kept, so run "
            "again and the session goes on"
        )
        self.case_id, self.arm, self.fault = case_id, arm, fault


def fault_of(error: BaseException) -> Fault:
    """The row's status for an exception raised by an arm, its reason without paths (records refuse those)."""
    if isinstance(error, Unsupported):
        return Fault("unsupported", one_line(str(error)) or "unsupported")
    if isinstance(error, NotImplementedError):
        return Fault("unsupported", one_line(str(error)) or "not implemented")
    if out_of_memory(error):
        asked = _MEMORY.search(str(error))
        return Fault("oom", asked.group(1) if asked else one_line(str(error)) or "out of memory")
    return Fault("failed", f"{type(error).__name__}: {one_line(str(error))}".removesuffix(": "))


def one_line(text: str) -> str:
    """The first line of a message that says something, without paths and names of people and hosts."""
    line = scrub(next((line.strip() for line in text.splitlines() if line.strip()), ""))
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
