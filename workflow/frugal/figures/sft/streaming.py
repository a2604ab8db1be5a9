"""Figure `sft_streaming`: what copying the image from main memory adds to a step."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from frugal.figures import style
from frugal.figures.frames import axis, over_sessions
from frugal.figures.sft import steps

TITLE = "A step on an image that stays in main memory"
PANEL = ("network", "width_divisor", "norms", "batch", "precision", "channels_last", "h", "w")
COMPUTE, EXPOSED = "#0072B2", "#D55E00"


def streaming(measurements: pd.DataFrame) -> Figure:
    """Seconds of a step as bars in two parts: the same plan on an image on the device, and what is longer (exposed).

    A row a kind of pixels and number of windows fetched ahead. Geometric means over sessions; a panel a case.
    """
    found = steps.of(measurements, "streaming", "time")
    drawn = _split(over_sessions(found.assign(pixels=axis(found, "pixels"))))
    if drawn.empty:
        empty = "No streamed image has been timed yet, neither on this machine nor in a recorded campaign."
        return steps.nothing(TITLE, found, "streaming", empty)
    parts = steps.panels(drawn, PANEL)
    copying = found[~found["arm"].str.contains("image=device")]
    notes = [
        "The image lies in main memory as bytes or as float32; its windows are copied while others compute, as many "
        "ahead as is said. Exposed is what remains over the same plan with the image on the device.",
        *steps.missing(copying, drawn, "streaming"),
    ]
    heights = [0.85 + 0.2 * len(own) for own in parts]
    with style.context():
        figure = Figure(figsize=(style.WIDTH, 1.0 + sum(heights) + style.note_height(notes)), layout="constrained")
        panes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, own in zip(panes, parts, strict=True):
            _draw(axes, own)
        panes[-1].set_xlabel("time of a step")
        style.describe(figure, TITLE, " ".join(map(_said, parts)))
        colours = ((COMPUTE, "image on the device"), (EXPOSED, "exposed: longer with the image in main memory"))
        style.head(figure, TITLE, [Patch(facecolor=colour, label=label) for colour, label in colours])
        style.notes(figure, notes)
    return figure


def _split(joined: pd.DataFrame) -> pd.DataFrame:
    """The arms that copy, with the time of the one that does not (`compute`) and their `share` beyond it."""
    still = joined["arm"].str.contains("image=device")
    keys = ["machine", "case_id", "regime"]
    base = joined[still].sort_values("value").drop_duplicates(keys).set_index(keys)["value"].rename("compute")
    both = joined[~still].merge(base.reset_index(), on=keys)
    ahead = [steps.setting(arm, "prefetch") for arm in both["arm"]]
    both = both.assign(prefetch=ahead, share=1 - both["compute"] / both["value"])
    return both.sort_values(["pixels", "prefetch"], ascending=[False, True], kind="stable")


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    limit = 1.25 * own[["value", "compute"]].max().max()
    for place, row in enumerate(own.itertuples()):
        shown = min(row.value, row.compute)
        axes.barh(place, shown, height=0.68, color=COMPUTE, label="compute")
        axes.barh(place, row.value - shown, left=shown, height=0.68, color=EXPOSED, label="exposed")
        axes.text(row.value, place, f" {max(row.share, 0.0):.1%}", va="center", fontsize=style.NOTE_SIZE)
    axes.set_yticks(range(len(own)), [_row(row) for row in own.itertuples()])
    axes.set(xlim=(0, limit), ylim=(len(own) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: style.seconds(value) if value else "0"))
    first = own.iloc[0]
    layout = "channels-last" if first["channels_last"] else ""
    style.panel_title(axes, steps.heading(own, steps.size(first["h"], first["w"]), first["precision"], layout))


def _row(row: tuple) -> str:
    return f"{row.pixels}, {row.prefetch:.0f} ahead"


def _said(own: pd.DataFrame) -> str:
    each = ", ".join(f"{_row(row)} {max(row.share, 0.0):.1%} exposed" for row in own.itertuples())
    return f"{' · '.join(steps.heading(own))}: {each}."
