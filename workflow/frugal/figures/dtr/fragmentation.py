"""Figure `dtr_fragmentation`: what CUDA's caching allocator holds over one step under budgets."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from frugal.figures import style
from frugal.figures.dtr import programs
from frugal.figures.dtr.arms import size
from frugal.figures.frames import usable
from frugal.figures.style import Look

TITLE = "What the allocator holds over one step"
LOOKS = {
    "reserved": Look("reserved", "#0072B2", "s"),
    "allocated": Look("allocated", "#D55E00", "o"),
    "largest_hole": Look("largest free block", "#5E5E5E", "X"),
}


def fragmentation(measurements: pd.DataFrame) -> Figure:
    """Bytes (y) by the moment in a step (x), a panel a program and arm; dashed: with expandable segments."""
    found = programs.of(measurements, "fragmentation", *LOOKS)
    found = found.assign(moment=[axes.get("moment", 0) for axes in found["axes"]])
    drawn = usable(found)
    if drawn.empty:
        empty = "No allocator has been watched yet, neither on this machine nor in a recorded campaign; it takes a GPU."
        return programs.nothing(TITLE, found, empty)
    drawn = drawn.assign(within=pd.to_numeric(drawn["budget"]).fillna(0.0))
    # a free block of 0 bytes is a value too: what is shown follows from moments that have one
    notes = [
        "Reserved: what CUDA's caching allocator took from the device. Allocated: what of it tensors hold.",
        *programs.missing(found[found["metric"] == "allocated"], drawn),
    ]
    handles = [Line2D([], [], color=look.colour, label=look.label) for look in LOOKS.values()]
    handles.append(Line2D([], [], color=style.MUTED, linestyle=(0, (4, 2)), label="with expandable segments"))
    return programs.compose(
        TITLE, programs.panels(drawn, ("program", "within")), _draw, handles=handles, said=_said, notes=notes,
        xlabel="moment in the step, of 64", height=2.0, legend=4,
    )  # fmt: skip


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    for name, look in LOOKS.items():
        for expandable, line in own[own["metric"] == name].groupby("expandable"):
            line = line.groupby("moment")["value"].max()
            dashes = (0, (4, 2)) if expandable else "solid"
            axes.plot(line.index, line, color=look.colour, linewidth=1.2, linestyle=dashes,
                      label=f"{name} {expandable:g}")  # fmt: skip
    axes.set(ylim=(0, 1.08 * own["value"].max()), ylabel="bytes")
    axes.yaxis.set_major_formatter(FuncFormatter(size))
    style.panel_title(axes, programs.heading(own, _arm(own)))


def _arm(own: pd.DataFrame) -> str:
    within = own["within"].iloc[0]
    return f"a budget of {within:g} of the peak" if within else "plain"


def _said(own: pd.DataFrame) -> str:
    most = own.groupby("metric")["value"].max()
    each = ", ".join(f"{LOOKS[name].label} {size(value)}" for name, value in most.items())
    return f"{' · '.join(programs.heading(own, _arm(own)))}: at most {each}."
