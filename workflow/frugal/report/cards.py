"""Claims: published statements and our goals, each beside what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from frugal.claims.words import VERDICTS, said
from frugal.report import svg, words
from frugal.report.inputs import Inputs
from frugal.report.tables import Cell, Table, badge, cell, number, table

_COMPARATORS = {
    "at_least": "at least", "at_most": "at most", "within": "about", "equals": "exactly", "trend": "tested against",
}  # fmt: skip
_LINE = (440, 68, 34)  # width, height and middle of a number line
_ORIGINS = {"paper": "published in the paper", "artifact": "published with the artifact", "ours": "our own goal"}


@dataclass(frozen=True)
class Measured:
    """What one machine's campaign says to a claim; `scale` draws it beside the published value."""

    machine: str
    verdict: Cell
    value: str
    basis: str
    reason: str
    scale: Markup
    beside: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Card:
    """A claim with at least one machine's answer."""

    claim_id: str
    origin: str
    ours: bool
    statement: str
    expected: str
    accepted: str
    locator: str
    note: str
    hardware: str
    answers: tuple[Measured, ...]
    figure: str | None
    query: str
    command: str


def summary(inputs: Inputs, name: str) -> Table | None:
    """Verdicts counted by machine, our goals apart; None where no claims were judged."""
    claims = inputs.claims
    if claims.empty:
        return None
    where = _machines(inputs)
    told = claims.assign(machine=[_machine(row, where) for row in claims.itertuples()], ours=claims["origin"] == "ours")
    rows = []
    for (ours, machine), part in told.groupby(["ours", "machine"], sort=False):
        counts = part["verdict"].value_counts()
        kind = "our own goals" if ours else "published claims"
        rows.append([cell(kind), cell(machine), *(number(counts.get(v, 0), lambda n: f"{n:.0f}") for v in VERDICTS)])
    columns = ["claims", "measured on", *(f"#{verdict.replace('_', ' ')}" for verdict in VERDICTS)]
    note = "A goal of ours that is met stands under “reproduced” and says nothing about a paper."
    return table(name, "Claims by verdict", columns, rows, note)


def cards(inputs: Inputs) -> list[Card]:
    """The claims that some machine has an answer to, in the order of the file."""
    where = _machines(inputs)
    drawn = {figure.name for figure in inputs.figures}
    return [
        _card(part, where, drawn)
        for _, part in inputs.claims.groupby("claim_id", sort=False)
        if (part["verdict"] != "not_run").any()
    ]


def not_run(inputs: Inputs, name: str) -> Table | None:
    """The claims that no machine has an answer to, and why; None where each has one."""
    rows = []
    for claim_id, part in inputs.claims.groupby("claim_id", sort=False):
        if (part["verdict"] == "not_run").all():
            first = part.iloc[0]
            rows.append(
                [
                    cell(claim_id),
                    cell(first["statement"]),
                    cell(_ORIGINS.get(first["origin"], first["origin"])),
                    cell(f"{words.quantity(first['expected'], first['unit'])} on {first['paper_hardware']}"),
                    cell(words.listing(list(dict.fromkeys(part["reason"])), 2)),
                ]
            )
    if not rows:
        return None
    return table(name, "Claims that were not run", ["claim", "statement", "origin", "published value", "why"], rows)


def _machines(inputs: Inputs) -> dict[tuple[str | None, str], str]:
    """(recorded campaign or None, device_key) → machine in words."""
    return {
        (campaign.recorded, run.device_key): run.machine
        for campaign in inputs.campaigns
        for run in campaign.runs.itertuples()
    }


def _machine(row, where: Mapping[tuple[str | None, str], str]) -> str:
    if words.missing(row.device_key):
        return "nowhere yet"
    recorded = None if words.missing(row.recorded) else row.recorded
    return where.get((recorded, row.device_key)) or (f"recorded on {row.device_key}" if recorded else row.device_key)


def _card(part: pd.DataFrame, where: Mapping[tuple[str | None, str], str], drawn: set[str]) -> Card:
    first = part.iloc[0]
    scale = _scale(part)
    return Card(
        claim_id=first["claim_id"],
        origin=_ORIGINS.get(first["origin"], first["origin"]),
        ours=first["origin"] == "ours",
        statement=first["statement"],
        expected=f"{_COMPARATORS[first['comparator']]} {words.quantity(first['expected'], first['unit'])}",
        accepted=_accepted(first),
        locator=first["locator"],
        note="" if words.missing(first["note"]) else first["note"],
        hardware=first["paper_hardware"],
        answers=tuple(_measured(row, where, scale) for row in part.itertuples()),
        figure=first["figure"] if first["figure"] in drawn else None,
        query=json.dumps(json.loads(first["query_json"]), indent=1, ensure_ascii=False),
        command=first["command"],
    )


