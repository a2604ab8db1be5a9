"""Figure `dtr_prototype`: steps under budgets, measured, beside the published prototype's."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from frugal.figures import style
from frugal.figures.dtr import programs
from frugal.figures.frames import over_sessions

TITLE = "Time and memory of a training step under budgets"
PARTS = {
    "time_base": ("operators", "#9DC3E6"),
    "time_remat": ("computed again", "#E69F00"),
    "time_search": ("search", "#D55E00"),
    "time_cost_model": ("cost model", "#4A1A8C"),
    "time_dispatch": ("dispatch", "#5E5E5E"),
}
_PUBLISHED = {"unroll_gan": "unrolled_gan"}
_WIDE, UNLIMITED = 0.05, 1.12  # a bar's width; where `dtr` without a budget stands
OURS, PAPER = "#1A1A1A", "#009E73"


def prototype(measurements: pd.DataFrame, papers: pd.DataFrame) -> Figure:
    """Time over the plain step's (y) over the budget as a share of the unbudgeted peak (x), two panels a program.

    Left: measured times as marks, on bars of what the runtime counts: operators, what it computed again, search, cost
    model, dispatch; hollow: published slowdowns by their share of memory. Right: peak of managed bytes.
    """
    found = programs.of(measurements, ("budgets", "memory"), "time", "peak_managed", *PARTS)
    found = found[found["method"].isin(("plain", "dtr"))]
    joined = over_sessions(found)
    points = _points(joined)
    if points.empty:
        empty = "No step under a budget has been timed yet, neither on this machine nor in a recorded campaign."
        return programs.nothing(TITLE, found, empty)
    parts = programs.panels(points)
    shown = published(papers, points["network"].unique())
    timed = found[(found["metric"] == "time") & (found["method"] == "dtr")]
    notes = [
        "Bars are counted by the runtime in one step of its own, marks are timed steps. At ∞: no budget, all that the "
        "runtime itself costs."
        + (" Hollow: published, Titan V 12 GB, launch-blocking; shown, never judged." if len(shown) else ""),
        *programs.missing(timed, points),
    ]
    with style.context():
        size = (style.WIDTH, 1.3 + 2.2 * len(parts) + style.note_height(notes))
        figure = Figure(figsize=size, layout="constrained")
        panes = figure.subplots(len(parts), 2, squeeze=False, width_ratios=(3, 2))
        for (left, right), own in zip(panes, parts, strict=True):
            _times(left, own, shown[shown["network"] == own["network"].iloc[0]])
            _peaks(right, own)
        for axes in panes[-1]:
            axes.set_xlabel("budget ÷ unbudgeted peak")
        style.describe(figure, TITLE, " ".join(map(_said, parts)))
        style.head(figure, TITLE, _handles(len(shown) > 0), columns=3)
        style.notes(figure, notes)
    return figure


def published(papers: pd.DataFrame, networks: object) -> pd.DataFrame:
    """Published steps that worked, of the runs over budgets: `network`, `memory_ratio`, `slowdown`, `gpu`."""
    own = papers[(papers["variant"] == "dtr") & papers["source"].str.endswith("data-full.json")]
    own = own[own["metric"].isin(("slowdown", "memory_ratio"))].assign(network=own["model"].replace(_PUBLISHED))
    wide = own.pivot_table(index=["network", "hardware", "parameters"], columns="metric", values="value").reset_index()
    return wide[wide["network"].isin(list(networks))].dropna(subset=["slowdown", "memory_ratio"])


def _points(joined: pd.DataFrame) -> pd.DataFrame:
    """A row a program and arm of `dtr`: `at` (its budget), `slower`, parts and peak as shares of the plain step's and
    of the unbudgeted peak (NaN where they were not counted)."""
    keys = ["machine", "program"]
    times = joined[joined["metric"] == "time"]
    plain = times[times["method"] == "plain"].drop_duplicates(keys).set_index(keys)["value"].rename("plain")
    both = times[times["method"] == "dtr"].merge(plain.reset_index(), on=keys)
    counted = joined[(joined["metric"] != "time") & (joined["method"] == "dtr")]
    wide = counted.pivot_table(index=[*keys, "arm"], columns="metric", values="value").reset_index()
    both = both.merge(wide.reindex(columns=[*keys, "arm", "peak_managed", *PARTS]), on=[*keys, "arm"], how="left")
    free = both[both["arm"] == "dtr"].drop_duplicates(keys).set_index(keys)["peak_managed"].rename("free")
    both = both.merge(free.reset_index(), on=keys, how="left")
    both[list(PARTS)] = both[list(PARTS)].fillna(0.0).div(both["plain"], axis=0)
    at = pd.to_numeric(both["budget"]).fillna(UNLIMITED)
    return both.assign(at=at, slower=both["value"] / both["plain"], share=both["peak_managed"] / both["free"])


def _times(axes: Axes, own: pd.DataFrame, shown: pd.DataFrame) -> None:
    own = own.sort_values("at")
    bottom = pd.Series(0.0, index=own.index)
    for name, (label, colour) in PARTS.items():
        axes.bar(own["at"], own[name], bottom=bottom, width=_WIDE, color=colour, linewidth=0, label=label)
        bottom = bottom + own[name]
    axes.plot(own["at"], own["slower"], color=OURS, marker="o", markersize=5, linewidth=0, label="measured", zorder=4)
    axes.axhline(1.0, color=style.MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    axes.plot(shown["memory_ratio"], shown["slowdown"], color=PAPER, marker="D", markersize=5.5, linewidth=0,
              markerfacecolor=style.PAPER, label="published", zorder=3)  # fmt: skip
    axes.set(ylabel="time ÷ plain", ylim=(0, 1.1 * max([*own["slower"], *bottom, *shown["slowdown"], 1.2])))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: style.times(value) if value else "0"))
    _budgets(axes)
    style.panel_title(axes, [line for text in programs.heading(own) for line in style.wrap(text, 44).split("\n")])


def _peaks(axes: Axes, own: pd.DataFrame) -> None:
    within = own[own["at"] < UNLIMITED]
    axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(within["at"], within["share"], color=OURS, marker="o", markersize=5, linewidth=0, label="peak")
    axes.set(ylabel="peak ÷ unbudgeted", ylim=(0, 1.1))
    _budgets(axes, unlimited=False)


def _budgets(axes: Axes, unlimited: bool = True) -> None:
    ticks = [0.2, 0.4, 0.6, 0.8, 1.0]
    axes.set_xlim(0, UNLIMITED + 0.08 if unlimited else 1.05)
    axes.set_xticks([*ticks, *([UNLIMITED] if unlimited else [])], [*map(str, ticks), *(["∞"] if unlimited else [])])


def _handles(with_published: bool) -> list:
    handles = [Patch(facecolor=colour, label=label) for label, colour in PARTS.values()]
    handles.append(Line2D([], [], color=OURS, marker="o", linestyle="none", label="measured"))
    if with_published:
        handles.append(Line2D([], [], color=PAPER, marker="D", linestyle="none", markerfacecolor=style.PAPER,
                              label="published, Titan V 12 GB"))  # fmt: skip
    return handles


def _said(own: pd.DataFrame) -> str:
    each = ", ".join(
        f"{'no budget' if row.at == UNLIMITED else f'budget {row.at:g}'} {row.slower:.2f}"
        for row in own.sort_values("at", ascending=False).itertuples()
    )
    return f"{' · '.join(programs.heading(own))}: time over plain: {each}."
