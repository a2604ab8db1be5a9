"""Figure `sft_time_vs_size`: time of one training step by the image's size, and which methods run out of memory."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from frugal.figures import style
from frugal.figures.sft import published, steps

TITLE = "Time of one training step by the size of the image"
PANEL = ("network", "width_divisor", "norms", "batch", "input", "precision")
_BAND = 0.24  # of a panel's height: where methods stand that ran out of memory


def time_vs_size(measurements: pd.DataFrame, papers: pd.DataFrame) -> Figure:
    """Seconds of a step (log) over the height of square images, a line a method, a panel a network and precision.

    Of a method's settings and layouts the fastest is drawn, geometric means over sessions, regime wall. In the band on
    top: sizes at which none of a method's settings fitted. Hollow: published values of the same network and precision.
    Frames as frugal.figures.frames.load gives them, and those of published.load("sft").
    """
    found = steps.of(measurements, "sizes", "time")
    square = found[found["h"] == found["w"]]
    drawn = steps.fastest(square, ("machine", *PANEL, "h", "method"))
    probed = steps.of(measurements, "memory", "peak_live", "peak_allocated", "time_forward")
    out = _out_of_memory(pd.concat([square, probed[probed["h"] == probed["w"]]]), drawn)
    if drawn.empty:
        empty = "No training step has been timed yet, neither on this machine nor in a recorded campaign."
        return steps.nothing(TITLE, found, "sizes", empty)
    parts = steps.panels(drawn, PANEL)
    notes = [
        "A step: forward, backward and optimiser. Of a method's settings and memory layouts the fastest at each size.",
        *_of_papers(parts, papers),
        *steps.missing(found, square[square["status"].isin(["ok", "oom"])], "sizes"),
    ]
    with style.context():
        figure, panes = steps.grid(parts, 2.9, notes)
        lines = set()
        for axes, own in zip(panes, parts, strict=True):
            own_out = out.merge(own[["machine", *PANEL]].drop_duplicates(), on=["machine", *PANEL])
            lines |= _draw(axes, own, own_out, papers)
        panes[-1].set_xlabel("height and width of the image, pixels")
        style.describe(figure, TITLE, " ".join(map(_said, parts)))
        style.head(figure, TITLE, _legend(drawn, out, lines), columns=3)
        style.notes(figure, notes)
    return figure


def _out_of_memory(rows: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """One row a panel, size and method that has no time and ran out of memory in at least one setting."""
    keys = ["machine", *PANEL, "h", "method"]
    failed = rows[rows["status"] == "oom"][[*keys, "recorded"]].drop_duplicates(keys)
    joined = failed.merge(drawn[keys], on=keys, how="left", indicator=True)
    return joined[joined["_merge"] == "left_only"].drop(columns="_merge")


def _draw(axes: Axes, own: pd.DataFrame, out: pd.DataFrame, papers: pd.DataFrame) -> set[str]:
    looks = style.looks({*own["method"], *out["method"]}, steps.LOOKS)
    hollow = published.times(papers, own.iloc[0])
    values = [*own["value"], *hollow["value"]]
    sizes = [*own["h"], *out["h"], *hollow["h"]]
    low, high = min(values) / 1.5, max(values) * 1.5
    axes.set_yscale("log")
    axes.set_ylim(low, high * (high / low) ** (_BAND / (1 - _BAND)) if len(out) else high)
    for name, look in looks.items():
        line = own[own["method"] == name].sort_values("h")
        axes.plot(line["h"], line["value"], color=look.colour, marker=look.marker, markersize=6, linewidth=1.2,
                  label=name)  # fmt: skip
    for (hardware, variant), line in hollow.groupby(["hardware", "variant"], sort=True):
        look = steps.LOOKS[variant]
        line = line.sort_values("h")
        axes.plot(line["h"], line["value"], color=look.colour, marker=look.marker, markersize=6, linewidth=0.8,
                  markerfacecolor=style.PAPER, linestyle=published.DASHES[hardware],
                  label=f"{variant} {hardware}")  # fmt: skip
    if len(out):
        _band(axes, out, style.looks(out["method"], steps.LOOKS))
    steps.size_axis(axes, sizes)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1,) if high / low > 1e3 else (1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: style.seconds(value) if value <= high else ""))
    axes.set_ylabel("time of a step")
    style.panel_title(axes, steps.heading(own, own["precision"].iloc[0]))
    return set(hollow["hardware"])


def _band(axes: Axes, out: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    above = axes.get_xaxis_transform()
    axes.add_patch(
        Rectangle((0, 1 - _BAND), 1, _BAND, transform=axes.transAxes, color="#F3E9E9", linewidth=0, zorder=0)
    )
    axes.text(0.01, 0.985, "out of memory", transform=axes.transAxes, va="top", color=style.MUTED,
              fontsize=style.NOTE_SIZE)  # fmt: skip
    for place, (name, look) in enumerate(looks.items()):
        at = out.loc[out["method"] == name, "h"].tolist()
        level = 1 - _BAND * (place + 1.3) / (len(looks) + 1.3)
        axes.plot(at, [level] * len(at), transform=above, linestyle="none", marker=look.marker, color=look.colour,
                  markersize=5, label=f"{name} out of memory", clip_on=False)  # fmt: skip


def _legend(drawn: pd.DataFrame, out: pd.DataFrame, papers: set[str]) -> list[Line2D]:
    marks = [style.handle(look) for look in style.looks({*drawn["method"], *out["method"]}, steps.LOOKS).values()]
    return [*marks, *(published.line(hardware) for hardware in sorted(papers))]


def _of_papers(parts: list[pd.DataFrame], papers: pd.DataFrame) -> list[str]:
    if not any(len(published.times(papers, own.iloc[0])) for own in parts):
        return []
    return [published.CAVEAT]


def _said(own: pd.DataFrame) -> str:
    each = []
    for name, look in style.looks(own["method"], steps.LOOKS).items():
        line = own[own["method"] == name].sort_values("h")
        times = ", ".join(f"{row.h:.0f}: {style.seconds(row.value)}" for row in line.itertuples())
        each.append(f"{look.label} {times}")
    return f"{' · '.join(steps.heading(own, own['precision'].iloc[0]))}: {'; '.join(each)}."
