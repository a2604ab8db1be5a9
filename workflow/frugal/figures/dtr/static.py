"""Figure `dtr_static`: what deciding on line costs beside plans made beforehand on the same graph."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from frugal.figures import style
from frugal.figures.dtr import programs
from frugal.figures.frames import usable
from frugal.figures.style import Look

TITLE = "On line and planned beforehand, on one graph"
LOOKS = {name: programs.HEURISTICS[name] for name in ("h_dtr", "h_dtr_eq", "h_lru")} | {
    "chen_sqrt": Look("Chen √n", "#56B4E9", "^"),
    "chen_sqrt_linear": Look("Chen √n, linearised", "#0072B2", "s"),
    "chen_greedy": Look("Chen greedy", "#4A1A8C", "h"),
    "chen_greedy_linear": Look("Chen greedy, linearised", "#CC79A7", "P"),
    "revolve": Look("Revolve", "#000000", "*"),
    "milp": Look("MILP's best", "#5E5E5E", "d"),
    "lp_rounding": Look("LP, rounded", "#785A3C", "X"),
}
BOUND = "lp_bound"
_SHADE = "#DDE8F0"


def static(measurements: pd.DataFrame) -> Figure:
    """Overhead (y) over the budget as a share of the plain peak (x), a line a planner or heuristic, a panel a graph.

    Shaded: from the linear program's lower bound to the least overhead found; the optimum lies there.
    """
    found = programs.once(programs.of(measurements, "static", "overhead"))
    found = found.assign(ratio=[axes.get("ratio") for axes in found["axes"]])
    drawn = usable(found)
    if drawn[drawn["method"] != BOUND].empty:
        empty = "No graph has been planned yet, neither on this machine nor in a recorded campaign."
        return programs.nothing(TITLE, found, empty)
    notes = [
        "Views are one with what they are views of; sizes and costs are the log's. The MILP's best is the optimum only "
        "where its solver says so in the time it has; else the optimum lies between the bound and the best.",
        *programs.missing(found, drawn),
    ]
    looks = style.looks(drawn.loc[drawn["method"] != BOUND, "method"], LOOKS)
    shade = Patch(facecolor=_SHADE, label="the optimum lies here")
    return programs.compose(
        TITLE, programs.panels(drawn), _draw, handles=[*programs.line_handles(looks), shade], said=_said, notes=notes,
        xlabel="budget ÷ peak without recomputation", height=2.3, legend=3,
    )  # fmt: skip


def between(own: pd.DataFrame) -> pd.DataFrame:
    """By ratio: the lower bound (`low`) and the least overhead that a schedule has (`best`)."""
    low = own[own["method"] == BOUND].groupby("ratio")["value"].max().rename("low")
    best = own[own["method"] != BOUND].groupby("ratio")["value"].min().rename("best")
    return pd.concat([low, best], axis=1).dropna().sort_index()


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    band = between(own)
    axes.fill_between(band.index, band["low"], band["best"], color=_SHADE, linewidth=0, label="optimum", zorder=0.5)
    axes.plot(band.index, band["low"], color="#8FA8BA", linewidth=0.9, label=BOUND)
    for name, look in style.looks(own.loc[own["method"] != BOUND, "method"], LOOKS).items():
        line = own[own["method"] == name].sort_values("ratio")
        axes.plot(line["ratio"], line["value"], color=look.colour, marker=look.marker, markersize=5, linewidth=1.1,
                  label=name)  # fmt: skip
    axes.set(xlim=(0.2, 1.02), ylim=(0.97, max(2.0, min(3.0, 1.05 * own["value"].max()))), ylabel="overhead")
    axes.yaxis.set_major_formatter(FuncFormatter(programs.times))
    style.panel_title(axes, programs.heading(own) if own["origin"].iloc[0] != "made" else [_chain(own)])


def _chain(own: pd.DataFrame) -> str:
    return f"a chain of {own['axes'].iloc[0]['layers']} layers"


def _said(own: pd.DataFrame) -> str:
    tight = own[own["ratio"] == own["ratio"].min()].sort_values("value")
    each = ", ".join(f"{row.method} {row.value:.3f}" for row in tight.itertuples())
    return f"{' · '.join(programs.heading(own))}: overhead at {own['ratio'].min():g} of the peak: {each}."
