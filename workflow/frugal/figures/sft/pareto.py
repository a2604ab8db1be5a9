"""Figure `sft_pareto`: what less memory costs in time, for plans under budgets and for every baseline."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from frugal.figures import style
from frugal.figures.frames import over_sessions
from frugal.figures.sft import steps

TITLE = "Memory against time of one training step"
PANEL = ("network", "width_divisor", "norms", "batch", "input", "precision", "channels_last", "h", "w")
PEAKS = ("peak_allocated", "peak_live")  # the first that a case has


def pareto(measurements: pd.DataFrame) -> Figure:
    """Peak bytes (x, log) against time over the untiled step's (y), a mark an arm; plans are joined by a line.

    The peak is the allocator's on a GPU, else that of live tensors, with what was there before. Geometric means over
    sessions. A panel a case.
    """
    found = steps.of(measurements, "pareto", "time", *PEAKS)
    points = _points(found)
    if points.empty:
        empty = "No step has been measured in memory and time yet, neither on this machine nor in a recorded campaign."
        return steps.nothing(TITLE, found, "pareto", empty)
    parts = steps.panels(points, PANEL)
    notes = [
        "Peak: what PyTorch's allocator handed out at most; on a CPU, bytes of tensors that lived at once. Parameters "
        "and the image are in it. Left and low is better.",
        *steps.missing(found[found["metric"] == "time"], points, "pareto"),
    ]
    with style.context():
        figure, panes = steps.grid(parts, 3.1, notes)
        for axes, own in zip(panes, parts, strict=True):
            _draw(axes, own)
        panes[-1].set_xlabel("peak of memory")
        style.describe(figure, TITLE, " ".join(map(_said, parts)))
        style.head(figure, TITLE, [_handle(name, look) for name, look in _looks(points).items()], columns=3)
        style.notes(figure, notes)
    return figure


def _points(found: pd.DataFrame) -> pd.DataFrame:
    """One row an arm that has a time and a peak in a case whose untiled step has a time: `bytes` and `slower`."""
    keys = ["machine", "case_id", "arm"]
    base = pd.to_numeric(found["base_bytes"]).fillna(0).where(found["metric"] == "peak_live", 0)
    joined = over_sessions(found.assign(value=found["value"] + base))
    times = joined[joined["metric"] == "time"]
    vanilla = times[times["arm"] == "vanilla"].set_index(["machine", "case_id"])["value"].rename("untiled")
    peaks = pd.concat([joined[joined["metric"] == name] for name in PEAKS]).drop_duplicates(keys)
    both = times.merge(peaks[[*keys, "value"]].rename(columns={"value": "bytes"}), on=keys)
    both = both.merge(vanilla.reset_index(), on=["machine", "case_id"])
    return both.assign(slower=both["value"] / both["untiled"])


def _looks(points: pd.DataFrame) -> dict[str, style.Look]:
    return style.looks(points["method"], steps.LOOKS)


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    axes.set(xscale="log", yscale="log")
    axes.axhline(1.0, color=style.MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    for name, look in _looks(own).items():
        line = own[own["method"] == name].sort_values("bytes")
        linestyle = "solid" if name in steps.OURS else "none"
        axes.plot(line["bytes"], line["slower"], color=look.colour, marker=look.marker, markersize=6, linewidth=1.2,
                  linestyle=linestyle, label=name, zorder=4 if name in steps.OURS else 3)  # fmt: skip
    axes.set_xlim(own["bytes"].min() / 1.3, own["bytes"].max() * 1.3)
    wide = own["bytes"].max() / own["bytes"].min() > 50
    axes.xaxis.set_major_locator(LogLocator(base=2, subs=(1,), numticks=7 if wide else 12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(steps.gibibytes))
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 1.2, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(style.times))
    axes.set_ylabel("time ÷ untiled")
    first = own.iloc[0]
    layout = "channels-last" if first["channels_last"] else ""
    style.panel_title(axes, steps.heading(own, steps.size(first["h"], first["w"]), first["precision"], layout))


def _handle(name: str, look: style.Look) -> Line2D:
    line = style.handle(look)
    line.set_linestyle("solid" if name in steps.OURS else "none")
    return line


def _said(own: pd.DataFrame) -> str:
    each = "; ".join(
        f"{steps.in_words(row.arm)} {steps.gibibytes(row.bytes)} at {row.slower:.2f} times the time"
        for row in own.sort_values("bytes").itertuples()
    )
    return f"{' · '.join(steps.heading(own, own['precision'].iloc[0]))}: {each}."
