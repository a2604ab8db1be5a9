"""Figure `sft_max_size`: the largest square image that a step of training fits into under a cap of memory."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from frugal.figures import style
from frugal.figures.frames import axis
from frugal.figures.sft import published, steps

TITLE = "Largest image that trains under a cap of memory"
PANEL = ("network", "width_divisor", "norms", "batch", "input", "precision", "device")
HOST = style.Look("ours: planned, with main memory", "#009E73", "D")


def max_size(measurements: pd.DataFrame, papers: pd.DataFrame) -> Figure:
    """Height of the largest square image (log2), a bar a method, in groups by cap; a panel a network.

    Caps are emulated: by PyTorch's allocator on a GPU, by counting live tensors without one. ≥: the search ended at its
    own limit. Hollow: the largest published size that ran on a GPU of that memory.
    """
    found = steps.of(measurements, "largest", "size_max")
    found = found.assign(cap_gib=pd.to_numeric(axis(found, "cap_gib")), device=axis(found, "device"))
    drawn = found[(found["status"] == "ok") & (found["value"] > 0)]
    if drawn.empty:
        empty = "No largest image has been searched for yet, neither on this machine nor in a recorded campaign."
        return steps.nothing(TITLE, found, "largest", empty)
    drawn = drawn.assign(kind=[_kind(arm) for arm in drawn["arm"]], limited=drawn["reason"].notna())
    # The least of the sessions: a size that fits only sometimes does not fit.
    drawn = drawn.sort_values("value", kind="stable").drop_duplicates(["machine", "case_id", "arm"])
    drawn = drawn.sort_values("value", ascending=False, kind="stable")
    drawn = drawn.drop_duplicates(["machine", *PANEL, "channels_last", "cap_gib", "kind"])
    parts = steps.panels(drawn, PANEL)
    hollow = pd.concat([_limits(papers, own) for own in parts])
    notes = [
        "Emulated cap: PyTorch's allocator may hand out so much, the CUDA context apart; or, where no GPU is used, so "
        "many bytes of tensors may live. A step is forward, backward and optimiser. ≥: the search ended there.",
        _of_papers(hollow),
        *steps.missing(found, found[found["status"] == "ok"], "largest"),
    ]
    with style.context():
        figure, panes = steps.grid(parts, 2.7, notes)
        for axes, own in zip(panes, parts, strict=True):
            _draw(axes, own, papers)
        panes[-1].set_xlabel("emulated cap of memory")
        style.describe(figure, TITLE, " ".join(map(_said, parts)))
        style.head(figure, TITLE, _legend(drawn, hollow), columns=2)
        style.notes(figure, notes)
    return figure


def _kind(arm: str) -> str:
    """A method, and apart from it the planner's with main memory."""
    return "planned_host" if steps.setting(arm, "host_mib") > 0 else steps.method(arm)


def _looks(kinds: pd.Series) -> dict[str, style.Look]:
    return style.looks(kinds, {"planned": steps.LOOKS["planned"], "planned_host": HOST, **steps.LOOKS})


def _draw(axes: Axes, own: pd.DataFrame, papers: pd.DataFrame) -> None:
    looks = _looks(own["kind"])
    hollow = _limits(papers, own)
    caps = sorted({*own["cap_gib"], *hollow["cap_gib"]})
    width = 0.8 / len(looks)
    values = [*own["value"], *hollow["h"]]
    low, high = min(values) / 2.2, max(values)
    places = {}
    for number, (kind, look) in enumerate(looks.items()):
        offset = (number - (len(looks) - 1) / 2) * width
        places[kind] = offset
        for row in own[own["kind"] == kind].itertuples():
            at = caps.index(row.cap_gib) + offset
            axes.bar(at, row.value - low, bottom=low, width=0.92 * width, color=look.colour, label=kind)
            # Above its bar, and above a published mark that would stand on the number.
            mark = hollow.loc[(hollow["variant"] == kind) & (hollow["cap_gib"] == row.cap_gib), "h"].max()
            above = mark if row.value <= 1.3 * mark < 4 * row.value else row.value
            axes.annotate(f"{'≥' if row.limited else ''}{row.value:.0f}", (at, above), rotation=90,
                          xytext=(0, 2 if above == row.value else 5), textcoords="offset points", ha="center",
                          va="bottom", fontsize=style.NOTE_SIZE)  # fmt: skip
    for row in hollow.itertuples():
        look, kind = steps.LOOKS[row.variant], row.variant if row.variant in places else None
        at = caps.index(row.cap_gib) + (places[kind] if kind else 0.45)
        axes.plot(at, row.h, linestyle="none", marker=look.marker, color=look.colour, markerfacecolor=style.PAPER,
                  markersize=6, zorder=4, label=f"{row.variant} published")  # fmt: skip
    axes.set_yscale("log", base=2)
    axes.set(xlim=(-0.6, len(caps) - 0.4), ylim=(low, high * (high / low) ** 0.42), ylabel="height, pixels")
    axes.set_xticks(range(len(caps)), [steps.mebibytes(1024 * cap) for cap in caps])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_locator(FixedLocator([2**power for power in range(4, 20) if low <= 2**power <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    style.panel_title(axes, steps.heading(own, own["precision"].iloc[0], _place(own)))


def _place(own: pd.DataFrame) -> str:
    return "live tensors counted" if own["device"].iloc[0] == "meta" else "cap of the allocator"


def _limits(papers: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """The published limits of a panel's network; none for one with fewer channels than the paper's."""
    found = published.limits(papers, own["network"].iloc[0])
    return found if own["width_divisor"].iloc[0] == 1 else found[:0]


def _of_papers(hollow: pd.DataFrame) -> str:
    """What the hollow marks are, with the GPU of each cap."""
    if hollow.empty:
        return ""
    gpus = hollow.drop_duplicates("hardware").sort_values("cap_gib")
    names = ", ".join(
        f"{cap:.0f} GiB: {published.NAMES[name]}" for name, cap in gpus[["hardware", "cap_gib"]].to_numpy()
    )
    return f"Hollow: published, the largest size of a coarse grid that ran on that GPU ({names})."


def _legend(drawn: pd.DataFrame, hollow: pd.DataFrame) -> list[Patch | Line2D]:
    bars = [Patch(facecolor=look.colour, label=look.label) for look in _looks(drawn["kind"]).values()]
    marks = [
        style.handle(look, label=f"published: {look.label}", hollow=True)
        for look in style.looks(set(hollow["variant"]), steps.LOOKS).values()
    ]
    return [*bars, *marks]


def _said(own: pd.DataFrame) -> str:
    each = [
        f"{look.label}: {', '.join(f'{row.cap_gib:.3g} GiB {row.value:.0f}' for row in rows.itertuples())}"
        for kind, look in _looks(own["kind"]).items()
        for rows in [own[own["kind"] == kind].sort_values("cap_gib")]
    ]
    return f"{' · '.join(steps.heading(own, own['precision'].iloc[0]))}: {'; '.join(each)}."
