"""Controls: what must come out, and whether it did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from frugal.report import words
from frugal.report.inputs import Campaign
from frugal.report.tables import Cell, Table, badge, cell, number, table

COLOURS = ("green", "yellow", "red")


@dataclass(frozen=True)
class Outcome:
    """What one control gave in one session: its colour, the number measured, the bounds that it must keep."""

    colour: str
    measured: float | None
    unit: str
    wanted: tuple[float, float] | None
    words: str


def outcomes(text: str) -> dict[str, Outcome]:
    """The controls of a session by name, from `controls_json` (frugal.controls.judge)."""
    return {
        name: Outcome(
            given["colour"],
            given["measured"],
            given.get("unit", "1"),  # earlier campaigns have shares and counts alone
            given["wanted"] and tuple(given["wanted"]),
            given["words"],
        )
        for name, given in json.loads(text).items()
    }


def sessions(campaign: Campaign, name: str) -> Table | None:
    """Each control over the sessions of each machine; None where no session ran any."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for run in campaign.runs.sort_values(["machine", "experiment", "session"]).itertuples():
        for control, outcome in outcomes(run.controls_json).items():
            found.setdefault((run.machine, control), []).append(outcome)
    if not found:
        return None
    several = len(campaign.machines) > 1
    rows = []
    for (machine, control), given in sorted(found.items()):
        worst = max(given, key=lambda outcome: COLOURS.index(outcome.colour))
        passed = sum(outcome.colour == "green" for outcome in given)
        rows.append(
            [
                cell(control),
                *([cell(machine)] if several else []),
                badge(worst.colour),
                Cell(f"{passed} of {len(given)}", passed),
                cell(_range([outcome.measured for outcome in given if outcome.measured is not None], worst.unit)),
                cell(_range(list(worst.wanted or ()), worst.unit)),
                cell(worst.words),
            ]
        )
    columns = ["control", *(["machine"] if several else []), "outcome", "#sessions green", "#measured", "#must be",
               "in words"]  # fmt: skip
    return table(name, "Controls, session by session", columns, rows, "The outcome is that of the worst session.")


def over_sessions(campaign: Campaign, name: str) -> Table | None:
    """How the campaign judges the controls' pairs, by the rules of all other comparisons; None where there are none."""
    pairs = campaign.comparisons[campaign.comparisons["system"] == "control"]
    several = len(campaign.machines) > 1
    rows = [
        [
            cell(f"{row.experiment}: {row.candidate} against {row.baseline}"),
            *([cell(row.machine)] if several else []),
            cell(words.regime(row.regime, row.l2)),
            number(row.ratio, words.times),
            cell(words.between(row.ratio_low, row.ratio_high)),
            badge(row.verdict),
            cell(words.reason(row.reason_code)),
        ]
        for row in pairs.sort_values(["machine", "experiment", "candidate", "regime"]).itertuples()
    ]
    if not rows:
        return None
    columns = ["control", *(["machine"] if several else []), "regime", "#ratio", "#interval", "verdict", "why"]
    return table(name, "Controls over the campaign", columns, rows)


def _range(values: Sequence[float], unit: str) -> str:
    """From the least to the greatest, one number where they agree."""
    if not values:
        return words.NONE
    low, high = (words.quantity(value, unit, 4) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
