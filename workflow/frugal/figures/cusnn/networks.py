"""What the figures of whole networks share: their rows, and bars by system with a column a batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from frugal.figures import style, told
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.cusnn import timed as of_times
from frugal.figures.frames import in_machine_order

COMMAND = of_layers.command("networks")
COLUMNS = 4  # batch sizes side by side; more go on below
_ROOM = 1.65  # of the longest measured bar: what is right of it is room for its number


@dataclass(frozen=True)
class Bar:
    """One system's value, and beside it a lighter bar behind it (`behind`) and a mark (`tick`), in the same unit."""

    value: float
    behind: float | None = None
    tick: float | None = None
    published: bool = False


@dataclass(frozen=True)
class Strip:
    """One machine and network: the systems on its left (label, colour), and a column of bars for each batch size."""

    heading: Sequence[str]
    systems: Sequence[tuple[str, str]]
    columns: dict[str, Sequence[Bar | None]] = field(default_factory=dict)


def rows(measurements: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of whole networks for a metric, of frugal.figures.cusnn.timed.of."""
    found = of_times.of(measurements, "networks", metric)
    return found.assign(network=found["network"].fillna("any network"))


def heading(own: pd.DataFrame, *more: str) -> list[str]:
    """Network, origin of its weights and machine, for a strip's title."""
    first = own.iloc[0]
    random = " · random weights" if of_layers.is_random(first["weights"]) else ""
    return [" · ".join([told.pretty(first["network"]) + random, *more]), first["machine"]]


def published(papers: pd.DataFrame, metric: str, network: str, batch: int) -> list[tuple[str, float]]:
    """("V100: cuSNN", value) of each published value of a network and batch."""
    found = papers[(papers["metric"] == metric) & (papers["model"] == network) & (papers["B"] == batch)]
    return [(f"{row.hardware}: {row.variant}", float(row.value)) for row in found.itertuples()]


def bars(
    title: str,
    strips: Sequence[Strip],
    axis_label: str,
    write: Callable[[Bar], str],
    legend: Sequence[Line2D | Patch],
    notes: Sequence[str],
    description: str,
) -> Figure:
    """The figure: a row of panels a strip, horizontal bars from 0, each with its number (`write`)."""
    parts = [
        (strip, names[start : start + COLUMNS])
        for strip in strips
        for names in [list(strip.columns)]
        for start in range(0, len(names), COLUMNS)
    ]
    heights = [0.95 + 0.185 * len(strip.systems) for strip, _ in parts]
    with style.context():
        figure = Figure(figsize=(style.WIDTH, 0.95 + sum(heights) + style.note_height(notes)), layout="constrained")
        folders = figure.subfigures(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, (strip, names) in zip(folders, parts, strict=True):
            grid = part.subplots(1, len(names), squeeze=False, sharey=True)[0]
            for axes, name in zip(grid, names, strict=True):
                _draw(axes, strip, name, axis_label, write)
            part.suptitle("\n".join(style.wrap(line, 84) for line in strip.heading), x=0.01, ha="left", fontsize=9.5)
        style.describe(figure, title, description)
        style.head(figure, title, legend, columns=3)
        style.notes(figure, notes)
    return figure


def number(value: float) -> str:
    """Three digits, and none after the point from 100 on: 0.912, 15.8, 1240."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def missing(found: pd.DataFrame, drawn: pd.DataFrame) -> list[str]:
    """Notes on what is not drawn, by machine, with the reasons of the records; and what to type."""
    lines = []
    for machine in in_machine_order(found):
        own = found[found["machine"] == machine]
        marks = own.assign(case_id=own["case_id"] + "/" + own["arm"].map(style.system))
        here = drawn[drawn["machine"] == machine]
        text = told.not_drawn(marks, here["case_id"] + "/" + here["arm"], "pairs of network and system")
        why = told.reasons(own)
        because = f" (reasons in the records: {why})" if why else ""
        lines.append(f"{machine[0].upper()}{machine[1:]}: {text}{because}." if text else "")
    return [*lines, of_layers.nothing_here(found, COMMAND)]


def _draw(axes: Axes, strip: Strip, name: str, axis_label: str, write: Callable[[Bar], str]) -> None:
    column = strip.columns[name]
    measured = [max(bar.value, bar.behind or 0) for bar in column if bar is not None and not bar.published]
    limit = _ROOM * max(measured, default=1.0)
    for place, ((_, colour), bar) in enumerate(zip(strip.systems, column, strict=True)):
        if bar is None:
            axes.text(0, place, " –", va="center", color=style.MUTED, fontsize=style.NOTE_SIZE)
            continue
        longest = max(bar.value, bar.behind or 0)
        if bar.behind is not None:
            axes.barh(place, bar.behind, height=0.68, color=colour, alpha=0.35, linewidth=0)
        face = {"facecolor": style.PAPER, "edgecolor": colour, "linewidth": 1.0} if bar.published else {"color": colour}
        axes.barh(place, min(bar.value, limit), height=0.68, **face)
        at = longest
        if bar.tick is not None and bar.tick <= limit:
            axes.plot(bar.tick, place, marker="|", markersize=9, color=style.INK, markeredgewidth=1.4)
            # A tick just right of the bar would cross the number, which then stands right of it.
            at = bar.tick if longest < bar.tick < longest + 0.3 * limit else longest
        beyond = longest > limit / 1.3
        axes.text(
            limit * 0.99 if beyond else at, place, f" {write(bar)}", va="center", fontsize=style.NOTE_SIZE,
            ha="right" if beyond else "left", zorder=5,
            bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.8} if beyond else None,
        )  # fmt: skip
    axes.set_yticks(range(len(strip.systems)), [label for label, _ in strip.systems])
    axes.set(xlim=(0, limit), ylim=(len(strip.systems) - 0.4, -0.6), xlabel=axis_label)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.set_title(name, loc="left")
