"""Figure `dtr_reach`: the largest batch, sequence or depth that trains under caps of memory."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from frugal.figures import style
from frugal.figures.dtr import programs
from frugal.figures.frames import usable

TITLE = "The largest step under a cap of memory"


def reach(measurements: pd.DataFrame) -> Figure:
    """The largest batch, sequence or depth (y, log), bars by method in groups of caps, the time a sample above.

    Of several sessions the least size counts, and the time at it. A panel a program and what grows.
    """
    found = programs.of(measurements, "reach", "max_size", "time_per_sample")
    found = found.assign(
        cap=[axes.get("cap_gib", 0.0) for axes in found["axes"]],
        grows=[axes.get("grows", "") for axes in found["axes"]],
    )
    good = usable(found).sort_values("value", kind="stable")
    drawn = good[good["metric"] == "max_size"].drop_duplicates(["machine", "case_id", "arm"])
    if drawn.empty:
        empty = "No largest size has been searched yet, neither on this machine nor in a recorded campaign."
        return programs.nothing(TITLE, found, empty)
    keys = ["machine", "case_id", "arm"]
    times = good[good["metric"] == "time_per_sample"].drop_duplicates(keys, keep="last")
    drawn = drawn.merge(times[[*keys, "value"]].rename(columns={"value": "seconds"}), on=keys, how="left")
    notes = [
        "Found by bisection, a whole step at each size. The cap is emulated: PyTorch's allocator may hand out so much; "
        "without a GPU bytes of live tensors are counted and nothing is timed. ≥: the search ended at its own limit.",
        *programs.missing(found[found["metric"] == "max_size"], drawn),
    ]
    looks = style.looks(drawn["method"], programs.METHODS)
    return programs.compose(
        TITLE, programs.panels(drawn, ("program", "grows")), _draw, said=_said, notes=notes,
        handles=[Patch(facecolor=look.colour, label=look.label) for look in looks.values()],
        xlabel="cap of memory", height=2.6, legend=3,
    )  # fmt: skip


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    looks = style.looks(own["method"], programs.METHODS)
    caps = sorted(own["cap"].unique())
    width = 0.85 / len(looks)
    for place, (name, look) in enumerate(looks.items()):
        rows = own[own["method"] == name]
        x = [caps.index(cap) + (place - (len(looks) - 1) / 2) * width for cap in rows["cap"]]
        axes.bar(x, rows["value"], width=width * 0.94, color=look.colour, linewidth=0, label=name)
        for at, row in zip(x, rows.itertuples(), strict=True):
            over = "≥" if "tried fitted" in str(row.reason) else ""
            time = f"{style.seconds(row.seconds)}, " if pd.notna(row.seconds) else ""
            axes.text(at, row.value, f" {time}{over}{row.value:.0f}", rotation=90, ha="center", va="bottom",
                      fontsize=style.NOTE_SIZE)  # fmt: skip
    low, high = own["value"].min(), own["value"].max()
    axes.set(yscale="log", ylim=(low / 2, high * (2 * high / low) ** 0.9), xlim=(-0.6, len(caps) - 0.4))
    axes.set_xticks(range(len(caps)), [_cap(cap) for cap in caps])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylabel(f"largest {own['grows'].iloc[0]}")
    style.panel_title(axes, programs.heading(own))


def _cap(gib: float) -> str:
    return f"{gib:g} GiB" if gib >= 1 else f"{1024 * gib:g} MiB"


def _said(own: pd.DataFrame) -> str:
    each = ", ".join(f"{programs.in_words(row.arm)} {row.value:.0f} in {_cap(row.cap)}" for row in own.itertuples())
    return f"{' · '.join(programs.heading(own))}: largest {own['grows'].iloc[0]}: {each}."
