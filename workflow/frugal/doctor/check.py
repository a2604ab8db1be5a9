"""One thing that a campaign needs: how it stands, and what to type to mend it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["PASS", "WARN", "FAIL"]
PASS: Level = "PASS"
WARN: Level = "WARN"
FAIL: Level = "FAIL"


@dataclass(frozen=True)
class Check:
    """A finding. `found` is what is there, `wanted` what would be right; a FAIL has a command line as its `mend`."""

    name: str
    level: Level
    found: str
    wanted: str
    mend: str | None = None


def graded(name: str, *, fail: bool = False, warn: bool = False, found: str, wanted: str, mend: str) -> Check:
    """A check that is FAIL where `fail` holds, else WARN where `warn` does, else PASS, which needs no mending."""
    level = FAIL if fail else WARN if warn else PASS
    return Check(name, level, found, wanted, None if level == PASS else mend)


def text(checks: Sequence[Check]) -> str:
    """One line a check, what to do below those that are not PASS, and a count at the end."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{check.level}  {check.name:<{width}}  {check.found}")
        if check.level != PASS:
            lines.append(f"      {'':<{width}}  wanted: {check.wanted}")
            lines.append(f"      {'':<{width}}  mend: {check.mend}")
    counts = {level: sum(check.level == level for check in checks) for level in (PASS, WARN, FAIL)}
    return "\n".join([*lines, ", ".join(f"{count} {level}" for level, count in counts.items())])


def json_text(checks: Sequence[Check]) -> str:
    """The findings as a JSON list of objects with the fields of Check."""
    return json.dumps([asdict(check) for check in checks], indent=1)


def exit_status(checks: Sequence[Check]) -> int:
    """1 where anything is FAIL, else 0."""
    return int(any(check.level == FAIL for check in checks))
