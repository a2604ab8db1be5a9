"""Figure `cusnn_gain`: from the dense library to ours: which part of the way is the kernel's, which the zeros'."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from frugal.figures import frames, style, told
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.cusnn import networks
from frugal.figures.cusnn import timed as of_times
from frugal.figures.frames import in_machine_order

TITLE = "Where the speed-up over dense fp32 comes from"
# Parts have colours of their own, none of which belongs to a system.
PARTS = {
    "graph": ("CUDA graph instead of eager calls", "#BBBBBB"),
    "kernel": ("our dense kernel instead of the library's", "#332288"),
    "fused": ("fusion with batch norm, bias and ReLU", "#88CCEE"),
    "skip": ("zeros skipped", "#EE6677"),
}


@dataclass(frozen=True)
class Way:
    """One row: factors by part (PARTS), whose product is the whole speed-up; `what` it is of, where, `regime`."""

    machine: str
    regime: str
    what: str
    factors: dict[str, float]

    @property
    def whole(self) -> float:
        return math.prod(self.factors.values())


def gain(measurements: pd.DataFrame) -> Figure:
    """Factors of the speed-up as parts of a bar on a log scale, a row a network and batch size, one panel a machine.

    Layers: times are sums over the 3×3 layers, each as often as its network has it; the kernel is (dense library,
    faster fp32 layout)/(dense twin), the zeros are (dense twin)/(sparse). Networks: the graph is what it gives the
    library, fusion is (unfused)/(sparse), the zeros are (dense twin)/(sparse), and the kernel is the rest, so that the
    product is (library, eager)/(sparse, in a graph). Frames as frugal.figures.frames.load gives them.
    """
    layers, whole = of_layers.of(measurements, "layers", "time"), networks.rows(measurements, "time")
    ways = [*_of_layers(layers), *_of_networks(whole)]
    if not ways:
        empty = (
            "Ours and the dense library have not been timed yet, neither on this machine nor in a recorded campaign."
        )
        return of_layers.nothing(TITLE, pd.concat([layers, whole]), "cases", empty)
    machines = [name for name in _machines(layers, whole) if any(way.machine == name for way in ways)]
    panels = [(machine, [way for way in ways if way.machine == machine]) for machine in machines]
    notes = _notes(panels, layers, whole)
    heights = [0.75 + 0.4 * len(own) for _, own in panels]
    with style.context():
        figure = Figure(figsize=(style.WIDTH, 1.35 + sum(heights) + style.note_height(notes)), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (machine, own) in zip(grid, panels, strict=True):
            _draw(axes, machine, own, _limits(ways))
        grid[-1].set_xlabel("speed-up over the dense library in fp32")
        style.describe(figure, TITLE, ". ".join(f"{machine}: {'; '.join(map(_said, own))}" for machine, own in panels))
        style.head(figure, TITLE, _legend(ways))
        style.notes(figure, notes)
    return figure


def _machines(*tables: pd.DataFrame) -> list[str]:
    return in_machine_order(pd.concat([frame[["recorded", "machine"]] for frame in tables]))


def _of_layers(timed: pd.DataFrame) -> list[Way]:
    joined = frames.over_sessions(of_times.in_one_regime(frames.usable(timed[timed["r"] == 3])))
    ways = []
    for machine in in_machine_order(joined):
        own = joined[joined["machine"] == machine]
        for (network, batch), rows in own.groupby(["network", "n"], sort=True):
            times = rows.pivot(index="case_id", columns="arm", values="value")
            dense = [arm for arm in of_times.FP32 if arm in times]
            if not dense or not {"sparse", "dense_twin"} <= set(times):
                continue
            times = times.assign(dense=times[dense].min(axis=1)).dropna(subset=["dense", "sparse", "dense_twin"])
            counts = rows.drop_duplicates("case_id").set_index("case_id")["count"].reindex(times.index)
            if times.empty:
                continue
            sums = {arm: float(np.dot(counts, times[arm])) for arm in ("dense", "dense_twin", "sparse")}
            factors = {"kernel": sums["dense"] / sums["dense_twin"], "skip": sums["dense_twin"] / sums["sparse"]}
            what = f"{told.pretty(str(network))}, 3×3 layers\nbatch {batch:.0f}"
            ways.append(Way(machine, of_times.words(rows["regime"].iloc[0], rows["l2"].iloc[0]), what, factors))
    return ways


def _of_networks(timed: pd.DataFrame) -> list[Way]:
    joined = frames.over_sessions(timed)
    ways = []
    for machine in in_machine_order(joined):
        own = joined[joined["machine"] == machine]
        for (network, batch), rows in own.groupby(["network", "n"], sort=True):
            regime, l2 = of_times.regime_of(rows)
            here = rows[(rows["regime"] == regime) & (rows["l2"] == l2)].set_index("arm")["value"]
            wall = rows[rows["regime"] == "wall"].set_index("arm")["value"]
            dense = min((arm for arm in of_times.FP32 if arm in here), key=lambda arm: here[arm], default=None)
            if dense is None or not {"sparse", "dense_twin"} <= set(here.index):
                continue
            factors = {"graph": wall[dense] / here[dense]} if regime == "graph" and dense in wall else {}
            skip = here["dense_twin"] / here["sparse"]
            fused = {"fused": here["unfused"] / here["sparse"]} if "unfused" in here else {}
            factors["kernel"] = here[dense] / here["sparse"] / skip / fused.get("fused", 1.0)
            what = f"{told.pretty(str(network))}, whole\nbatch {batch:.0f}"
            ways.append(Way(machine, of_times.words(regime, l2), what, {**factors, **fused, "skip": skip}))
    return ways


def _limits(ways: list[Way]) -> tuple[float, float]:
    """The least and the greatest speed-up on the way, with room around them."""
    points = [1.0, *(point for way in ways for point in np.cumprod(list(way.factors.values())))]
    return min(points) / 1.15, max(max(points) * 1.15, 2.5)


def _draw(axes: Axes, machine: str, ways: list[Way], limits: tuple[float, float]) -> None:
    axes.set_xscale("log")
    for place, way in enumerate(ways):
        at = 1.0
        for part, factor in way.factors.items():
            left, right = sorted((at, at * factor))
            # A factor below 1 goes back: hatched over what was gained before it.
            face = {"color": PARTS[part][1]} if factor >= 1 else {
                "facecolor": "none", "edgecolor": PARTS[part][1], "hatch": "////", "linewidth": 1.2
            }  # fmt: skip
            axes.barh(place, right - left, left=left, height=0.5, label=part, zorder=3 if factor < 1 else 2, **face)
            at *= factor
        axes.plot([at, at], [place - 0.36, place + 0.36], color=style.INK, linewidth=1.6, zorder=4)
        axes.annotate(_factors(way), (limits[0], place - 0.3), xytext=(4, 1), textcoords="offset points", va="bottom",
                      fontsize=style.NOTE_SIZE, color=style.MUTED, annotation_clip=False)  # fmt: skip
    axes.axvline(1, color=style.INK, linewidth=1.0)
    axes.set(xlim=limits, ylim=(len(ways) - 0.5, -0.75))
    axes.set_yticks(range(len(ways)), [way.what for way in ways])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(style.times))
    regimes = sorted({way.regime for way in ways})
    style.panel_title(axes, [f"{machine} · {' and '.join(regimes)}"])


def _factors(way: Way) -> str:
    parts = " · ".join(f"{part} {factor:.2f}×" for part, factor in way.factors.items())
    return f"{parts} = {style.times(way.whole)}"


def _legend(ways: list[Way]) -> list[Patch]:
    used = {part for way in ways for part in way.factors}
    return [Patch(color=colour, label=words) for part, (words, colour) in PARTS.items() if part in used]


def _notes(panels: list[tuple[str, list[Way]]], layers: pd.DataFrame, whole: pd.DataFrame) -> list[str]:
    lines = [
        "Factors multiply: each part of a bar begins where the one before it ends, on a log scale. Hatched: a factor "
        "below 1, which takes away. Layers: sums of times over the 3×3 layers. Quotients of times over sessions, "
        "without intervals."
    ]
    if any("graph" in way.factors or "fused" in way.factors for _, ways in panels for way in ways):
        lines.append(
            "Whole networks: the graph is what it gives the library; fusion and zeros are what leaving each out of "
            "ours costs; the kernel is the rest."
        )
    drawn = {machine for machine, _ in panels}
    for machine in _machines(layers, whole):
        if machine not in drawn:
            lines.append(f"{machine[0].upper()}{machine[1:]}: sparse, its dense twin and fp32 were not timed together.")
    return [*lines, of_layers.nothing_here(pd.concat([layers, whole]))]


def _said(way: Way) -> str:
    return f"{way.what.replace(chr(10), ', ')}: {_factors(way)}"
