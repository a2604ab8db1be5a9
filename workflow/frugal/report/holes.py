"""Everything that is not ok, grouped by status and reason: no hole is hidden."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from frugal.report import words
from frugal.report.inputs import Campaign
from frugal.report.tables import Table, cell, number, table


def not_ok(campaign: Campaign) -> pd.DataFrame:
    """The rows whose status is not ok; those of controls, some of which must be wrong, stand in their own section."""
    rows = campaign.measurements
    return rows[(rows["status"] != "ok") & (rows["system"] != "control")]


def holes(campaign: Campaign, names: Mapping[str, str], name: str) -> Table | None:
    """The groups, largest first; None where every row is ok."""
    rows = []
    lost = not_ok(campaign)
    groups = lost.assign(reason=lost["reason"].fillna("no reason was given")).groupby(["status", "reason"], sort=True)
    for (status, reason), part in sorted(groups, key=lambda group: -len(group[1])):
        cases = [names.get(case, case) for case in part["case_id"].drop_duplicates()]
        regimes = [words.text(regime) for regime in part["regime"].drop_duplicates()]
        rows.append(
            [
                cell(status),
                cell(reason),
                number(len(part), lambda n: f"{n:.0f}"),
                cell(words.listing(sorted(part["arm"].unique()), 4)),
                cell(words.listing(sorted(regimes))),
                cell(words.listing(cases, 2)),
                cell(words.listing(sorted(part["log"].unique()), 1)),
            ]
        )
    if not rows:
        return None
    columns = ["status", "reason", "#rows", "implementations", "regimes", "cases", "log"]
    return table(name, "Not ok, by status and reason", columns, rows)
