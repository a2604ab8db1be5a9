"""The published numbers (`workflow/paper/<system>.csv`), which figures draw hollow beside what was measured."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from frugal.errors import FrugalError

FOLDER = Path(__file__).resolve().parents[2] / "paper"
COLUMNS = ("source", "hardware", "model", "variant", "parameters", "metric", "value", "unit")


def load(system: str, folder: str | Path = FOLDER) -> pd.DataFrame:
    """The rows of `<folder>/<system>.csv` (COLUMNS), and a column for each parameter of theirs that is a number (`B`,
    `C`, `H`, `N`, `layer`, …; NaN where a row has none).

    A file that is not there, or that lacks a column: FrugalError.
    """
    path = Path(folder) / f"{system}.csv"
    try:
        rows = pd.read_csv(path)
    except FileNotFoundError:
        raise FrugalError(
            f"{path.name}: there is no such file of published numbers: take it from the repository"
        ) from None
    missing = [name for name in COLUMNS if name not in rows]
    if missing:
        raise FrugalError(f"{path.name}: column {missing[0]} is missing: the columns are system, {', '.join(COLUMNS)}")
    parameters = pd.DataFrame([_numbers(text) for text in rows["parameters"].fillna("")], index=rows.index)
    return pd.concat([rows, parameters], axis=1)


def _numbers(parameters: str) -> dict[str, float]:
    pairs = (pair.partition("=") for pair in parameters.split(";"))
    return {name: float(value) for name, _, value in pairs if value.replace(".", "", 1).isdigit()}
