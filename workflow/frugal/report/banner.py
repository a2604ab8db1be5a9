"""What must be read first: why this campaign may not be believed as it stands, and what it is."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pandas as pd

from frugal.report import words
from frugal.report.controls import outcomes
from frugal.report.holes import not_ok
from frugal.report.inputs import Campaign, Inputs


@dataclass(frozen=True)
class Notice:
    """One sentence or two of the banner. `level`: stop, caution, note or good."""

    level: str
    title: str
    text: str
    link: str = ""


LEVELS = ("stop", "caution", "note", "good")


def notices(inputs: Inputs) -> list[Notice]:
    """The banner, gravest first."""
    here = inputs.here
    if here.runs.empty:
        return [
            Notice(
                "stop",
                "Nothing was measured here.",
                "Type `make figures` in the folder of the project; what stands below is recorded on other machines.",
            )
        ]
    found = [
        *_controls(here),
        *_failures(here),
        *_conditional(here),
        *_sessions(here),
        *_origin(here),
        *_foreign(here),
        *_substitutes(here),
    ]
    if not any(notice.level in ("stop", "caution") for notice in found):
        found.append(
            Notice(
                "good", "No objection.", "Controls passed, every planned session is here, the working tree was clean."
            )
        )
    return sorted(found, key=lambda notice: LEVELS.index(notice.level))


def facts(inputs: Inputs) -> list[tuple[str, str]]:
    """The campaign at a glance: (name, value) pairs; empty where nothing was measured."""
    here = inputs.here
    if here.runs.empty:
        return []
    runs, rows = here.runs, here.measurements
    rows = rows[(rows["system"] != "control") & rows["regime"].notna()]
    timed = timed_runs(here)
    sessions = timed["session"].nunique()
    planned = int(timed["sessions_planned"].max()) if len(timed) else 0
    return [
        ("Machine", words.listing([name.removeprefix("this machine (").removesuffix(")") for name in here.machines])),
        ("Preset", words.listing(sorted(runs["preset"].unique()))),
        ("Sessions", f"{sessions} of {planned}" if len(timed) else "none timed"),
        (
            "Timed",
            f"{words.count(rows['case_id'].nunique(), 'case')}, {words.count(rows['arm'].nunique(), 'implementation')}",
        ),
        ("Machine time", words.duration(runs["wall_s"].sum())),
        ("Finished", words.moment(runs["finished_at"].max())),
        ("Commit", words.listing([sha[:10] for sha in runs["git_sha"].dropna().unique()]) or "not in a git checkout"),
        ("frugal", words.listing(sorted(runs["package_version"].unique()))),
    ]


def timed_runs(campaign: Campaign) -> pd.DataFrame:
    """The runs that timed something: those that need controls and sessions."""
    rows = campaign.measurements
    return campaign.runs[campaign.runs["run_id"].isin(rows.loc[rows["regime"].notna(), "run_id"])]


def _controls(here: Campaign) -> list[Notice]:
    timed = timed_runs(here)
    red = timed[~timed["controls_passed"].astype(bool)]
    if len(red):
        names = sorted(
            {name for text in red["controls_json"] for name, o in outcomes(text).items() if o.colour == "red"}
        )
        return [
            Notice(
                "stop",
                f"Controls were red in {len(red)} of {words.count(len(timed), 'session')}.",
                f"The {'control' if len(names) == 1 else 'controls'} {words.listing(names)} did not come out as "
                f"{'it' if len(names) == 1 else 'they'} must, so the rows of "
                f"{'this session' if len(red) == 1 else 'these sessions'} carry no verdict. Mend the cause and measure "
                "again before reading on.",
                "controls",
            )
        ]
    if len(timed) and not any(outcomes(text) for text in timed["controls_json"]):
        return [
            Notice(
                "caution",
                "These sessions ran no controls.",
                "Nothing shows that the method could tell a planted difference from none here.",
                "controls",
            )
        ]
    return []


def _failures(here: Campaign) -> list[Notice]:
    lost, rows = not_ok(here), here.measurements[here.measurements["system"] != "control"]
    if len(rows) and rows["value"].isna().all():
        return [
            Notice("stop", "No case gave a value.", "Every attempted case ended in another status than ok.", "holes")
        ]
    if lost.empty:
        return []
    return [
        Notice(
            "note",
            f"{words.count(len(lost), 'row')} of {len(rows):,} {'is' if len(lost) == 1 else 'are'} not ok.",
            "They are listed by status and reason.",
            "holes",
        )
    ]


def _conditional(here: Campaign) -> list[Notice]:
    pairs = here.comparisons
    timed = timed_runs(here)
    if timed.empty or (len(pairs) and not pairs["conditional"].all()) or timed["sessions_planned"].max() > 1:
        return []
    return [
        Notice(
            "caution",
            "Conditional: one process measured, so there is no verdict.",
            "The numbers of this machine hold for that process alone; their ranges run from the least to the greatest "
            "round and are no confidence intervals. Quote nothing from them; preset quick gives first verdicts.",
        )
    ]


def _sessions(here: Campaign) -> list[Notice]:
    timed = timed_runs(here)
    found = []
    for (experiment, machine), part in timed.groupby(["experiment", "machine"], sort=True):
        planned, there = int(part["sessions_planned"].max()), part["session"].nunique()
        if there < planned:
            found.append(
                Notice(
                    "caution",
                    f"{there} of {planned} planned sessions of {experiment} are here.",
                    f"{machine}: intervals are wider than planned; run the same command again for the rest.",
                )
            )
    return found


def _origin(here: Campaign) -> list[Notice]:
    found = []
    runs = here.runs
    if runs["git_dirty"].eq(True).any():
        found.append(
            Notice(
                "caution",
                "Dirty tree.",
                "Tracked files differed from the commit that the runs name, so that commit does not tell what ran.",
                "provenance",
            )
        )
    for column, what in (("git_sha", "commits"), ("config_hash", "configurations")):
        if runs[column].nunique() > 1:
            found.append(
                Notice(
                    "note",
                    f"The runs come from {runs[column].nunique()} {what}.",
                    "Rows were kept because what they depend on had not changed.",
                    "provenance",
                )
            )
    return found


def _foreign(here: Campaign) -> list[Notice]:
    busy = here.runs[here.runs["foreign_pids"].fillna(0).astype(float) > 0]
    if busy.empty:
        return []
    return [
        Notice(
            "caution",
            f"Other processes used the device in {words.count(len(busy), 'session')}.",
            "Its times and energies may be theirs too.",
            "provenance",
        )
    ]


def _substitutes(here: Campaign) -> list[Notice]:
    rows = here.measurements.drop_duplicates("case_id")
    drawn = sorted(
        {
            row.network
            for row in rows.itertuples()
            if not words.missing(row.network) and json.loads(row.axes_json).get("weights") == "random"
        }
    )
    if not drawn:
        return []
    return [
        Notice(
            "caution",
            f"Random weights stand in for the trained ones of {words.listing(drawn)}.",
            "They exercise the kernels; their zeros, and speed-ups that come from zeros, are not to be believed.",
            "provenance",
        )
    ]
