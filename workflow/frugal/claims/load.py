"""Reading `workflow/claims.yaml` and the published numbers of `workflow/paper/*.csv`, and refusing what is wrong."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from frugal.claims.models import Claim, PaperRow
from frugal.errors import FrugalError

CLAIMS_PATH = Path(__file__).resolve().parents[2] / "claims.yaml"
PAPER_FOLDER = CLAIMS_PATH.with_name("paper")
_ROUNDED = 5e-3  # claims.yaml holds a published value with the digits that the statement quotes


class ClaimError(FrugalError):
    """claims.yaml or a file of published numbers cannot be used; one line a problem."""


def load(path: str | Path = CLAIMS_PATH, paper: str | Path = PAPER_FOLDER) -> list[Claim]:
    """The claims, in the file's order, each checked. Where a published value stands in `<paper>/<system>.csv`, the
    claim carries the file's number.

    Raises ClaimError with one line for each problem: the claim, the field, what is wrong and what is allowed.
    """
    entries = _entries(Path(path))
    claims, problems = [], []
    for place, entry in enumerate(entries):
        try:
            claims.append(_published(Claim.model_validate(entry), Path(paper)))
        except ValidationError as error:
            problems += [f"{_name(entry, place)}: {line}" for line in _lines(error)]
        except ClaimError as error:
            problems.append(f"{_name(entry, place)}: {error}")
    ids = [claim.id for claim in claims]
    problems += [f"{name}: two claims have this id: rename one" for name in sorted(set(ids)) if ids.count(name) > 1]
    if problems:
        raise ClaimError("\n".join(f"{Path(path).name}: {problem}" for problem in problems))
    return claims


def paper_value(selection: PaperRow, system: str, folder: str | Path = PAPER_FOLDER) -> float:
    """The number that a locator points at: one row of `<folder>/<system>.csv`, or the ratio of two.

    ClaimError for a file that is not there or a selection that does not give exactly one row.
    """
    path = Path(folder) / f"{system}.csv"
    if not path.is_file():
        raise ClaimError(f"locator.paper: there is no file {path.name} in {path.parent.name}/: add it, or leave it out")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names, rows = list(reader.fieldnames or ()), list(reader)
    value = _sum(rows, names, selection.row, path.name)
    return value if selection.over is None else value / _sum(rows, names, selection.over, path.name)


def _entries(path: Path) -> Sequence[object]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClaimError(f"{path.name}: there is no such file: run in a checkout of frugal, or give the path") from None
    except yaml.YAMLError as problem:
        raise ClaimError(f"{path.name}: this is not YAML: {' '.join(str(problem).split())}") from None
    if not isinstance(entries, list) or not entries:
        raise ClaimError(f"{path.name}: it must hold a list of claims, each with an id (docs/claims.md shows one)")
    return entries


def _published(claim: Claim, folder: Path) -> Claim:
    """The claim with the value that stands among the published numbers, which must be the one that it quotes."""
    locator = claim.locator
    if locator.paper is None:
        return claim
    value = paper_value(locator.paper, claim.system, folder)
    if locator.value is None or not math.isclose(value, locator.value, rel_tol=_ROUNDED):
        raise ClaimError(f"locator.value = {locator.value}: {claim.system}.csv says {value:.6g}: write that number")
    return claim.model_copy(update={"locator": locator.model_copy(update={"value": value})})


def _sum(rows: Sequence[Mapping[str, str]], names: Sequence[str], selection: object, file: str) -> float:
    chosen = selection if isinstance(selection, list) else [selection]
    for column in {column for one in chosen for column in one}:
        if column not in names:
            raise ClaimError(f"locator.paper: {file} has no column {column}: use one of {', '.join(names)}")
    return sum(_one(rows, one, file) for one in chosen)


def _one(rows: Sequence[Mapping[str, str]], selection: Mapping[str, str], name: str) -> float:
    found = [
        row
        for row in rows
        if all((text in row[key]) if key == "parameters" else text == row[key] for key, text in selection.items())
    ]
    if len(found) != 1:
        chosen = ", ".join(f"{key}: {text}" for key, text in selection.items())
        raise ClaimError(f"locator.paper: {len(found)} rows of {name} are {{{chosen}}}: select exactly one")
    return float(found[0]["value"])


def _name(entry: object, place: int) -> str:
    name = entry.get("id") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and name else f"claim {place + 1}"


def _lines(error: ValidationError) -> list[str]:
    """One line for each field that is wrong. A condition has an error for each kind that it could be: one line too."""
    lines: dict[str, str] = {}
    for entry in error.errors(include_url=False):
        steps = [str(step) for step in entry["loc"]]
        condition = steps[:1] == ["measure"] and len(steps) > 3 and steps[1] in ("where", "over")
        where = ".".join(steps[:3] if condition else steps)
        said = _said(entry)
        if condition and entry["type"] != "value_error":
            said = "a condition is a value, a list of values, {ge: number, le: number} or null"
        if where not in lines or entry["type"] == "value_error":
            lines[where] = f"{where}: {said}" if where else said
    return list(lines.values())


def _said(entry: Mapping[str, Any]) -> str:
    if entry["type"] == "value_error":
        return str(entry["ctx"]["error"])
    if entry["type"] == "extra_forbidden":
        return "there is no such key: take it out, or mend its name (docs/claims.md lists the keys)"
    if entry["type"] == "missing":
        return "it is missing: add it (docs/claims.md says what it means)"
    text = entry["msg"][0].lower() + entry["msg"][1:]
    return f"{text}, unlike {entry['input']!r:.80}"
