"""Figure `dtr_arms`: memory against time, DTR under budgets beside what a user could take today."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from frugal.figures import style
from frugal.figures.dtr import programs
from frugal.figures.frames import over_sessions

TITLE = "Memory against time of one training step"
PEAKS = ("peak_allocated", "peak_total")  # the first that an arm has
_LINED = ("dtr", "activation_budget")  # arms with a setting to turn


def arms(measurements: pd.DataFrame) -> Figure:
    """Peak of memory (x) against time over the plain step's (y), a mark an arm, a panel a program; budgets are joined.

    The peak is the allocator's on a GPU, else that of all tensors at once.
    """
    found = programs.of(measurements, ("budgets", "arms", "memory"), "time", *PEAKS)
    drawn = _points(over_sessions(found))
    if drawn.empty:
        empty = "No step has been measured in memory and time yet, neither on this machine nor in a recorded campaign."
        return programs.nothing(TITLE, found, empty)
    timed = found[found["metric"] == "time"]
    notes = [
        "Peak: what PyTorch's allocator handed out at most; on a CPU, bytes of tensors that lived at once. Parameters "
        "and gradients are in it. Left and low is better.",
        *programs.missing(programs.by_program(timed), programs.by_program(drawn)),
    ]
    looks = style.looks(drawn["method"], programs.METHODS)
    return programs.compose(
        TITLE, programs.panels(drawn), _draw, handles=programs.line_handles(looks, "none"), said=_said, notes=notes,
        xlabel="peak of memory", height=2.6, legend=3,
    )  # fmt: skip


def _points(joined: pd.DataFrame) -> pd.DataFrame:
    """One row a program and arm that has a time beside a plain step's and a peak: `bytes` and `slower`."""
    case, keys = ["machine", "experiment", "case_id"], ["machine", "program", "arm"]
    times = joined[joined["metric"] == "time"]
    plain = times[times["arm"] == "plain"].set_index(case)["value"].rename("plain")
    times = times.merge(plain.reset_index(), on=case)
    # an arm that stands in `arms` and in `budgets` counts where its neighbours are
    times = times.sort_values("experiment", kind="stable").drop_duplicates(keys)
    peaks = pd.concat([joined[joined["metric"] == name] for name in PEAKS]).drop_duplicates(keys)
    both = times.merge(peaks[[*keys, "value"]].rename(columns={"value": "bytes"}), on=keys)
    return both.assign(slower=both["value"] / both["plain"])


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    axes.axhline(1.0, color=style.MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    for name, look in style.looks(own["method"], programs.METHODS).items():
        line = own[own["method"] == name].sort_values("bytes")
        axes.plot(line["bytes"], line["slower"], color=look.colour, marker=look.marker, markersize=6, linewidth=1.1,
                  linestyle="solid" if name in _LINED else "none", label=name,
                  zorder=4 if name == "dtr" else 3)  # fmt: skip
    axes.set_xlim(0.9 * own["bytes"].min(), 1.05 * own["bytes"].max())
    axes.set(yscale="log" if own["slower"].max() > 4 else "linear", ylabel="time ÷ plain")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(size))
    axes.yaxis.set_major_formatter(FuncFormatter(programs.times))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda _value, _place: ""))
    style.panel_title(axes, programs.heading(own))


def size(value: float, _position: int | None = None) -> str:
    """A number of bytes for an axis: 0.5 MB, 40 MB, 1.2 GB."""
    return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"


def _said(own: pd.DataFrame) -> str:
    each = "; ".join(
        f"{programs.in_words(row.arm)} {size(row.bytes)} at {row.slower:.2f} times the time"
        for row in own.sort_values("bytes").itertuples()
    )
    return f"{' · '.join(programs.heading(own))}: {each}."
