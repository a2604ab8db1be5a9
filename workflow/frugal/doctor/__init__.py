"""What a campaign needs of this machine, and what to type to mend what is missing.

    for check in doctor.doctor(config.load({})):
        print(check.level, check.name, check.found)

`quick` is the part that a session records: no network, no other process, well below half a second. `calibrate` measures
for about a minute what the method costs on this device; it alone loads torch. What sessions use is imported here, all
else on first use, so that an edit of the rest measures nothing anew.
"""

from importlib import import_module

from .check import FAIL, PASS, WARN, Check, exit_status, json_text, text
from .session import admit, quick

_ON_FIRST_USE = {"Need": "whole", "doctor": "whole", "local_kind": "whole", "calibrate": "calibration"}

__all__ = [
    "FAIL",
    "PASS",
    "WARN",
    "Check",
    "Need",
    "admit",
    "calibrate",
    "doctor",
    "exit_status",
    "json_text",
    "local_kind",
    "quick",
    "text",
]


def __getattr__(name: str) -> object:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ON_FIRST_USE[name]}"), name)
