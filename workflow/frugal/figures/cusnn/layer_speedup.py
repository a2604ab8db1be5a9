"""Figure `cusnn_layer_speedup`: our sparse convolution against each baseline, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from frugal.figures import style
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.frames import in_machine_order

TITLE = "Speed-up of the sparse convolution, layer by layer"
# What a user of a network would see comes last: kernels are judged where launching costs nothing.
REGIMES = (("graph", "resident"), ("graph", "rotated"), ("cold", ""), ("hot", ""), ("wall", ""))
CONDITIONAL = "one session: ranges are min–max of rounds, no verdict"
_OF_CASE = ["case_id", "network", "layer", "depth", "n", "c", "h", "k", "r", "s", "stride", "weights", "count"]


@dataclass(frozen=True)
class Panel:
    """One machine and batch size: its ratios (`rows`, one a layer and baseline) and the layers on its axis."""

    machine: str
    regime: str
    l2: str
    batch: int
    rows: pd.DataFrame
    layers: pd.DataFrame

    @property
    def conditional(self) -> bool:
        return bool(self.rows["conditional"].any())


def layer_speedup(comparisons: pd.DataFrame, measurements: pd.DataFrame, candidate: str = "sparse") -> Figure:
    """Speed-up (time of the baseline over ours, log scale) by layer, one panel a machine and batch size.

    Marks are `ratio` of the comparisons of `candidate`, bars `ratio_low` to `ratio_high`; a line follows the best
    baseline of each layer. Each machine is drawn in the regime in which most baselines could be compared (of equals
    the first of REGIMES). Frames as frugal.figures.frames.load gives them.
    """
    timed = of_layers.of(measurements, "time")
    panels = _panels(_ratios(comparisons, timed, candidate))
    if not panels:
        empty = "No layer has been timed yet, neither on this machine nor in a recorded campaign."
        return of_layers.nothing(TITLE, timed, "cases", empty)
    with style.context():
        notes = _notes(panels, timed, candidate)
        bottoms = [
            i for i, panel in enumerate(panels) if i + 1 == len(panels) or panels[i + 1].machine != panel.machine
        ]
        height = 1.35 + 2.15 * len(panels) + 0.75 * len(bottoms) + style.note_height(notes)
        figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, sharey=True)[:, 0]
        baselines = style.looks(pd.concat([panel.rows["baseline"] for panel in panels]))
        for place, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
            _draw(axes, panel, baselines, labelled=place in bottoms)
        _scale(grid[0], *_limits(panels))
        style.describe(figure, TITLE, _description(panels, baselines))
        style.head(figure, TITLE, _legend(panels, baselines))
        style.notes(figure, notes)
    return figure


def geometric_mean(rows: pd.DataFrame) -> tuple[float, int]:
    """(geometric mean of the ratios, number of layers): a shape counts as often as its network has it (`count`)."""
    return math.exp(np.average(np.log(rows["ratio"]), weights=rows["count"])), int(rows["count"].sum())


def _ratios(comparisons: pd.DataFrame, timed: pd.DataFrame, candidate: str) -> pd.DataFrame:
    pairs = comparisons[
        (comparisons["system"] == "cusnn")
        & (comparisons["metric"] == "time")
        & (comparisons["candidate"] == candidate)
        & comparisons["ratio"].notna()
    ]
    pairs = pairs.assign(
        l2=pairs["l2"].fillna(""), ratio=pairs["ratio"].astype(float), baseline=pairs["baseline"].map(style.system)
    )
    # Of a library's two layouts the better one for this layer stands, as its user would choose.
    pairs = pairs.sort_values(["best_baseline", "ratio"], ascending=[False, True], kind="stable")
    pairs = pairs.drop_duplicates(["machine", "regime", "l2", "case_id", "baseline"])
    cases = timed.drop_duplicates("case_id")[_OF_CASE]
    return pairs.merge(cases, on="case_id", how="inner").sort_values(of_layers.KEY, kind="stable")


def _panels(pairs: pd.DataFrame) -> list[Panel]:
    panels = []
    for machine in in_machine_order(pairs):
        own = pairs[pairs["machine"] == machine]
        regime, l2 = _regime(own)
        own = own[(own["regime"] == regime) & (own["l2"] == l2)]
        layers = of_layers.in_order(own)
        own = own.merge(layers[[*of_layers.KEY, "place"]], on=of_layers.KEY)
        for batch, rows in own.groupby("n", sort=True):
            panels.append(Panel(machine, regime, l2, int(batch), rows, layers))
    return panels


def _regime(pairs: pd.DataFrame) -> tuple[str, str]:
    baselines = pairs.groupby(["regime", "l2"])["baseline"].nunique()
    rank = {regime: place for place, regime in enumerate(REGIMES)}
    return min(baselines.index, key=lambda regime: (-baselines[regime], rank.get(regime, len(rank)), regime))


def _draw(axes: Axes, panel: Panel, baselines: dict[str, style.Look], *, labelled: bool) -> None:
    axes.set_yscale("log")
    axes.axhline(1, color=style.INK, linewidth=1, zorder=1)
    axes.axhspan(1e-9, 1, color="#F4F4F4", zorder=0)
    here = {name: look for name, look in baselines.items() if (panel.rows["baseline"] == name).any()}
    # Marks of one layer stand beside each other, and the line goes through them.
    offsets = dict(zip(here, np.linspace(-0.24, 0.24, len(here)) if len(here) > 1 else [0.0], strict=True))
    rows = panel.rows.assign(x=panel.rows["place"] + panel.rows["baseline"].map(offsets))
    sns.lineplot(
        data=rows[rows["best_baseline"].astype(bool)], x="x", y="ratio", units="network", estimator=None,
        errorbar=None, color=style.INK, linewidth=0.9, alpha=0.75, ax=axes, legend=False, label="best baseline",
    )  # fmt: skip
    size = 34 if len(panel.layers) <= 24 else 11
    for name, look in here.items():
        for conditional, own in rows[rows["baseline"] == name].groupby("conditional"):
            _marks(axes, own, name, look, size, bool(conditional))
    means = of_layers.label_axis(axes, panel.layers)
    of_layers.name_networks(axes, panel.layers)
    axes.set(xlabel=means if labelled else "", ylabel="speed-up of ours")
    axes.tick_params(axis="x", labelbottom=labelled)
    style.panel_title(axes, _heading(panel, baselines))


def _marks(axes: Axes, rows: pd.DataFrame, name: str, look: style.Look, size: float, conditional: bool) -> None:
    known = rows.dropna(subset=["ratio_low", "ratio_high"])
    bars = axes.vlines(
        known["x"], known["ratio_low"], known["ratio_high"], colors=look.colour, label=name, zorder=2,
        linewidth=1.0, linestyles=(0, (1.5, 1.2)) if conditional else "solid",
    )  # fmt: skip
    bars.set_capstyle("butt")
    sns.scatterplot(
        data=rows, x="x", y="ratio", color=look.colour, edgecolor=look.colour, marker=look.marker, s=size,
        linewidth=1.0, ax=axes, legend=False, zorder=3, label=name,
    )  # fmt: skip
    if conditional:
        axes.collections[-1].set_facecolor(style.PAPER)


def _heading(panel: Panel, baselines: dict[str, style.Look]) -> list[str]:
    l2 = f", L2 {panel.l2}" if panel.l2 else ""
    means = {name: geometric_mean(rows) for name, rows in panel.rows.groupby("baseline")}
    layers = {count for _, count in means.values()}
    each = [
        style.unbroken(f"{style.times(means[name][0])} {look.label}" + f" ({means[name][1]})" * (len(layers) > 1))
        for name, look in baselines.items()
        if name in means
    ]
    best = panel.rows[panel.rows["best_baseline"].astype(bool)]
    if len(means) > 1 and len(best):
        each.append(f"{style.times(geometric_mean(best)[0])} the best of them")
    over = f"{layers.pop()} layers" if len(layers) == 1 else "the layers drawn (number)"
    random = of_layers.random_layers(panel.rows.drop_duplicates("case_id"))
    random = f" · {random}" if random else ""
    return [
        f"{panel.machine} · batch {panel.batch} · regime {panel.regime}{l2}{random}",
        f"geometric mean over {over}: " + ", ".join(each),
        CONDITIONAL if panel.conditional else "",
    ]


def _limits(panels: Iterable[Panel]) -> tuple[float, float]:
    """Room for all marks and for bars up to twice beyond them; a longer bar visibly leaves the panel."""
    rows = pd.concat([panel.rows for panel in panels])
    low, high = min(1.0, rows["ratio"].min()), max(1.0, rows["ratio"].max())
    low = max(low / 2, min(low, rows["ratio_low"].min(skipna=True) if rows["ratio_low"].notna().any() else low))
    high = min(high * 2, max(high, rows["ratio_high"].max(skipna=True) if rows["ratio_high"].notna().any() else high))
    return low / 1.2, high * 1.2


def _scale(axes: Axes, low: float, high: float) -> None:
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high / low > 6 else (1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(style.times))


def _legend(panels: Iterable[Panel], baselines: dict[str, style.Look]) -> list[Line2D]:
    hollow = all(panel.conditional for panel in panels)
    marks = [style.handle(look, label=f"over {look.label}", hollow=hollow) for look in baselines.values()]
    return [*marks, Line2D([], [], color=style.INK, linewidth=0.9, alpha=0.75, label="over the best of them")]


def _notes(panels: list[Panel], timed: pd.DataFrame, candidate: str) -> list[str]:
    lines = ["Speed-up: time of the baseline over ours, layer by layer; above the line at 1 ours is faster."]
    if not all(panel.conditional for panel in panels):
        lines.append("Bars: stored 95 % intervals over sessions.")
    if any(panel.conditional for panel in panels):
        lines.append(f"Hollow marks, dotted bars: {CONDITIONAL}.")
    lines.append(
        "Geometric mean: exp of the mean of ln(speed-up); a shape counts as often as its network has it; no interval."
    )
    for machine in in_machine_order(timed):
        lines.append(_missing(machine, [panel for panel in panels if panel.machine == machine], timed, candidate))
    if not timed["recorded"].isna().any():
        lines.append(f"Nothing is measured on this machine yet; to measure, type: {of_layers.COMMAND}")
    return lines


def _missing(machine: str, panels: list[Panel], timed: pd.DataFrame, candidate: str) -> str:
    own = timed[timed["machine"] == machine]
    if panels:
        own = own[own["regime"].isna() | ((own["regime"] == panels[0].regime) & (own["l2"].fillna("") == panels[0].l2))]
    drawn = {case for panel in panels for case in panel.rows["case_id"]}
    own = own.assign(other=own["arm"] != candidate).sort_values("other", kind="stable")
    text = of_layers.not_drawn(own[~own["other"] | (own["role"] == "baseline")], drawn)
    gaps = own[(own["role"] == "baseline") & own["case_id"].isin(drawn) & (own["status"] != "ok")]
    if len(gaps):
        gaps = gaps.assign(arm=gaps["arm"].map(style.system))
        counts = gaps.drop_duplicates(["case_id", "arm"]).groupby(["arm", "status"]).size()
        labels = style.looks(gaps["arm"])
        gap = ", ".join(f"{labels[arm].label} {count} {status}" for (arm, status), count in counts.items())
        text = f"{text}; " * bool(text) + f"baselines missing in drawn cases: {gap}"
    return f"{machine[0].upper()}{machine[1:]}: {text}." if text else ""


def _description(panels: list[Panel], baselines: dict[str, style.Look]) -> str:
    said = [" ".join(line for line in _heading(panel, baselines) if line) for panel in panels]
    return "Speed-up of the sparse convolution over each baseline by layer, on a log scale. " + ". ".join(said) + "."
