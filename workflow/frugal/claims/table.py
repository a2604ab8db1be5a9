"""Claims as text: the verdicts of a run for the terminal, and the definitions for docs/claims.md."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pyarrow as pa
from pydantic import BaseModel

from frugal.claims.models import Claim, Condition, Measure, Range
from frugal.claims.words import SIGNS, VERDICTS, interval, number, said

_JUDGED = ("reproduced", "trend", "not_reproduced")
_COMPARATORS = {
    "at_least": "at least",
    "at_most": "at most",
    "within": "within",
    "equals": "equal to",
    "trend": "tested against",
}


def verdict_table(claims: pa.Table) -> str:
    """The table `claims` as text, a block a machine: a line for each claim that was judged, a line for each reason why
    others were not (of recorded campaigns only where something was measured), and the counts."""
    rows = claims.to_pylist()
    places = dict.fromkeys((row["recorded"], row["device_key"]) for row in rows)
    return "\n\n".join(
        _block(*place, [r for r in rows if (r["recorded"], r["device_key"]) == place]) for place in places
    )


def _block(recorded: str | None, device: str | None, rows: Sequence[dict]) -> str:
    judged = [row for row in rows if row["verdict"] in _JUDGED]
    lines = [(said(row["verdict"], row["origin"]), row["claim_id"], _values(row)) for row in judged]
    widths = [max((len(line[cell]) for line in lines), default=0) for cell in range(2)]
    text = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in lines]
    why: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["verdict"] not in _JUDGED and (recorded is None or row["verdict"] == "not_comparable"):
            why.setdefault((said(row["verdict"], row["origin"]), row["reason"]), []).append(row["claim_id"])
    text += [f"{word}, {reason}: {', '.join(ids)}" for (word, reason), ids in why.items()]
    title = f"recorded on {device} ({recorded})" if recorded else f"this machine ({device or 'nothing measured'})"
    return "\n".join([title, *(f"  {line}" for line in text), f"  {_counts(rows)}"])


def _values(row: dict) -> str:
    measured = interval(row["measured"], row["low"], row["high"])
    return f"{measured} ({_COMPARATORS[row['comparator']]} {number(row['expected'])})"


def _counts(rows: Sequence[dict]) -> str:
    parts = []
    for title, ours in (("published claims", False), ("goals of ours", True)):
        own = [row for row in rows if (row["origin"] == "ours") == ours]
        counts = Counter(row["verdict"] for row in own)
        words = ", ".join(f"{counts[v]} {said(v, 'ours' if ours else 'paper')}" for v in VERDICTS if counts[v])
        parts.append(f"{title}: {words}" if own else "")
    return "; ".join(part for part in parts if part)


def keys() -> list[tuple[str, str]]:
    """Every key of a claim and what it means, nested ones with a dot."""
    return _keys(Claim, "")


def _keys(part: type[BaseModel], prefix: str) -> list[tuple[str, str]]:
    rows = []
    for name, field in part.model_fields.items():
        rows.append((f"`{prefix}{name}`", " ".join((field.description or "").split())))
        nested = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        if (inner := next((kind for kind in nested if issubclass(kind, BaseModel)), None)) is not None:
            rows += _keys(inner, f"{prefix}{name}.")
    return rows


def definitions(claims: Sequence[Claim], system: str) -> list[tuple[str, ...]]:
    """Rows for docs/claims.md: id, origin, statement and source, what is expected, how it is measured, its needs."""
    rows = []
    for claim in claims:
        if claim.system != system:
            continue
        locator = claim.locator
        rows.append(
            (
                f"`{claim.id}`",
                claim.origin,
                f"{claim.statement} ({'; '.join(filter(None, (locator.where, locator.hardware, locator.note)))})",
                _expected(claim),
                _query(claim.measure),
                _needs(claim),
            )
        )
    return rows


def _expected(claim: Claim) -> str:
    test = claim.measure.test
    unit = "" if claim.locator.unit == "1" else f" {claim.locator.unit}"
    if claim.comparator == "trend" and test is not None:
        return f"{SIGNS[test.op]} {number(test.value)}{unit}"
    text = f"{_COMPARATORS[claim.comparator]} {number(claim.locator.value, 4)}{unit}"
    text += f", −{claim.tolerance:.0%}" if claim.tolerance and claim.comparator == "at_least" else ""
    text += f", +{claim.tolerance:.0%}" if claim.tolerance and claim.comparator == "at_most" else ""
    text += f", ±{claim.tolerance:.0%}" if claim.tolerance and claim.comparator == "within" else ""
    if claim.trend is not None:
        upward = claim.trend.at_least is not None
        bound = claim.trend.at_least if upward else claim.trend.at_most
        text += f"; trend: {'at least' if upward else 'at most'} {number(bound)}"
    return text


def _needs(claim: Claim) -> str:
    if claim.shown_only is not None:
        return f"shown, never judged: {claim.shown_only}"
    if claim.pending is not None:
        return f"pending: {claim.pending}"
    parts = [claim.needs.device_kind, claim.needs.hardware, claim.needs.preset]
    return ", ".join(part for part in parts if part) or "nothing: deterministic"


def _query(measure: Measure) -> str:
    reduce = measure.reduce + (f" (weight {measure.weight})" if measure.weight else "")
    reduce += f" against {measure.against}" if measure.against else ""
    rows = ", ".join(f"{name} {_condition(value)}" for name, value in measure.where.items())
    over = ", ".join(f"{name} {_condition(value)}" for name, value in (measure.over or {}).items())
    text = f"{reduce} of `{measure.column}`, {measure.table}: {rows}"
    text += f"; over {over}" if over else ""
    text += f"; of a case's rows the {measure.per_case}" if measure.per_case else ""
    return text + (f"; beside it {', '.join(part.name for part in measure.beside)}" if measure.beside else "")


def _condition(value: Condition) -> str:
    if isinstance(value, Range):
        parts = [
            f"≥ {number(value.ge)}" if value.ge is not None else "",
            f"≤ {number(value.le)}" if value.le is not None else "",
        ]
        return " and ".join(part for part in parts if part)
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
