"""Figure `cusnn_roofline`: measured time of each arm and layer against the least time that the machine allows it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from frugal.figures import frames, style, told
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.cusnn import timed as of_times
from frugal.figures.frames import in_machine_order

TITLE = "Measured time against the roofline"
# The memory roof holds only where data come from memory, so such regimes come first (docs/methodology.md).
REGIMES = (("graph", "rotated"), ("cold", ""), ("graph", "resident"), ("hot", ""), ("wall", ""))
FRACTIONS = (1.0, 0.5, 0.1, 0.01)
_PEAKS = {("float32", False): "flops_fp32", ("float32", True): "flops_tf32"}


def roofline(measurements: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Roofline time (x) against measured time (y), both in seconds on log scales: one mark an arm and layer.

    The roofline is the row's `roofline_s`; where that is null it is max(bytes_min / copy_bytes_per_s, flop / peak) of
    the row and its run (S. Williams et al., CACM 2009; fp32 and TF32 peaks as measured in that run; the first term
    only where data come from memory: regime cold and rotated buffers). Several sessions
    are joined by their geometric mean. Filled marks: this machine; hollow ones: recorded campaigns.
    """
    timed = of_layers.of(measurements, "layers", "time")
    points, regimes = _points(_with_roof(timed, runs))
    if points.empty:
        return _nothing(timed)
    with style.context():
        arms = style.looks(points["arm"])
        notes = _notes(points, regimes, timed)
        height = 5.4 + 0.2 * len(arms) / 2 + 0.2 * len(regimes) + style.note_height(notes)
        figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
        axes = figure.subplots()
        _draw(axes, points, arms)
        style.describe(figure, TITLE, _description(points, regimes, arms))
        style.head(figure, TITLE, _legend(points, regimes, arms))
        style.notes(figure, notes)
    return figure


def _with_roof(timed: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    ceilings = runs.drop_duplicates("run_id")[["run_id", "copy_bytes_per_s", "flops_fp32", "flops_tf32"]]
    rows = timed.merge(ceilings, on="run_id", how="left")
    peak = pd.Series(np.nan, index=rows.index)
    for (dtype, tf32), column in _PEAKS.items():
        same = (rows["dtype"] == dtype) & (rows["tf32"].fillna(False).astype(bool) == tf32)
        peak = peak.mask(same, pd.to_numeric(rows[column]))
    memory = pd.to_numeric(rows["bytes_min"]) / pd.to_numeric(rows["copy_bytes_per_s"])
    from_memory = (rows["regime"] == "cold") | (rows["l2"] == "rotated")
    memory = memory.where(from_memory, 0.0)
    compute = pd.to_numeric(rows["flop"]) / peak
    derived = pd.concat([memory, compute], axis=1).max(axis=1, skipna=False)
    return rows.assign(roofline_s=pd.to_numeric(rows["roofline_s"]).fillna(derived))


def _points(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, tuple[str, str]]]:
    """One row a (machine, case, arm) in the machine's regime, and that regime by machine."""
    drawable = frames.usable(rows)
    chosen = of_times.in_one_regime(drawable[drawable["roofline_s"] > 0], REGIMES)
    if chosen.empty:
        return chosen, {}
    regimes = {
        machine: (own["regime"].iloc[0], own["l2"].iloc[0]) for machine, own in chosen.groupby("machine", sort=False)
    }
    keys = ["machine", "case_id", "arm"]
    roof = np.exp(np.log(chosen["roofline_s"]).groupby([chosen[name] for name in keys]).mean())
    conditional = chosen.groupby(keys)["conditional"].any()
    joined = frames.over_sessions(chosen).drop(columns=["roofline_s", "conditional"])
    joined = joined.merge(roof.reset_index(), on=keys).merge(conditional.reset_index(), on=keys)
    return of_times.best_layout(joined), regimes


def _draw(axes: Axes, points: pd.DataFrame, arms: dict[str, style.Look]) -> None:
    axes.set(xscale="log", yscale="log")
    low_x, high_x = points["roofline_s"].min() / 1.5, points["roofline_s"].max() * 1.5
    low_y = points["value"].min() / 2.5
    high_y = points["value"].max() * 1.6
    axes.set(xlim=(low_x, high_x), ylim=(low_y, high_y))
    _fraction_lines(axes, (low_x, high_x), (low_y, high_y))
    size = 30 if len(points) <= 150 else 14
    for name, look in arms.items():
        for recorded, rows in points[points["arm"] == name].groupby(points["recorded"].notna()):
            sns.scatterplot(
                data=rows, x="roofline_s", y="value", color=look.colour, edgecolor=look.colour, marker=look.marker,
                s=size, linewidth=1.0, ax=axes, legend=False, zorder=3, label=name,
            )  # fmt: skip
            if recorded:
                axes.collections[-1].set_facecolor("none")
    axes.set(xlabel="roofline: least time by this arm's own work", ylabel="measured time")
    for side, span in ((axes.xaxis, high_x / low_x), (axes.yaxis, high_y / low_y)):
        side.set_major_locator(LogLocator(base=10, subs=(1,) if span > 2e3 else (1, 2, 5)))
        side.set_minor_locator(NullLocator())
        side.set_major_formatter(FuncFormatter(style.seconds))


