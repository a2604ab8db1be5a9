"""Figure `sft_kernel`: two convolution layers in one kernel, beside the library's chain and the machine's limit."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from frugal.figures import style, told
from frugal.figures.frames import axis, over_sessions
from frugal.figures.sft import steps

TITLE = "Two convolution layers in one kernel"
PANEL = ("stem",)
LOOKS = {
    "v1_naive": style.Look("v1: naive", "#5E5E5E", "X"),
    "v2_tile": style.Look("v2: tile", "#000000", "*"),
    "v3_pair": style.Look("v3: pair", "#5A2D00", "<"),
    "v4_pair_reg": style.Look("v4: pair in registers", "#E69F00", "D"),
    "v5_pair_mma_tf32": style.Look("v5: tensor cores, TF32", "#D55E00", "o"),
    "v5_pair_mma_bf16": style.Look("v5: tensor cores, bfloat16", "#8778FF", ">"),
    "cpu_pair": style.Look("CPU: pair", "#CC79A7", "P"),
    "torch_compile_fp32": style.Look("torch.compile fp32", "#0072B2", "s"),
    "torch_compile_tf32": style.Look("torch.compile TF32", "#56B4E9", "^"),
    "torch_compile_bf16": style.Look("torch.compile bfloat16", "#4A1A8C", "h"),
    "cpu_twin": style.Look("CPU: layer by layer", "#009E73", "v"),
}
_LIBRARY = ("cudnn", "onednn")  # the chain that stands for 1, by the arithmetic
_WORDS = {"half": "16-bit", "tf32": "TF32", "fp32": "fp32"}


def kernel(measurements: pd.DataFrame) -> Figure:
    """The library's time over each arm's (left, log), and each arm's share of the roofline (right), by image height.

    The library is cuDNN's fastest chain (on a CPU oneDNN's) in the same arithmetic: fp32, TF32 or 16 bits. A row of
    panels a stem and machine; the least batch as lines, greater ones as hollow marks. Geometric means over sessions.
    Thin lines are the arms' dense twins, where what lies between the layers goes through memory.
    """
    found = steps.of(measurements, "kernels", "time")
    found = found.assign(
        stem=axis(found, "stem"),
        arithmetic=[_arithmetic(row) for row in found.itertuples()],
        h=found["h"].astype(float),
    )
    drawn = _beside_the_library(over_sessions(found))
    if drawn.empty:
        empty = "No pair of layers has been timed yet, neither on this machine nor in a recorded campaign."
        return steps.nothing(TITLE, found, "kernels", empty)
    parts = steps.panels(drawn, PANEL)
    notes = [
        "Left, above 1: faster than the library's convolutions with bias, activation and pooling by torch, in the same "
        "arithmetic. Thin lines: the dense twin, which writes what lies between the layers to memory. Right: the least "
        "time by the arm's own work and bytes, over the measured one.",
        *steps.missing(found, over_sessions(found), "kernels"),
    ]
    with style.context():
        figure, panes = steps.grid([half for own in parts for half in (own, own)], 2.7, notes, columns=2)
        for place, own in enumerate(parts):
            _speed(panes[2 * place], own)
            _share(panes[2 * place + 1], own)
            style.panel_title(panes[2 * place], [_heading(own), own["machine"].iloc[0]])
        for axes in panes[-2:]:
            axes.set_xlabel("height and width, pixels")
        style.describe(figure, TITLE, " ".join(map(_said, parts)))
        looks = _looks(drawn)
        style.head(figure, TITLE, [style.handle(look) for look in looks.values()], columns=3)
        style.notes(figure, notes)
    return figure


def _arithmetic(row: tuple) -> str:
    if row.dtype in ("float16", "bfloat16"):
        return "half"
    return "tf32" if row.tf32 is True else "fp32"


def _beside_the_library(joined: pd.DataFrame) -> pd.DataFrame:
    """The arms that are not the library, with its time over theirs (`faster`; NaN where it has none)."""
    library = joined["arm"].str.startswith(_LIBRARY)
    keys = ["machine", "case_id", "regime", "arithmetic"]
    best = joined[library].sort_values("value").drop_duplicates(keys).set_index(keys)["value"].rename("library")
    both = joined[~library].merge(best.reset_index(), on=keys, how="left")
    share = pd.to_numeric(both["roofline_fraction"])
    return both.assign(faster=both["library"] / both["value"], share=share)


def _looks(own: pd.DataFrame) -> dict[str, style.Look]:
    return style.looks({_whose(arm) for arm in own["arm"]}, LOOKS)


def _whose(arm: str) -> str:
    """The arm whose dense twin an arm is; itself for others. On a CPU the twin is an arm like others."""
    return arm if arm == "cpu_twin" else arm.removesuffix("_twin")


def _speed(axes: Axes, own: pd.DataFrame) -> None:
    axes.set_yscale("log")
    axes.axhline(1.0, color=style.INK, linewidth=1.0)
    _lines(axes, own[own["faster"].notna()], "faster")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.8), max(high, 1.25))
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(style.times))
    axes.set_ylabel("library's time ÷ time")


def _share(axes: Axes, own: pd.DataFrame) -> None:
    _lines(axes, own[own["share"].notna()], "share")
    axes.set_ylim(0, max(1.0, 1.05 * float(own["share"].max()) if own["share"].notna().any() else 1.0))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_ylabel("share of the roofline")


def _lines(axes: Axes, own: pd.DataFrame, column: str) -> None:
    least = own["batch"].min()
    for name, look in _looks(own).items():
        more = own[(own["arm"] == name) & (own["batch"] > least)]
        axes.plot(more["h"], more[column], color=look.colour, marker=look.marker, markersize=6, linestyle="none",
                  markerfacecolor=style.PAPER, label=f"{name} batch", zorder=4)  # fmt: skip
        for twin in (False, True):
            arm = f"{name}_twin" if twin else name
            line = own[(own["arm"] == arm) & (own["batch"] == least)].sort_values("h")
            if len(line):
                axes.plot(line["h"], line[column], color=look.colour, marker=look.marker, markersize=3 if twin else 6,
                          linewidth=0.7 if twin else 1.2, label=f"{name} twin" if twin else name,
                          linestyle=(0, (2, 1)) if twin else "solid")  # fmt: skip
    if len(own):
        steps.size_axis(axes, own["h"].tolist())


def _heading(own: pd.DataFrame) -> str:
    batches = [f"{batch:.0f}" for batch in sorted(own["batch"].unique())]
    hollow = f", hollow {' and '.join(batches[1:])}" if batches[1:] else ""
    return f"stem of {told.pretty(own['stem'].iloc[0])}, batch {batches[0]}{hollow}"


def _said(own: pd.DataFrame) -> str:
    each = ", ".join(
        f"{row.arm} {row.h:.0f} × {row.batch:.0f}: {style.seconds(row.value)}"
        + (
            f", {style.times(row.faster)} the {_WORDS[row.arithmetic]} library's speed"
            if row.faster == row.faster
            else ""
        )
        for row in own.itertuples()
    )
    return f"{_heading(own)} on {own['machine'].iloc[0]}: {each}."
