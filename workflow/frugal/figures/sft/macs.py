"""Figure `sft_macs`: multiply-adds of a step of tiled schedules over an untiled one's, by the number of tiles."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from frugal.figures import style
from frugal.figures.sft import steps

TITLE = "Multiply-adds of a training step over an untiled step's"
PANEL = ("network", "width_divisor", "norms", "batch", "input", "h", "w")
_BY_TILES = ("sft_artifact", "tiled_1seg")


def macs(measurements: pd.DataFrame) -> Figure:
    """Ratio of multiply-adds (log) over the n of n × n tiles: the paper's schedule and one segment with a single halo.

    What does not depend on n is a level: strips, and plans, each with the budget that it was made for. A panel a
    network and size; counted or in closed form, so every machine gives the same.
    """
    found = steps.of(measurements, "macs", "macs_ratio")
    drawn = found[(found["status"] == "ok") & (found["value"] > 0)].drop_duplicates(["case_id", "arm"])
    drawn = drawn.assign(tiles=[steps.setting(arm, "tiles") for arm in drawn["arm"]])
    if drawn.empty:
        empty = "No multiply-adds have been counted yet, neither on this machine nor in a recorded campaign."
        return steps.nothing(TITLE, found, "macs", empty)
    own = drawn.assign(machine="every machine", recorded=None)
    parts = steps.panels(own, PANEL)
    notes = [
        "Forward, recomputed, and gradients of data and weights; 1 is the untiled step, which recomputes nothing. What "
        "does not depend on n is a level: strips recompute the forward pass once and nothing else; a plan does the "
        "least that its budget, written at its level, allows; plans may use main memory besides.",
        *steps.missing(found, found[found["status"] == "ok"], "macs"),
    ]
    with style.context():
        figure, panes = steps.grid(parts, 2.3, notes, columns=2)
        for place, (axes, part) in enumerate(zip(panes, parts, strict=True)):
            _draw(axes, part)
            if place % 2 == 0:
                axes.set_ylabel("÷ untiled")
        for axes in panes[-2:]:
            axes.set_xlabel("n of n × n tiles")
        style.describe(figure, TITLE, " ".join(map(_said, parts)))
        style.head(figure, TITLE, _legend(drawn), columns=3)
        style.notes(figure, notes)
    return figure


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    axes.set(xscale="log", yscale="log")
    tiles = sorted(set(own["tiles"].dropna()))
    ends = (min(tiles, default=1.0) / 1.2, max(tiles, default=32.0) * 1.2)
    looks = style.looks(set(own["method"]) - {"vanilla"}, steps.LOOKS)
    for name, look in looks.items():
        line = own[own["method"] == name].sort_values("tiles")
        if name in _BY_TILES:
            axes.plot(line["tiles"], line["value"], color=look.colour, marker=look.marker, markersize=5, linewidth=1.2,
                      label=name)  # fmt: skip
            continue
        for value in line["value"]:
            axes.plot(ends, (value, value), color=look.colour, linewidth=1.2, label=name)
    axes.axhline(1.0, color=style.INK, linewidth=0.8)
    top = max(own["value"]) * 1.3
    axes.set(xlim=ends, ylim=(0.9, max(top, 2.0)))
    _budgets(axes, own[own["method"] == "planned"], ends[1])
    axes.xaxis.set_major_locator(FixedLocator([n for n in (1, 2, 4, 8, 16, 32) if ends[0] <= n <= ends[1]]))
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    for side in (axes.xaxis, axes.yaxis):
        side.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(style.times))
    style.panel_title(axes, [f"{steps.network(own.iloc[0])}, {steps.size(own['h'].iloc[0], own['w'].iloc[0])}"])


def _budgets(axes: Axes, planned: pd.DataFrame, right: float) -> None:
    """The budgets of plans right of the panel, at their levels; those too near to be written apart share a line."""
    low, high = axes.get_ylim()
    near = (high / low) ** 0.075
    groups: list[tuple[float, list[str]]] = []
    for row in planned.sort_values("value").itertuples():
        words = f"{steps.mebibytes(steps.setting(row.arm, 'budget_mib'))} {row.value:.2f}"
        if groups and row.value / groups[-1][0] < near:
            groups[-1] = (groups[-1][0], [*groups[-1][1], words])
        else:
            groups.append((row.value, [words]))
    for level, words in groups:
        axes.annotate("\n".join(reversed(words)), (right, level), xytext=(3, 0), textcoords="offset points", va="bottom"
                      if len(words) > 1 else "center", ha="left", fontsize=style.NOTE_SIZE, annotation_clip=False,
                      color=steps.LOOKS["planned"].colour)  # fmt: skip


def _legend(drawn: pd.DataFrame) -> list[Line2D]:
    looks = style.looks(set(drawn["method"]) - {"vanilla"}, steps.LOOKS)
    return [
        style.handle(look) if name in _BY_TILES else Line2D([], [], color=look.colour, label=look.label)
        for name, look in looks.items()
    ]


def _said(own: pd.DataFrame) -> str:
    each = ", ".join(
        f"{steps.in_words(row.arm)} {row.value:.2f}" for row in own.itertuples() if row.method != "vanilla"
    )
    return f"{steps.network(own.iloc[0])}, {steps.size(own['h'].iloc[0], own['w'].iloc[0])}: {each}."
