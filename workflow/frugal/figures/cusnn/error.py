"""Figure `cusnn_error`: how far outputs are from float64, system by system."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullLocator

from frugal.figures import style
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.cusnn import timed as of_times
from frugal.figures.frames import in_machine_order

TITLE = "Error against float64"
WHAT = {
    "layers": "layers",
    "networks": "whole networks",
    "break_even": "layers at chosen sparsities",
    "ladder": "ladder",
}


def error(measurements: pd.DataFrame) -> Figure:
    """Greatest error of an output relative to the largest one (log scale), a row a system, a mark a case.

    One panel a machine and experiment. Faint marks: each case at its worst session and regime; strong marks: the worst
    case of the system. Frames as frugal.figures.frames.load gives them.
    """
    found = pd.concat([of_times.of(measurements, name) for name in WHAT])
    errors = pd.to_numeric(found["max_rel_err"])
    known = found.assign(error=errors)[errors.notna() & found["status"].isin(["ok", "unstable", "incorrect"])]
    if known.empty:
        empty = "No output has been compared with float64 yet, neither on this machine nor in a recorded campaign."
        return of_layers.nothing(TITLE, found, "cases", empty)
    known = known.assign(arm=known["arm"].map(style.system))
    keys = ["machine", "recorded", "experiment", "arm", "case_id"]
    worst = known.groupby(keys, dropna=False, as_index=False)["error"].max()
    panels = [
        own
        for machine in in_machine_order(worst)
        for name in WHAT
        if len(own := worst[(worst["machine"] == machine) & (worst["experiment"] == name)])
    ]
    notes = _notes(found, worst)
    heights = [0.75 + 0.2 * own["arm"].nunique() for own in panels]
    with style.context():
        figure = Figure(figsize=(style.WIDTH, 0.95 + sum(heights) + style.note_height(notes)), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for axes, own in zip(grid, panels, strict=True):
            _draw(axes, own)
        for axes in grid:
            axes.tick_params(axis="x", labelbottom=True)
        grid[-1].set_xlabel("greatest error, relative to the largest output")
        style.describe(figure, TITLE, ". ".join(_said(own) for own in panels) + ".")
        style.head(figure, TITLE, _legend())
        style.notes(figure, notes)
    return figure


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    looks = style.looks(own["arm"])
    # An error of exactly 0 has no place on a logarithmic axis: it stands at the left edge.
    positive = own.loc[own["error"] > 0, "error"]
    least = float(positive.min()) / 3 if len(positive) else 1e-9
    for place, (arm, look) in enumerate(looks.items()):
        errors = own.loc[own["arm"] == arm, "error"].clip(lower=least)
        axes.scatter(errors, np.full(len(errors), place), s=16, marker=look.marker, color=look.colour, alpha=0.35,
                     linewidth=0, label=arm)  # fmt: skip
        axes.scatter(errors.max(), place, s=44, marker=look.marker, color=look.colour, zorder=3, label=f"{arm} worst")
    axes.set_xscale("log")
    axes.set_yticks(range(len(looks)), [look.label for look in looks.values()])
    axes.set_ylim(len(looks) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(LogLocator(base=10, numticks=8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(LogFormatterSciNotation(base=10))
    style.panel_title(axes, [f"{WHAT[own['experiment'].iloc[0]]} · {own['machine'].iloc[0]}"])


def _legend() -> list[Line2D]:
    faint = style.handle(style.Look("", style.MUTED, "o"), label="a case, at its worst")
    faint.set_alpha(0.4)
    return [faint, style.handle(style.Look("", style.INK, "o"), label="the worst case of the system")]


def _notes(found: pd.DataFrame, worst: pd.DataFrame) -> list[str]:
    lines = [
        "max |y − y64| over max |y64|, y64 in float64 from the same float32 inputs; float16 arms get inputs that were "
        "rounded to float16 already. An output that is off by more than its bound publishes no time (incorrect)."
    ]
    for machine in in_machine_order(found):
        own = found[(found["machine"] == machine) & (found["status"] == "incorrect")]
        if len(own):
            names = ", ".join(sorted(own["arm"].unique()))
            lines.append(f"{machine[0].upper()}{machine[1:]}: incorrect outputs of {names}; they are among the marks.")
    return [*lines, of_layers.nothing_here(worst)]


def _said(own: pd.DataFrame) -> str:
    worst = own.groupby("arm")["error"].max()
    each = ", ".join(f"{look.label} {worst[arm]:.1e}" for arm, look in style.looks(own["arm"]).items())
    return f"{WHAT[own['experiment'].iloc[0]]} on {own['machine'].iloc[0]}: greatest error {each}"
