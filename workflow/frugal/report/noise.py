"""How noisy the campaign was, what it could have found, and what it cost beside what was planned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from frugal.report import words
from frugal.report.inputs import Campaign
from frugal.report.tables import Cell, Table, cell, number, table
from frugal.report.verdicts import judged

_GROUP = ["machine", "system", "experiment", "metric", "regime", "l2"]


def noise(campaign: Campaign, name: str) -> Table | None:
    """Spread between sessions and rounds by machine, experiment and regime, over pairs; None without comparisons."""
    frame = judged(campaign)
    if frame.empty:
        return None
    # An interval of one session is a range of rounds, which says nothing about other processes.
    intervals = frame["ci_method"] == "t_sessions"
    half = (frame["ratio_high"].where(intervals) / frame["ratio_low"]).map(math.sqrt, na_action="ignore") - 1
    several = len(campaign.machines) > 1
    rows = []
    for key, part in frame.assign(half=half).groupby(_GROUP, dropna=False, sort=True):
        machine, system, experiment, metric, regime, l2 = key
        rows.append(
            [
                *([cell(machine)] if several else []),
                cell(f"{words.system(system)}, {experiment.replace('_', ' ')}"),
                cell(metric if words.missing(regime) else f"{metric}, {words.regime(regime, l2)}"),
                number(len(part), lambda n: f"{n:.0f}"),
                number(part["n_sessions"].max(), lambda n: f"{n:.0f}"),
                *(_spread(part[column]) for column in ("sd_session", "sd_round", "half", "mde")),
            ]
        )
    columns = [*(["machine"] if several else []), "system", "metric and regime", "#pairs", "#sessions",
               "#σ of sessions", "#σ of rounds", "#half-width of the interval",
               "#difference found with 80\N{NO-BREAK SPACE}% power"]  # fmt: skip
    note = (
        "Median over the pairs, and in brackets the value that nine in ten stay below. σ are standard deviations of "
        "logarithms of ratios: between the means of sessions, and between rounds inside a session."
    )
    return table(name, "Noise, and what the design could tell", columns, rows, note)


def cost(campaign: Campaign, plan: Mapping[str, Any] | None, name: str) -> Table | None:
    """Machine time of each system beside the plan's; None where nothing ran."""
    system_of = campaign.measurements[campaign.measurements["system"] != "control"].groupby("run_id")["system"].first()
    runs = campaign.runs.assign(system=campaign.runs["run_id"].map(system_of))
    planned = planned_minutes(plan)
    rows = []
    for system, part in runs.dropna(subset="system").groupby("system", sort=True):
        low, high = planned.get(system, (None, None))
        actual = part["wall_s"].sum() / 60
        rows.append(
            [
                cell(words.system(system)),
                number(len(part), lambda n: f"{n:.0f}"),
                number(actual, lambda m: words.duration(60 * m)),
                cell(words.between(low, high, lambda m: words.duration(60 * m))),
                cell(_beside(actual, low, high)),
            ]
        )
    if not rows:
        return None
    note = "No plan lies beside these results: `snakemake --cores 1 plan` writes one."
    if plan:
        sources = [f"{label} from {origin}" for label, origin in sorted(plan["learned_from"].items())]
        note = f"The plan is one for preset {plan['preset']}; it reckoned {words.listing(sources)}."
    return table(
        name, "Time of the measuring jobs, and the plan", ["system", "#jobs", "#took", "planned", "so"], rows, note
    )


def planned_minutes(plan: Mapping[str, Any] | None) -> dict[str, tuple[float, float]]:
    """(low, high) minutes by system, from results/plan.json."""
    return {
        entry["system"]: (float(entry["minutes_low"]), float(entry["minutes_high"]))
        for entry in (plan or {}).get("systems", [])
    }


def _beside(actual: float, low: float | None, high: float | None) -> str | None:
    if low is None or high is None:
        return None
    if low <= actual <= high:
        return "as planned"
    factor = actual / high if actual > high else low / max(actual, 1e-9)
    return f"{words.times(factor)} {'above' if actual > high else 'below'} the plan"


def _spread(values: pd.Series) -> Cell:
    """Median and ninth decile, as percentages."""
    values = values.dropna()
    if values.empty:
        return cell(None)
    middle, top = values.median(), values.quantile(0.9)
    return Cell(f"{words.percent(middle)} ({words.percent(top)})", float(middle))
