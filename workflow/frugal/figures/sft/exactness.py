"""Figure `sft_exactness`: how far a step in tiles or strips is from float64, beside the untiled step."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullLocator

from frugal.figures import style, told
from frugal.figures.sft import steps

TITLE = "Error of one training step against float64"
LOOKS = {
    **steps.LOOKS,
    "tiles": style.Look("ours: tiles", "#D55E00", "o"),
    "strips": style.Look("ours: strips", "#5A2D00", "<"),
}


def exactness(measurements: pd.DataFrame) -> Figure:
    """Greatest relative error of output and gradients (x, log), a row a case, a mark an arm; a panel a precision.

    Of the sessions and of a method's windows the worst counts.
    """
    found = steps.of(measurements, "exactness", "error")
    known = found[found["value"].notna() & found["status"].isin(["ok", "incorrect"])]
    if known.empty:
        empty = "No step has been held against float64 yet, neither on this machine nor in a recorded campaign."
        return steps.nothing(TITLE, found, "exactness", empty)
    known = known.assign(case=[_case(row) for _, row in known.iterrows()])
    keys = ["machine", "recorded", "precision", "case", "method"]
    worst = known.groupby(keys, dropna=False, as_index=False, sort=False)["value"].max()
    parts = steps.panels(worst, ("precision",))
    notes = [
        "The greatest of max |a − b| over max |b| among output, gradient of the image and gradients of parameters, "
        "with b from the untiled step in float64.",
        *steps.missing(found, known, "exactness"),
    ]
    heights = [0.75 + 0.2 * own["case"].nunique() for own in parts]
    with style.context():
        size = (style.WIDTH, 0.95 + sum(heights) + style.note_height(notes))
        figure = Figure(figsize=size, layout="constrained")
        panes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, own in zip(panes, parts, strict=True):
            _draw(axes, own)
        panes[-1].set_xlabel("greatest error, relative to the largest element")
        style.describe(figure, TITLE, " ".join(map(_said, parts)))
        style.head(
            figure, TITLE, [style.handle(look) for look in style.looks(worst["method"], LOOKS).values()], columns=3
        )
        style.notes(figure, notes)
    return figure


def _case(row: pd.Series) -> str:
    batch = f" × {row['batch']:.0f}" if row["batch"] != 1 else ""
    norms = {"train": ", norms trained", "frozen": ", norms frozen"}.get(row["norms"], "")
    return f"{told.pretty(row['network'])} {steps.size(row['h'], row['w'])}{batch}{norms}"


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    cases = own["case"].drop_duplicates().tolist()
    # An error of exactly 0 has no place on a logarithmic axis: it stands at the left edge.
    positive = own.loc[own["value"] > 0, "value"]
    least = float(positive.min()) / 3 if len(positive) else 1e-16
    for name, look in style.looks(own["method"], LOOKS).items():
        rows = own[own["method"] == name]
        axes.scatter(rows["value"].clip(lower=least), [cases.index(case) for case in rows["case"]], s=30, alpha=0.85,
                     marker=look.marker, color=look.colour, linewidth=0, zorder=3, label=name)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yticks(range(len(cases)), cases)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.set_xlim(least / 2, max(own["value"].max(), least) * 3)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(LogLocator(base=10, numticks=8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(LogFormatterSciNotation(base=10))
    style.panel_title(axes, [f"{steps.PRECISIONS.get(own['precision'].iloc[0], '')} · {own['machine'].iloc[0]}"])


def _said(own: pd.DataFrame) -> str:
    worst = own.groupby("method")["value"].max()
    each = ", ".join(f"{look.label} {worst[name]:.1e}" for name, look in style.looks(own["method"], LOOKS).items())
    return f"{own['precision'].iloc[0]} on {own['machine'].iloc[0]}: greatest error {each}."
