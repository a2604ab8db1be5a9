"""Figure `sft_tile_rate`: how fast small tiles are, beside the untiled step."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from frugal.figures import style
from frugal.figures.frames import over_sessions
from frugal.figures.sft import steps

TITLE = "Pixels a second by the side of a tile"
PANEL = ("network", "width_divisor", "norms", "batch", "input", "h", "w")
OTHERWISE = ("graphs=", "stack=", "backend=")
LOOKS = {
    "fp32": style.Look("fp32", "#0072B2", "s"),
    "tf32": style.Look("TF32", "#56B4E9", "^"),
    "bf16": style.Look("bfloat16", "#D55E00", "o"),
}


def tile_rate(measurements: pd.DataFrame) -> Figure:
    """Pixels of the image a second of a step (log) over the side of a tile of it (log2), a line a precision.

    Hollow: the same tiles several at once, as CUDA graphs, or with a kernel's help. Dashed: the untiled step. Of the
    memory layouts the faster one. Geometric means over sessions; a panel a network.
    """
    found = steps.of(measurements, "tile_rate", "time")
    drawn = over_sessions(found)
    if drawn.empty:
        empty = "No tiles have been timed yet, neither on this machine nor in a recorded campaign."
        return steps.nothing(TITLE, found, "tile_rate", empty)
    drawn = drawn.assign(
        rate=drawn["batch"] * drawn["h"] * drawn["w"] / drawn["value"],
        side=[row.h / steps.setting(row.arm, "tiles") for row in drawn.itertuples()],
        plain=[not any(word in row.arm for word in OTHERWISE) for row in drawn.itertuples()],
    )
    parts = steps.panels(drawn, PANEL)
    notes = [
        "One segment of n × n tiles over the whole body, so that small tiles also compute more halo; the side is the "
        "image's height over n.",
        *steps.missing(found, drawn, "tile_rate"),
    ]
    with style.context():
        figure, panes = steps.grid(parts, 2.5, notes)
        for axes, own in zip(panes, parts, strict=True):
            _draw(axes, own)
        panes[-1].set_xlabel("side of a tile of the image, pixels")
        style.describe(figure, TITLE, " ".join(map(_said, parts)))
        dashed = Line2D([], [], color=style.MUTED, linestyle=(0, (4, 2)), label="untiled, in the same colour")
        looks = style.looks(drawn["precision"], LOOKS)
        handles = [*map(style.handle, looks.values()), dashed]
        if not drawn["plain"].all():
            handles.append(Line2D([], [], color=style.MUTED, marker="D", markersize=5, markerfacecolor="none",
                                  linestyle="", label="several at once, as graphs, or with a kernel"))  # fmt: skip
        style.head(figure, TITLE, handles, columns=4)
        style.notes(figure, notes)
    return figure


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    for name, look in style.looks(own["precision"], LOOKS).items():
        rows = own[own["precision"] == name]
        tiled = rows[rows["side"].notna()].sort_values("rate", ascending=False, kind="stable")
        other = tiled[~tiled["plain"]]
        tiled = tiled[tiled["plain"]].drop_duplicates("side").sort_values("side")
        axes.plot(tiled["side"], tiled["rate"], color=look.colour, marker=look.marker, markersize=6, linewidth=1.2,
                  label=name)  # fmt: skip
        if len(other):
            axes.plot(other["side"], other["rate"], color=look.colour, marker="D", markersize=5, markerfacecolor="none",
                      linestyle="", label=f"{name} otherwise")  # fmt: skip
        whole = rows.loc[rows["method"] == "vanilla", "rate"]
        if len(whole):
            axes.axhline(whole.max(), color=look.colour, linestyle=(0, (4, 2)), linewidth=1.0, label=f"{name} untiled")
    sides = own["side"].dropna().tolist()
    if sides:
        steps.size_axis(axes, sides)
    axes.set_yscale("log")
    axes.set_ylim(own["rate"].min() / 1.5, own["rate"].max() * 1.5)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_pixels))
    axes.set_ylabel("pixels a second")
    style.panel_title(axes, steps.heading(own, steps.size(own["h"].iloc[0], own["w"].iloc[0])))


def _pixels(value: float, _position: int | None = None) -> str:
    """50 k, 2 M, 1.5 G."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _said(own: pd.DataFrame) -> str:
    each = ", ".join(
        f"{row.precision} {'untiled' if row.method == 'vanilla' else _tiles(row.arm, row.side)} {_pixels(row.rate)}"
        for row in own.itertuples()
    )
    return f"{' · '.join(steps.heading(own))}: pixels a second {each}."


def _tiles(arm: str, side: float) -> str:
    """`128 pixels (stack=8,graphs=1)`."""
    more = ",".join(part for part in arm.partition("@")[2].split(",") if part.startswith(OTHERWISE))
    return f"{side:.0f} pixels" + (f" ({more})" if more else "")
