"""Figure `dtr_chain`: what is computed again on a chain of layers under budgets of order √n and log n."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from frugal.figures import style
from frugal.figures.dtr import programs
from frugal.figures.frames import usable
from frugal.figures.style import Look

TITLE = "Layers computed again on a chain, for each layer"
BOUNDS = {"2sqrt": "2√n values", "sqrt": "√n values", "log2": "log₂ n values"}
LOOKS = {name: programs.HEURISTICS[name] for name in ("h_dtr", "h_dtr_eq", "h_local", "h_lru", "h_size")} | {
    "chen_sqrt": Look("Chen √n", "#56B4E9", "^"),
    "chen_greedy": Look("Chen greedy", "#4A1A8C", "h"),
    "revolve": Look("Revolve", "#000000", "*"),
    "milp": Look("optimum", "#5E5E5E", "d"),
}
_SLOPE_FROM = 64  # layers; shorter chains have few values and much rounding


def chain(measurements: pd.DataFrame) -> Figure:
    """Remats for each layer (y, log) over the layers n (x, log2), a panel a budget; below, programs of an adversary.

    The adversary's panel has remats for each operator over N ÷ B. h_dtr's slope is fitted on logarithms.
    """
    found = programs.once(programs.of(measurements, ("chain", "adversary"), "remats_per_layer"))
    found = found.assign(
        bound=[axes.get("bound") for axes in found["axes"]], layers=[axes.get("layers", 0) for axes in found["axes"]]
    )
    drawn = usable(found)
    if drawn.empty:
        empty = "No chain has been simulated yet, neither on this machine nor in a recorded campaign."
        return programs.nothing(TITLE, found, empty)
    chains = drawn[drawn["experiment"] == "chain"]
    parts = [part for name in BOUNDS if len(part := chains[chains["bound"] == name])]
    opposed = drawn[drawn["experiment"] == "adversary"]
    if len(opposed):
        parts.append(opposed.assign(layers=opposed["layers"] / pd.to_numeric(opposed["bound"])))
    notes = [
        "Every layer and value costs 1; a run that needs more than 100 remats a layer is ended. The adversary, who "
        "watches a heuristic, asks for what it has just evicted; the best order of the same program repeats nothing.",
        *programs.missing(found, drawn),
    ]
    looks = style.looks(drawn["method"], LOOKS)
    return programs.compose(
        TITLE, parts, _draw, handles=programs.line_handles(looks), said=_said, notes=notes,
        xlabel="layers n; against the adversary operators ÷ budget", height=2.0, legend=4,
    )  # fmt: skip


def slope(line: pd.DataFrame) -> float:
    """Of log remats (all of them, not for each layer) over log n, fitted from 64 layers on; NaN for fewer than two."""
    long = line[line["layers"] >= _SLOPE_FROM]
    if long["layers"].nunique() < 2:
        return float("nan")
    return float(np.polyfit(np.log(long["layers"]), np.log(long["value"] * long["layers"]), 1)[0])


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    for name, look in style.looks(own["method"], LOOKS).items():
        line = own[own["method"] == name].sort_values("layers")
        axes.plot(line["layers"], line["value"], color=look.colour, marker=look.marker, markersize=5, linewidth=1.1,
                  label=name)  # fmt: skip
    ticks = sorted(own["layers"].unique())
    axes.set(xscale="log", yscale="log", ylabel="remats ÷ n")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(programs.times))
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    style.panel_title(axes, [_title(own)])


def _title(own: pd.DataFrame) -> str:
    if own["experiment"].iloc[0] == "adversary":
        return "An adversary against each heuristic"
    fitted = slope(own[own["method"] == "h_dtr"])
    grows = f" · h_dtr's remats grow as n^{fitted:.2f}" if np.isfinite(fitted) else ""
    return f"A budget of {BOUNDS[own['bound'].iloc[0]]}{grows}"


def _said(own: pd.DataFrame) -> str:
    longest = own[own["layers"] == own["layers"].max()]
    each = ", ".join(
        f"{LOOKS.get(row.method, Look(row.method, '', '')).label} {row.value:.2f}" for row in longest.itertuples()
    )
    return f"{_title(own)}: at {own['layers'].max():g}, remats for each layer {each}."