def _fraction_lines(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    ends = np.array(x)
    axes.fill_between(ends, y[0] / 10, ends, color="#F1F1F1", zorder=0, linewidth=0)
    for fraction in FRACTIONS:
        axes.plot(ends, ends / fraction, color=style.MUTED, linewidth=1.2 if fraction == 1 else 0.7,
                  linestyle="solid" if fraction == 1 else (0, (4, 3)), zorder=1)  # fmt: skip
        # The label stands outside the panel, where its line leaves it: clear of marks whatever the data.
        by_top = y[1] * fraction <= x[1]
        at = (y[1] * fraction, y[1]) if by_top else (x[1], x[1] / fraction)
        if x[0] < at[0] and y[0] < at[1]:
            axes.annotate(
                f"{fraction:.0%}", at, xytext=(0, 3) if by_top else (3, 0), textcoords="offset points",
                ha="center" if by_top else "left", va="bottom" if by_top else "center", annotation_clip=False,
                color=style.MUTED, fontsize=style.NOTE_SIZE,
            )  # fmt: skip


def _legend(points: pd.DataFrame, regimes: dict[str, tuple[str, str]], arms: dict[str, style.Look]) -> list[Line2D]:
    marks = [style.handle(look, label=f"{look.label} ({_fractions(points, name)})") for name, look in arms.items()]
    machines = []
    for machine, (regime, l2) in regimes.items():
        hollow = bool(points.loc[points["machine"] == machine, "recorded"].notna().any())
        look = style.Look(f"{machine}, regime {regime}" + (f", L2 {l2}" if l2 else ""), style.MUTED, "o")
        machines.append(style.handle(look, hollow=hollow))
    return [*marks, *machines]


def _fractions(points: pd.DataFrame, arm: str) -> str:
    """The arm's median share of the roofline, a number a machine in the legend's order: "8%; 40%", "–" for none."""
    own = points[points["arm"] == arm]
    shares = (own["roofline_s"] / own["value"]).groupby(own["machine"]).median()
    return "; ".join(f"{shares[machine]:.0%}" if machine in shares else "–" for machine in in_machine_order(points))


def _notes(points: pd.DataFrame, regimes: dict[str, tuple[str, str]], timed: pd.DataFrame) -> list[str]:
    lines = [
        "Roofline: the longer of the arm's own FLOP at the peak of its number format and its least bytes at the copy "
        "bandwidth, with the ceilings stored in the records. A sparse arm counts only the products that it keeps. "
        "Lines: shares of the roofline. In brackets: an arm's median share"
        + (", by machine in the legend's order." if len(regimes) > 1 else ".")
    ]
    random = timed[timed["weights"].map(of_layers.is_random).astype(bool)]
    for machine in in_machine_order(random):
        networks = random.loc[random["machine"] == machine, "network"].unique()
        whose = ", ".join(map(told.pretty, networks))
        lines.append(
            f"{machine[0].upper()}{machine[1:]}: random weights in {whose}, drawn to reach plausible shares of zeros."
        )
    for machine in in_machine_order(points[points["conditional"].astype(bool)]):
        lines.append(f"{machine[0].upper()}{machine[1:]}: one session, no verdict.")
    for machine in in_machine_order(timed):
        own = timed[timed["machine"] == machine]
        if machine in regimes:
            regime, l2 = regimes[machine]
            own = own[(own["regime"] == "") | ((own["regime"] == regime) & (own["l2"] == l2))]
        marks = own.assign(case_id=own["case_id"] + "/" + own["arm"].map(style.system))
        here = points[points["machine"] == machine]
        marks["status"] = marks["status"].replace("ok", "without ceilings or work of the arm")
        text = told.not_drawn(marks, here["case_id"] + "/" + here["arm"], "pairs of case and arm")
        lines.append(f"{machine[0].upper()}{machine[1:]}: {text}." if text else "")
    return [*lines, of_layers.nothing_here(timed)]


def _description(points: pd.DataFrame, regimes: dict[str, tuple[str, str]], arms: dict[str, style.Look]) -> str:
    said = "; ".join(f"{look.label}: {_fractions(points, name)}" for name, look in arms.items())
    return (
        f"Measured time against roofline time on log scales for {len(points)} pairs of layer and arm on "
        f"{' and '.join(regimes)}. Median share of the roofline by arm: {said}."
    )


def _nothing(timed: pd.DataFrame) -> Figure:
    if not (timed["status"] == "ok").any():
        empty = "No layer has been timed yet, neither on this machine nor in a recorded campaign."
        return of_layers.nothing(TITLE, timed, "cases", empty)
    sentences = [
        "Layers have been timed, but no row has a roofline: it needs the arm's FLOP and bytes, and the bandwidth and "
        "peak that a session measures of its machine."
    ]
    return style.message(TITLE, sentences, "To measure again, type:", of_layers.COMMAND)
