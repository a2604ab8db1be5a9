"""A comparison of two commits as a table, as a file and as an exit status."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from frugal.commits.judge import Comparison, Pair
from frugal.files import publishing

WORSE = ("SLOWER", "BROKEN")
_ORDER = ("BROKEN", "SLOWER", "CLOCK_SHIFT", "INCONCLUSIVE", None, "SAME", "FASTER")
_HEAD = ("case", "arm", "regime", "base", "head", "speed-up", "95 % interval", "verdict")


def exit_status(comparison: Comparison) -> int:
    """1 where an arm of ours became slower, or broke; else 0."""
    return int(any(pair.verdict in WORSE for pair in comparison.pairs))


def write(comparison: Comparison) -> Path:
    """Write `comparison.json` into the comparison's folder; returns its path."""
    content = asdict(comparison) | {"folder": comparison.folder.name}
    for side in ("base", "head"):
        content[side].pop("time")
    path = comparison.folder / "comparison.json"
    with publishing(path) as file:
        file.write(json.dumps(content, indent=2, allow_nan=False).encode() + b"\n")
    return path


def text(comparison: Comparison) -> str:
    """The table, worst first, and what follows from it in words."""
    shown = sorted(comparison.pairs, key=lambda pair: (_ORDER.index(pair.verdict), pair.ratio or 0.0))
    table = [_HEAD, *map(_cells, shown)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        f"{comparison.experiment}: base {comparison.base}, head {comparison.head}; {comparison.preset}, "
        f"{comparison.n_sessions} session(s) of each on {comparison.device_key}",
        "",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table),
        "",
        _summary("ours", comparison.pairs),
    ]
    if comparison.checks:
        lines.append(_summary("baselines, as a check of the machine", comparison.checks))
    if comparison.only_base or comparison.only_head:
        lines.append(
            f"not compared: {comparison.only_base} measured at the base alone, {comparison.only_head} at the head alone"
        )
    if comparison.n_sessions < 2:
        lines.append("one session of each: no interval and no verdict; raise --sessions")
    return "\n".join(lines)


def _cells(pair: Pair) -> tuple[str, ...]:
    batch = f"b{pair.n}" if pair.n is not None else None
    case = " ".join(part for part in (pair.network, pair.layer, batch) if part) or pair.case_id
    regime = pair.regime if pair.l2 is None else f"{pair.regime} ({pair.l2})"
    interval = "" if pair.ratio_low is None else f"{pair.ratio_low:.3f} to {pair.ratio_high:.3f}"
    ratio = "" if pair.ratio is None else f"{pair.ratio:.3f}"
    verdict = f"{pair.verdict} ({pair.reason})" if pair.verdict else f"no verdict ({pair.reason})"
    return case, pair.arm, regime, _seconds(pair.base_s), _seconds(pair.head_s), ratio, interval, verdict


def _seconds(value: float | None) -> str:
    if value is None:
        return "none"
    size, unit = next((size, unit) for size, unit in ((1.0, "s"), (1e-3, "ms"), (0.0, "µs")) if value >= size)
    return f"{value / (size or 1e-6):.4g} {unit}"


def _summary(name: str, pairs: list[Pair]) -> str:
    words = Counter(pair.verdict or "no verdict" for pair in pairs)
    counted = ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
    logs = [math.log(pair.ratio) for pair in pairs if pair.ratio is not None]
    mean = f"; geometric mean of the speed-ups {math.exp(math.fsum(logs) / len(logs)):.3f}" if logs else ""
    return f"{name}: {counted}{mean}"
