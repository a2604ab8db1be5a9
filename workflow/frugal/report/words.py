"""Numbers, names and verdicts in words: one way to write each, everywhere on the page."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

NONE = "–"
SYSTEMS = {"sft": "SFT", "cusnn": "cuSNN", "folded": "FoldedCNNs", "dtr": "DTR", "syno": "Syno", "method": "the method"}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
_SCALED = {"s", "J", "W", "Hz", "B", "FLOP", "FLOP/s", "B/s"}

# What a verdict looks like: a class of report.css, and a sign that tells them apart without colour.
LOOKS = {
    "FASTER": ("good", "▲"), "BETTER": ("good", "▲"), "SLOWER": ("bad", "▼"), "WORSE": ("bad", "▼"),
    "SAME": ("same", "="), "INCONCLUSIVE": ("open", "?"), "CLOCK_SHIFT": ("caution", "≠"), "none": ("open", "·"),
    "reproduced": ("good", "✓"), "trend": ("same", "↗"), "not_reproduced": ("bad", "✗"),
    "not_comparable": ("caution", "≠"), "not_run": ("open", "·"),
    "green": ("good", "✓"), "yellow": ("caution", "!"), "red": ("bad", "✗"),
    "PASS": ("good", "✓"), "WARN": ("caution", "!"), "FAIL": ("bad", "✗"),
}  # fmt: skip

_REASONS = {
    "few_sessions": "one session only",
    "ci_inside_margin": "interval inside the margin",
    "ci_above": "interval above 1",
    "ci_below": "interval below 1",
    "ci_straddles": "interval contains 1",
    "holm": "p after Holm is 5 % or more",
    "clock_shift": "not so in clock cycles",
    "no_clock": "no SM clock was polled",
    "control_failed": "a control was red",
    "launch_bound": "the host's launches set the time",
}


def missing(value: Any) -> bool:
    """Whether a cell is null (None, NaN, NaT, pandas' NA)."""
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def text(value: Any) -> str:
    """A cell as it is, `–` where it is null."""
    return NONE if missing(value) else str(value)


def system(name: str) -> str:
    """How the papers call a system."""
    return SYSTEMS.get(name, name)


def reason(code: str) -> str:
    """A reason code of a comparison in words."""
    return _REASONS.get(code, code.replace("_", " "))


def verdict(name: Any) -> str:
    """A verdict as a badge writes it."""
    return "no verdict" if missing(name) else str(name).replace("_", " ")


def plain(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, never in scientific notation between 10⁻⁴ and 10⁷."""
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{value:,.0f}".replace("-", "−")
    size = math.floor(math.log10(abs(value)))
    if not -4 <= size < 7:
        return f"{value:.{digits}g}"
    return f"{value:,.{max(0, digits - 1 - size)}f}".replace("-", "−")


def quantity(value: Any, unit: str = "1", digits: int = 3) -> str:
    """A number with its unit: 12.3 µs, 4.25 TB/s, 1.26; `–` where it is null."""
    if missing(value):
        return NONE
    if unit not in _SCALED or value == 0:
        return plain(value, digits) if unit == "1" else f"{plain(value, digits)} {unit}"
    size, prefix = next(((s, p) for s, p in _PREFIXES if abs(value) >= s * 0.9995), _PREFIXES[-1])
    return f"{plain(value / size, digits)} {prefix}{unit}"


def times(value: Any) -> str:
    """A ratio: 5.59×."""
    return NONE if missing(value) else f"{plain(value)}×"


def between(low: Any, high: Any, write=plain) -> str:
    """A range: 5.31 to 5.88; `–` where a bound is null."""
    return NONE if missing(low) or missing(high) else f"{write(low)} to {write(high)}"


def percent(value: Any) -> str:
    """A share: 8.3 %."""
    return NONE if missing(value) else f"{plain(100 * value, 2)}\N{NO-BREAK SPACE}%"


def duration(seconds: Any) -> str:
    """Wall time as people say it: 33 s, 4.5 min, 1.2 h."""
    if missing(seconds):
        return NONE
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{plain(seconds / size, 2)} {unit}"
    return f"{seconds:.0f} s"


def moment(value: datetime | None) -> str:
    """An instant in UTC: 21 November 2026, 07:39 UTC."""
    return NONE if missing(value) else f"{value.day} {value:%B %Y, %H:%M} UTC"


def stamp(value: datetime | None) -> str:
    """An instant in UTC as a table writes it: 2026-11-21 07:39."""
    return NONE if missing(value) else f"{value:%Y-%m-%d %H:%M}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """1 case, 2 cases."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listing(names: list[str], most: int = 6) -> str:
    """a, b and c; of long lists the first, and how many more."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def regime(name: Any, l2: Any) -> str:
    """A regime with its variant: graph, L2 rotated."""
    if missing(name):
        return NONE
    return str(name) if missing(l2) else f"{name}, L2\N{NO-BREAK SPACE}{l2}"


def case_names(measurements: pd.DataFrame) -> dict[str, str]:
    """What is computed, in words, by case_id: densenet169 features.conv0, batch 1."""
    names = {}
    for row in measurements.drop_duplicates("case_id").itertuples():
        parts = [str(part) for part in (row.network, row.layer) if not missing(part)]
        name = " ".join(parts) or f"{system(row.system)} {row.experiment}"
        names[row.case_id] = name if missing(row.n) else f"{name}, batch {int(row.n)}"
    return names


def code(sentence: str) -> Markup:
    """A sentence as HTML, with what stands in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence))))


def capitalised(sentence: str) -> str:
    """A sentence that begins with a capital; the rest stays as it is."""
    return sentence[:1].upper() + sentence[1:]
