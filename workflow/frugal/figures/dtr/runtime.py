"""Figure `dtr_overhead`: what the runtime itself takes, an operator and in search."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from frugal.figures import style
from frugal.figures.dtr import programs
from frugal.figures.frames import over_sessions

TITLE = "What the runtime itself takes"
OURS = "#D55E00"
HALF = 0.5  # the budget at which search is shown


def overhead(measurements: pd.DataFrame) -> Figure:
    """Above, time that the runtime adds to an operator, a bar a class; below, search's share at half the peak.

    Operators work on 8 elements, forward and backward, without a budget. A pair of panels a machine.
    """
    found = programs.of(measurements, ("operators", "memory"), "time", "time_search", "time_base", "time_remat",
                        "time_cost_model", "time_dispatch")  # fmt: skip
    found = found[(found["experiment"] == "operators") | (found["arm"] == f"dtr@budget={HALF:g}")]
    parts = [part for of in (_added, _searched) for part in programs.panels(of(found), ("what",))]
    if not parts:
        empty = "The runtime has not been timed by operators yet, neither on this machine nor in a recorded campaign."
        return programs.nothing(TITLE, found, empty)
    drawn = pd.concat(parts)
    notes = [
        "Added: time of the step under DTR less the plain step's, over the operators dispatched. Search: of what the "
        "runtime counts in a step, operators included.",
        *programs.missing(found[found["arm"] != "plain"], drawn),
    ]
    heights = [0.8 + 0.22 * len(own) for own in parts]
    with style.context():
        size = (style.WIDTH, 0.8 + sum(heights) + style.note_height(notes))
        figure = Figure(figsize=size, layout="constrained")
        panes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, own in zip(panes, parts, strict=True):
            _draw(axes, own)
        style.describe(figure, TITLE, " ".join(map(_said, parts)))
        style.head(figure, TITLE, [])
        style.notes(figure, notes)
    return figure


def _added(found: pd.DataFrame) -> pd.DataFrame:
    """A row a class of operators: `bar`, seconds that DTR adds to each."""
    times = over_sessions(found[found["experiment"] == "operators"])
    plain = times[times["arm"] == "plain"].set_index(["machine", "case_id"])["value"].rename("plain")
    both = times[times["arm"] == "dtr"].merge(plain.reset_index(), on=["machine", "case_id"])
    ops = pd.Series([axes.get("ops", 1) for axes in both["axes"]], index=both.index, dtype=float)
    names = [str(axes.get("class", "")).replace("_", " ") for axes in both["axes"]]
    return both.assign(what="added", bar=(both["value"] - both["plain"]) / ops, name=names)


def _searched(found: pd.DataFrame) -> pd.DataFrame:
    """A row a program: `bar`, the share of search in what the runtime counts of a step."""
    own = found[found["experiment"] == "memory"]
    own = own[(own["status"] == "ok") & own["metric"].str.startswith("time_")]
    keys = ["machine", "case_id", "arm"]
    whole = own.groupby(keys)["value"].sum().rename("whole").reset_index()
    both = own[own["metric"] == "time_search"].drop_duplicates(keys).merge(whole, on=keys)
    both = both[both["whole"] > 0]
    names = [programs.network(name) for name in both["network"]]
    return both.assign(what="search", bar=both["value"] / both["whole"], name=names)


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    added = own["what"].iloc[0] == "added"
    axes.barh(range(len(own)), own["bar"], height=0.68, color=OURS, linewidth=0, label=own["what"].iloc[0])
    for place, value in enumerate(own["bar"]):
        axes.text(max(value, 0.0), place, f" {_value(value, added)}", va="center", fontsize=style.NOTE_SIZE)
    axes.set_yticks(range(len(own)), own["name"])
    axes.set(xlim=(min(0.0, own["bar"].min()), 1.2 * max(own["bar"].max(), 1e-9)), ylim=(len(own) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: style.seconds(value) if value > 0 else "0") if added else PercentFormatter(1.0)
    )
    axes.locator_params(axis="x", nbins=5)
    said = "added to an operator, no budget" if added else "search in a step at half of the unbudgeted peak"
    style.panel_title(axes, [said, own["machine"].iloc[0]])


def _value(value: float, added: bool) -> str:
    if not added:
        return f"{value:.2%}"
    return style.seconds(value) if value > 0 else f"{1e6 * value:.3g} µs"


def _said(own: pd.DataFrame) -> str:
    added = own["what"].iloc[0] == "added"
    each = ", ".join(f"{row.name} {_value(row.bar, added)}" for row in own[["name", "bar"]].itertuples(index=False))
    what = "added to an operator" if added else "share of search at half the peak"
    return f"{own['machine'].iloc[0]}, {what}: {each}."