def _accepted(row: pd.Series) -> str:
    """Which values count as reproduced, and which still as a trend."""
    if row["comparator"] in ("trend", "equals"):
        return ""
    low, high, bound = (row[name] for name in ("expected_low", "expected_high", "trend_bound"))
    if not words.missing(low) and not words.missing(high):
        said_ = f"counts between {words.plain(low)} and {words.plain(high)}"
    elif not words.missing(low):
        said_ = f"counts from {words.plain(low)} on"
    elif not words.missing(high):
        said_ = f"counts up to {words.plain(high)}"
    else:
        return ""
    if words.missing(bound):
        return said_
    return f"{said_}, as a trend {'from' if row['comparator'] == 'at_least' else 'up to'} {words.plain(bound)}"


def _measured(row, where: Mapping[tuple[str | None, str], str], scale: Sequence[float] | None) -> Measured:
    interval = words.between(row.low, row.high)
    shown = row.ci_method == "t_sessions" and interval != words.NONE
    basis = [] if words.missing(row.preset) else [f"preset {row.preset}"]
    if row.n_rows:
        basis += [words.count(int(row.n_rows), "row"), words.count(int(row.n_sessions), "session")]
    return Measured(
        machine=_machine(row, where),
        verdict=badge(row.verdict, said(row.verdict, row.origin)),
        value=words.quantity(row.measured, row.unit) + (f" (95 % interval {interval})" if shown else ""),
        basis="" if words.missing(row.measured) else ", ".join(basis),
        reason=row.reason,
        scale=_drawn(row, scale) if scale and not words.missing(row.measured) else Markup(""),
        beside=tuple((extra["name"], _beside(extra)) for extra in json.loads(row.beside_json)),
    )


def _beside(extra: Mapping[str, float | str | None]) -> str:
    value = words.quantity(extra["value"])
    interval = words.between(extra.get("low"), extra.get("high"))
    return value if interval == words.NONE or extra["low"] == extra["high"] else f"{value} ({interval})"


def _scale(part: pd.DataFrame) -> tuple[float, float] | None:
    """The ends of the number line that all answers of a card share; logarithms where every value is above 0."""
    numbers = [
        float(value)
        for column in ("expected", "expected_low", "expected_high", "measured", "low", "high")
        for value in part[column].dropna()
        if math.isfinite(value)
    ]
    if part["measured"].isna().all() or len(set(numbers)) < 2:
        return None
    low, high = min(numbers), max(numbers)
    if low > 0:
        low, high = math.log(low), math.log(high)
    room = 0.12 * (high - low)
    return (low - room, high + room) if min(numbers) <= 0 else (math.exp(low - room), math.exp(high + room))


def _drawn(row, scale: Sequence[float]) -> Markup:
    """Measured value with its interval as dot and whisker, published value as a line, what counts as a band."""
    width, height, middle = _LINE

    def x(value: float) -> float:
        low, high = scale
        share = math.log(value / low) / math.log(high / low) if low > 0 else (value - low) / (high - low)
        return width * min(max(share, 0.0), 1.0)

    bounded = not (words.missing(row.expected_low) and words.missing(row.expected_high))
    left = 0.0 if words.missing(row.expected_low) else x(row.expected_low)
    right = width if words.missing(row.expected_high) else x(row.expected_high)
    spread = not words.missing(row.low) and not words.missing(row.high)
    parts = [
        svg.rectangle(left, right, "accepted", middle - 9, middle + 9) if bounded else Markup(""),
        svg.line([(0, middle), (width, middle)], "axis"),
        svg.upright(x(row.expected), "published", middle - 14, middle + 14),
        svg.text(x(row.expected), middle - 20, words.plain(row.expected), "published", width),
        svg.line([(x(row.low), middle), (x(row.high), middle)], "whisker") if spread else Markup(""),
        svg.dots([(x(row.measured), middle)], "measured"),
        svg.text(x(row.measured), middle + 30, words.plain(row.measured), "measured", width),
    ]
    sound = f"Number line: measured {words.plain(row.measured)}, published {words.plain(row.expected)}."
    return svg.shaped(parts, sound, "number-line", width, height)
