"""Figure `method_noise`: how far medians of one implementation scatter inside a process, and between processes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from frugal.figures import style
from frugal.figures.frames import axis, in_machine_order
from frugal.figures.method.equal import COMMAND, nothing_here

TITLE = "Noise inside a process and between processes"
INSIDE, BETWEEN = "between blocks of a process", "between processes"
_MARKS = {INSIDE: ("#56B4E9", "o"), BETWEEN: ("#D55E00", "D")}


def noise(measurements: pd.DataFrame, blocks: pd.DataFrame) -> Figure:
    """Standard deviations in per cent, a row an operation and regime, one panel a machine.

    `blocks` has one row a block: run_id, case_id, arm, regime, l2, metric, round and value (its median), as
    frugal.figures.frames.load gives them with `blocks_of`.
    """
    table = scatter(measurements, blocks)
    if not len(table):
        return style.message(
            TITLE,
            ["No noise has been measured yet, neither on this machine nor in a recorded campaign."],
            "To measure it (half an hour on a GPU), type:",
            COMMAND,
        )
    machines = in_machine_order(table)
    notes = [
        "Standard deviation of ln(time): of the medians of the blocks inside a process, pooled over processes; and of "
        "the processes' means. Where processes scatter more than blocks, only more processes make an interval honest.",
        *nothing_here(table),
    ]
    heights = [len(table[table["machine"] == machine]) * 0.2 + 0.75 for machine in machines]
    with style.context():
        figure = Figure(figsize=(style.WIDTH, 0.9 + sum(heights) + style.note_height(notes)), layout="constrained")
        grid = figure.subplots(len(machines), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for axes, machine in zip(grid, machines, strict=True):
            own = table[table["machine"] == machine].reset_index(drop=True)
            for name, (colour, marker) in _MARKS.items():
                shown = own[own[name] > 0]
                sns.scatterplot(x=100 * shown[name], y=shown.index, color=colour, marker=marker, s=30, ax=axes,
                                legend=False, zorder=3)  # fmt: skip
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_yticks(own.index, own["label"])
            axes.invert_yaxis()
            axes.set(xlabel="standard deviation, %", ylabel="")
            sessions = own["sessions"].max()
            style.panel_title(axes, [f"{machine} · {sessions} process{'es' if sessions != 1 else ''}"])
        style.describe(figure, TITLE, " ".join(map(_said, table.itertuples(index=False))))
        legend = [
            Line2D([], [], linestyle="none", marker=marker, color=colour, label=name)
            for name, (colour, marker) in _MARKS.items()
        ]
        style.head(figure, TITLE, legend)
        style.notes(figure, notes)
    return figure


def scatter(measurements: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    """One row a machine, operation and regime: `label`, `seconds` (geometric mean), `sessions`, and the two deviations.

    The deviation between processes is that of the means of ln block medians, NaN with one process.
    """
    rows = measurements[
        (measurements["system"] == "method")
        & (measurements["experiment"] == "noise")
        & (measurements["metric"] == "time")
        & measurements["value"].notna()
    ]
    rows = rows.assign(op=axis(rows, "op"), l2=rows["l2"].fillna(""))
    joined = blocks.assign(l2=blocks["l2"].fillna("")).merge(
        rows[["run_id", "case_id", "arm", "regime", "l2", "metric", "op", "machine", "recorded"]],
        on=["run_id", "case_id", "arm", "regime", "l2", "metric"],
    )
    found = []
    for (machine, op, regime), own in joined.groupby(["machine", "op", "regime"], sort=False):
        logs = own.assign(log=np.log(own["value"].astype(float))).groupby("run_id")["log"]
        freedom = int((logs.size() - 1).sum())
        within = float((logs.var(ddof=1).fillna(0) * (logs.size() - 1)).sum())
        means = logs.mean()
        found.append(
            {
                "machine": machine,
                "recorded": own["recorded"].iloc[0],
                "label": f"{op} · {regime}",
                "seconds": math.exp(means.mean()),
                "sessions": len(means),
                INSIDE: math.sqrt(within / freedom) if freedom else float("nan"),
                BETWEEN: float(means.std(ddof=1)) if len(means) > 1 else float("nan"),
            }
        )
    columns = ["machine", "recorded", "label", "seconds", "sessions", INSIDE, BETWEEN]
    return pd.DataFrame(found, columns=columns).sort_values(["machine", "label"], ignore_index=True)


def _said(row: tuple) -> str:
    machine, _, label, seconds, _, inside, between = row
    parts = [f"{name} {100 * value:.2g} %" for name, value in ((INSIDE, inside), (BETWEEN, between)) if value == value]
    return f"{machine}: {label}, {style.seconds(seconds)}: {', '.join(parts)}."
