"""What figures say about their rows: names as papers write them, counts, what is not drawn, and what to type."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure

from frugal.figures import style


def counted(number: int, what: str) -> str:
    """ "1 layer", "2 layers"."""
    return f"{number} {what}" + "s" * (number != 1)


def pretty(network: str) -> str:
    """A network's name as papers write it."""
    for stem, written in (("densenet", "DenseNet-"), ("resnet", "ResNet-"), ("vgg", "VGG-"), ("darknet", "Darknet-")):
        if re.fullmatch(rf"{stem}\d+", network):
            return written + network.removeprefix(stem)
    return network


def not_drawn(cases: pd.DataFrame, drawn: Iterable[str], what: str = "cases") -> str:
    """ "3 of 96 cases not drawn: 2 unsupported, 1 incorrect"; empty when all are drawn.

    `cases`: rows with `case_id` and `status`; a case counts once, under its first status that is not ok, in the
    order of the rows.
    """
    missing = cases[~cases["case_id"].isin(set(drawn))]
    if missing.empty:
        return ""
    why = (
        missing.assign(bad=missing["status"] != "ok")
        .sort_values("bad", ascending=False, kind="stable")
        .drop_duplicates("case_id")["status"]
        .replace("ok", "without a partner")
    )
    counts = ", ".join(f"{count} {status}" for status, count in why.value_counts(sort=True).items())
    return f"{len(why)} of {cases['case_id'].nunique()} {what} not drawn: {counts}"


def reasons(rows: pd.DataFrame, most: int = 4) -> str:
    """The most frequent reasons of rows that are not ok, in words: "cpu_no_graph (5), out of memory (1)"."""
    failed = rows[rows["status"] != "ok"]
    counts = failed["reason"].fillna(failed["status"]).value_counts()
    return ", ".join(f"{reason} ({count})" for reason, count in counts.head(most).items())


def nothing_here(rows: pd.DataFrame, command: str) -> str:
    """A note where only recorded campaigns have rows; else nothing."""
    if rows["recorded"].isna().any():
        return ""
    return f"Nothing is measured on this machine yet; to measure, type: {command}"


def nothing(title: str, rows: pd.DataFrame, what: str, empty: str, command: str) -> Figure:
    """The figure for rows of which none can be drawn: the sentence `empty`, or how many failed and why."""
    if rows.empty:
        return style.message(title, [empty], "To measure, type:", command)
    text = not_drawn(rows, (), what)
    why = reasons(rows)
    return style.message(
        title,
        [f"{text[0].upper()}{text[1:]}.", *([f"Reasons in the records: {why}."] if why else [])],
        "The column `log` of results/measurements.parquet names the log of each case. To try again, type:",
        command,
    )
