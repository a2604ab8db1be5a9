"""Figure `cusnn_layer_speedup`: each system against the dense library in full precision, layer shape by layer shape."""

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

from frugal.figures import frames, style, told
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.cusnn import timed as of_times
from frugal.figures.frames import in_machine_order

TITLE = "Speed-up over the dense library in fp32, layer by layer"
CONDITIONAL = "one session: ranges are min–max of rounds, no verdict"
PAPER = style.Look("published, over cuDNN's GEMM algorithms", style.LOOKS["paper_scheme"].colour, "H")
_OF_CASE = ["network", "layer", "depth", "n", "c", "h", "k", "r", "s", "stride", "weights", "count"]


@dataclass(frozen=True)
class Panel:
    """One machine and batch: the ratios of its cases (`cases`), of its shapes (`rows`) and the shapes on its axis."""

    machine: str
    regime: str
    l2: str
    batch: int
    cases: pd.DataFrame
    rows: pd.DataFrame
    layers: pd.DataFrame

    @property
    def conditional(self) -> bool:
        return bool(self.cases["conditional"].any())


def layer_speedup(comparisons: pd.DataFrame, measurements: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Time of the dense library's faster fp32 layout over each system's, log scale; one panel a machine and batch size.

    One mark a system and distinct layer shape; several layers of one shape are joined by their geometric mean. Marks
    and bars of our arms are `ratio`, `ratio_low` and `ratio_high` of the comparisons; other systems are quotients of
    values over sessions, without bars. Bars of joined layers run from the least to the greatest of them. Each machine
    is drawn in the regime that most systems share (of equals the first of timed.REGIMES). Hollow: published values.
    Frames as frugal.figures.frames.load gives them.
    """
    timed = of_layers.of(measurements, "layers", "time")
    panels = _panels(_ratios(timed, comparisons))
    if not panels:
        empty = "No layer has been timed yet, neither on this machine nor in a recorded campaign."
        return of_layers.nothing(TITLE, timed, "cases", empty)
    with style.context():
        papers = _published(published)
        notes = _notes(panels, timed, papers)
        bottoms = [
            i for i, panel in enumerate(panels) if i + 1 == len(panels) or panels[i + 1].machine != panel.machine
        ]
        height = 1.35 + 2.35 * len(panels) + 0.75 * len(bottoms) + style.note_height(notes)
        figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, sharey=True)[:, 0]
        systems = style.looks(pd.concat([panel.rows["arm"] for panel in panels]))
        for place, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
            _draw(axes, panel, systems, papers, labelled=place in bottoms)
        _scale(grid[0], *_limits(panels, papers))
        style.describe(figure, TITLE, _description(panels, systems))
        style.head(figure, TITLE, _legend(panels, systems, papers))
        style.notes(figure, notes)
    return figure


def geometric_mean(rows: pd.DataFrame) -> tuple[float, int]:
    """(geometric mean of the ratios, number of layers): a shape counts as often as its network has it (`count`)."""
    return math.exp(np.average(np.log(rows["ratio"]), weights=rows["count"])), int(rows["count"].sum())


def _ratios(timed: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """One row a machine, case and system but the dense fp32 ones: `ratio`, and where it is stored its interval."""
    drawable = frames.usable(timed)
    references = drawable.loc[drawable["arm"].isin(of_times.FP32), ["machine", "case_id", "regime", "l2"]]
    paired = drawable.merge(references.drop_duplicates(), on=["machine", "case_id", "regime", "l2"])
    joined = frames.over_sessions(of_times.in_one_regime(paired))
    best = joined[joined["arm"].isin(of_times.FP32)].sort_values("value", kind="stable")
    best = best.drop_duplicates(["machine", "case_id"])[["machine", "case_id", "arm", "value"]]
    best = best.rename(columns={"arm": "baseline", "value": "base"})
    rows = joined[~joined["arm"].isin(of_times.FP32)].merge(best, on=["machine", "case_id"])
    stored = comparisons[comparisons["metric"] == "time"].assign(l2=comparisons["l2"].fillna(""))
    stored = stored.rename(columns={"candidate": "arm", "conditional": "alone"})
    keys = ["machine", "case_id", "arm", "baseline", "regime", "l2"]
    rows = rows.merge(stored[[*keys, "ratio", "ratio_low", "ratio_high", "alone"]], on=keys, how="left")
    rows = rows.assign(
        ratio=rows["ratio"].astype(float).fillna(rows["base"] / rows["value"]),
        conditional=rows["alone"].where(rows["alone"].notna(), rows["conditional"]).astype(bool),
    )
    return of_times.best_layout(rows)


def _panels(ratios: pd.DataFrame) -> list[Panel]:
    panels = []
    for machine in in_machine_order(ratios):
        own = of_layers.in_shapes(ratios[ratios["machine"] == machine])
        layers = own.sort_values("place").drop_duplicates("place")
        for batch, cases in own.groupby("n", sort=True):
            panels.append(
                Panel(machine, own["regime"].iloc[0], own["l2"].iloc[0], int(batch), cases, _of_shapes(cases), layers)
            )
    return panels


def _of_shapes(cases: pd.DataFrame) -> pd.DataFrame:
    """One row a shape and system: one case's ratio with its interval, or the mean of several with their range."""
    rows = []
    for (arm, place), own in cases.groupby(["arm", "place"], sort=False):
        alone = len(own) == 1
        low, high = ("ratio_low", "ratio_high") if alone else ("ratio", "ratio")
        rows.append(
            {
                "arm": arm, "place": place, "ratio": geometric_mean(own)[0], "low": own[low].min(),
                "high": own[high].max(), "layers": len(own), "conditional": bool(own["conditional"].any()),
                "network": own["network"].iloc[0],
            }
        )  # fmt: skip
    return pd.DataFrame(rows).astype({"low": float, "high": float})


def _published(published: pd.DataFrame) -> pd.DataFrame:
    """The published speed-ups by shape: the mean of those of one shape, with the least and the greatest."""
    rows = published[published["metric"] == "speedup"].rename(columns={"C": "c", "H": "h", "N": "k"})
    return rows.groupby(["model", "hardware", "B", "c", "h", "k"], as_index=False)["value"].agg(["mean", "min", "max"])


def _draw(axes: Axes, panel: Panel, systems: dict[str, style.Look], papers: pd.DataFrame, *, labelled: bool) -> None:
    axes.set_yscale("log")
    axes.axhline(1, color=style.INK, linewidth=1, zorder=1)
    axes.axhspan(1e-9, 1, color="#F4F4F4", zorder=0)
    here = {name: look for name, look in systems.items() if (panel.rows["arm"] == name).any()}
    # Marks of one layer stand beside each other.
    step = min(0.2, 0.6 / max(1, len(here) - 1))
    offsets = {name: (place - (len(here) - 1) / 2) * step for place, name in enumerate(here)}
    rows = panel.rows.assign(x=panel.rows["place"] + panel.rows["arm"].map(offsets))
    size = 34 if len(panel.layers) <= 24 else 11
    for name, look in here.items():
        for conditional, own in rows[rows["arm"] == name].groupby("conditional"):
            _marks(axes, own, name, look, size, bool(conditional))
    _paper_marks(axes, panel, papers, size)
    means = of_layers.label_axis(axes, panel.layers)
    of_layers.name_networks(axes, panel.layers)
    axes.set(xlabel=means if labelled else "", ylabel="speed-up over fp32")
    axes.tick_params(axis="x", labelbottom=labelled)
    style.panel_title(axes, _heading(panel, systems))


def _marks(axes: Axes, rows: pd.DataFrame, name: str, look: style.Look, size: float, conditional: bool) -> None:
    known = rows.dropna(subset=["low", "high"])
    bars = axes.vlines(
        known["x"], known["low"], known["high"], colors=look.colour, label=name, zorder=2, linewidth=1.0,
        linestyles=(0, (1.5, 1.2)) if conditional else "solid",
    )  # fmt: skip
    bars.set_capstyle("butt")
    sns.scatterplot(
        data=rows, x="x", y="ratio", color=look.colour, edgecolor=look.colour, marker=look.marker, s=size,
        linewidth=1.0, ax=axes, legend=False, zorder=3, label=name,
    )  # fmt: skip
    if conditional:
        axes.collections[-1].set_facecolor(style.PAPER)


def _paper_marks(axes: Axes, panel: Panel, papers: pd.DataFrame, size: float) -> None:
    shapes = panel.layers.loc[(panel.layers["r"] == 3) & (panel.layers["stride"] == 1), [*of_layers.SHAPE, "place"]]
    found = shapes.rename(columns={"network": "model"}).merge(
        papers[papers["B"] == panel.batch], on=["model", "c", "h", "k"]
    )
    if len(found):
        axes.vlines(found["place"], found["min"], found["max"], colors=PAPER.colour, linewidth=1.0, zorder=2)
        axes.scatter(
            found["place"], found["mean"], color=PAPER.colour, facecolor="none", marker=PAPER.marker, s=size + 20,
            zorder=4, label="published",
        )  # fmt: skip


def _heading(panel: Panel, systems: dict[str, style.Look]) -> list[str]:
    random = of_layers.random_layers(panel.cases.drop_duplicates("case_id"))
    random = f" · {random}" if random else ""
    lines = [
        f"{panel.machine} · batch {panel.batch} · {of_times.words(panel.regime, panel.l2)}{random}",
    ]
    for size, cases in panel.cases.groupby("r", sort=True):
        means = {name: geometric_mean(own) for name, own in cases.groupby("arm")}
        numbers = {count for _, count in means.values()}
        each = [
            style.unbroken(f"{style.times(means[name][0])} {look.label}" + f" ({means[name][1]})" * (len(numbers) > 1))
            for name, look in systems.items()
            if name in means
        ]
        over = told.counted(numbers.pop(), "layer") if len(numbers) == 1 else "the layers drawn (number)"
        lines.append(f"geometric mean over {over} {size:.0f}×{size:.0f}: " + ", ".join(each))
    return [*lines, CONDITIONAL if panel.conditional else ""]


def _limits(panels: Iterable[Panel], papers: pd.DataFrame) -> tuple[float, float]:
    """Room for all marks and for bars up to twice beyond them; a longer bar visibly leaves the panel."""
    rows = pd.concat([panel.rows for panel in panels])
    drawn = {network for panel in panels for network in panel.layers["network"]}
    marks = [*rows["ratio"], *papers.loc[papers["model"].isin(drawn), "max"]]
    low, high = min([1.0, *marks]), max([1.0, *marks])
    low = max(low / 2, min([low, *rows["low"].dropna()]))
    high = min(high * 2, max([high, *rows["high"].dropna()]))
    return low / 1.2, high * 1.2


def _scale(axes: Axes, low: float, high: float) -> None:
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if high / low > 6 else (1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(style.times))


def _legend(panels: Iterable[Panel], systems: dict[str, style.Look], papers: pd.DataFrame) -> list[Line2D]:
    hollow = all(panel.conditional for panel in panels)
    marks = [style.handle(look, hollow=hollow) for look in systems.values()]
    drawn = {network for panel in panels for network in panel.layers["network"]}
    hardware = papers.loc[papers["model"].isin(drawn), "hardware"].unique()
    return [*marks, *(style.handle(PAPER, label=f"{PAPER.label} ({name})", hollow=True) for name in hardware)]


def _notes(panels: list[Panel], timed: pd.DataFrame, papers: pd.DataFrame) -> list[str]:
    lines = [
        "Speed-up: time of the dense library's faster fp32 layout (cuDNN, on a CPU oneDNN) over the system's, for each "
        "layer shape; above the line at 1 the system is faster. TF32 and float16 are less exact."
    ]
    if any((panel.rows["layers"] > 1).any() for panel in panels):
        lines.append(
            "Where a network has a shape more than once: geometric mean, and bars from the least to the greatest layer."
        )
    if not all(panel.conditional for panel in panels):
        lines.append("Other bars: stored 95 % intervals over sessions; other systems than ours have none.")
    if any(panel.conditional for panel in panels):
        lines.append(f"Hollow marks, dotted bars: {CONDITIONAL}.")
    lines.append(
        "Geometric mean: exp of the mean of ln(speed-up); a shape counts as often as its network has it; no interval."
    )
    for machine in in_machine_order(timed):
        lines.append(_missing(machine, [panel for panel in panels if panel.machine == machine], timed))
    return [*lines, of_layers.nothing_here(timed)]


def _missing(machine: str, panels: list[Panel], timed: pd.DataFrame) -> str:
    own = timed[timed["machine"] == machine]
    if panels:
        regime, l2 = panels[0].regime, panels[0].l2
        own = own[(own["regime"] == "") | ((own["regime"] == regime) & (own["l2"] == l2))]
    drawn = {case for panel in panels for case in panel.cases["case_id"]}
    own = own.assign(other=own["arm"] != "sparse").sort_values("other", kind="stable")
    text = told.not_drawn(own, drawn)
    gaps = own[own["case_id"].isin(drawn) & (own["status"] != "ok")]
    if len(gaps):
        gaps = gaps.assign(arm=gaps["arm"].map(style.system))
        counts = gaps.drop_duplicates(["case_id", "arm"]).groupby(["arm", "status"]).size()
        labels = style.looks(gaps["arm"])
        gap = ", ".join(f"{labels[arm].label} {count} {status}" for (arm, status), count in counts.items())
        text = f"{text}; " * bool(text) + f"systems missing in drawn cases: {gap}"
    return f"{machine[0].upper()}{machine[1:]}: {text}." if text else ""


def _description(panels: list[Panel], systems: dict[str, style.Look]) -> str:
    said = [" ".join(line for line in _heading(panel, systems) if line) for panel in panels]
    return "Speed-up of each system over the dense library in fp32 by layer, on a log scale. " + ". ".join(said) + "."
