"""Comparisons: how often ours is faster, system by system, and every pair of a case."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from markupsafe import Markup

from frugal import stats
from frugal.report import svg, words
from frugal.report.inputs import Campaign
from frugal.report.tables import Cell, Table, badge, cell, number, table

# Left to right in the bar, best first.
ORDER = ("FASTER", "BETTER", "SAME", "INCONCLUSIVE", "CLOCK_SHIFT", "SLOWER", "WORSE", "none")
MOST_ROWS = 3000  # a longer table makes the page slow; the rest is in Parquet
_GROUP = ["metric", "regime", "l2", "candidate", "baseline"]


def judged(campaign: Campaign) -> pd.DataFrame:
    """The comparisons of the systems: those of the controls stand in their own section."""
    return campaign.comparisons[campaign.comparisons["system"] != "control"]


def summaries(campaign: Campaign, name: str) -> list[Table]:
    """Verdicts counted by what is compared, a table a system, experiment and machine."""
    several = len(campaign.machines) > 1
    found = []
    for (system, experiment, machine), part in judged(campaign).groupby(["system", "experiment", "machine"], sort=True):
        rows = [_counted(keys, some) for keys, some in part.groupby(_GROUP, dropna=False, sort=True)]
        columns = ["ours", "baseline", "#mean ratio", "verdicts", "#cases", "#lowest to highest case",
                   "metric and regime"]  # fmt: skip
        caption = f"{words.system(system)} {experiment}" + (f", {machine}" if several else "")
        found.append(table(f"{name}-{len(found) + 1}", caption, columns, rows))
    return found


def _counted(keys: tuple, part: pd.DataFrame) -> list[Cell]:
    """One row: how ours stands to a baseline in a regime, over all cases."""
    metric, regime, l2, candidate, baseline = keys
    counts = part["verdict"].fillna("none").value_counts().to_dict()
    ratios = part["ratio"].dropna()
    spoken = ", ".join(
        f"{counts[v]}\N{NO-BREAK SPACE}{words.verdict(None if v == 'none' else v)}" for v in ORDER if v in counts
    )
    return [
        cell(candidate),
        cell(baseline),
        number(stats.geomean(ratios.tolist()) if len(ratios) else None, words.times),
        Cell(spoken, counts.get("FASTER", 0) + counts.get("BETTER", 0), drawing=_bar(counts)),
        number(len(part), lambda n: f"{n:.0f}"),
        Cell(words.between(ratios.min(), ratios.max()), ratios.min()) if len(ratios) else cell(None),
        cell(metric if words.missing(regime) else f"{metric}, {words.regime(regime, l2)}"),
    ]


def pairs(campaign: Campaign, names: Mapping[str, str], name: str) -> Table | None:
    """Every comparison of a campaign with its interval, largest ratio first; None where nothing was compared."""
    frame = judged(campaign).sort_values("ratio", ascending=False, na_position="last")
    if frame.empty:
        return None
    left_out = max(0, len(frame) - MOST_ROWS)
    note = f"{left_out:,} rows with smaller ratios are left out here; comparisons.parquet has them." if left_out else ""
    rows = [
        [
            cell(names.get(row.case_id, row.case_id)),
            cell(row.candidate),
            cell(row.baseline),
            cell(row.metric if words.missing(row.regime) else f"{row.metric}, {words.regime(row.regime, row.l2)}"),
            number(row.ratio, words.times),
            Cell(words.between(row.ratio_low, row.ratio_high), _width(row.ratio_low, row.ratio_high)),
            badge(row.verdict),
            cell(words.reason(row.reason_code)),
        ]
        for row in frame.head(MOST_ROWS).itertuples()
    ]
    range_ = "range of rounds" if frame["conditional"].all() else "95 % interval"
    columns = ["case", "ours", "baseline", "metric and regime", "#ratio", f"#{range_}", "verdict", "why"]
    return table(name, "Every comparison", columns, rows, note)


def _width(low: float | None, high: float | None) -> float | None:
    """What sorting an interval compares: its relative width."""
    return None if words.missing(low) or words.missing(high) or low <= 0 else math.log(high / low)


def _bar(counts: Mapping[str, int]) -> Markup:
    """The shares of the verdicts as one bar, best to the left; the text beside it says the same."""
    total, left, parts = sum(counts.values()), 0.0, []
    for verdict in ORDER:
        width = svg.WIDTH * counts.get(verdict, 0) / total
        if width:
            parts.append(svg.rectangle(left, left + width, f"fill-{words.LOOKS[verdict][0]}"))
        left += width
    return svg.drawing(parts, "", "bar")
