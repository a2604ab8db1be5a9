"""What the layer figures share: which rows are layers, in which order they stand, how they are labelled and counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from frugal.figures import style, told
from frugal.figures.cusnn import timed
from frugal.figures.frames import axis

COMMAND = "snakemake --cores all cusnn"
KEY = ["network", "depth", "layer"]
SHAPE = ["network", "r", "stride", "c", "h", "k"]
_PANEL = 5.8  # inches: the width of a panel without its y labels
_ONE_LINE, _TWO_LINES, _UPRIGHT = 1.15, 0.6, 0.14  # inches from label to label that each way of writing them needs


@dataclass(frozen=True)
class Group:
    """Neighbouring layers under one tick label: positions `first` to `last`, both included."""

    label: str
    first: int
    last: int


def of(measurements: pd.DataFrame, experiment: str, metric: str) -> pd.DataFrame:
    """The rows of one of cuSNN's experiments that are about a network's layers, with three more columns.

    `depth`: the axis `layer_index`, else the order of the layers' names. `weights`: where the network's are from.
    `count`: how many layers of the network the case stands for (axis `layers_of_shape`, else 1).
    """
    rows = timed.of(measurements, experiment, metric)
    rows = rows[rows["layer"].notna()]
    rows = rows.assign(
        network=rows["network"].fillna("any network"),
        depth=pd.to_numeric(axis(rows, "layer_index")),
        count=pd.to_numeric(axis(rows, "layers_of_shape")).fillna(1),
    )
    by_name = {name: place for place, name in enumerate(sorted(rows["layer"].unique(), key=_natural))}
    return rows.assign(depth=rows["depth"].fillna(rows["layer"].map(by_name)).astype(float))


def is_random(weights: object) -> bool:
    """Whether the origin of weights, as the records tell it, is a generator and not a training."""
    return isinstance(weights, str) and weights.startswith(("random", "synthetic"))


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a layer, by network and depth, with its `place` on the axis (0, 1, …)."""
    layers = rows.drop_duplicates(KEY).sort_values(KEY, kind="stable").reset_index(drop=True)
    return layers.assign(place=range(len(layers)))


def in_shapes(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the `place` of their shape on an axis of distinct shapes: by network, 3×3 before 1×1, depth."""
    known = rows.assign(stride=rows["stride"].fillna(1), wide=-rows["r"])
    shapes = known.sort_values(["network", "wide", "depth", "stride"], kind="stable").drop_duplicates(SHAPE)
    places = shapes[SHAPE].assign(place=range(len(shapes)))
    return known.merge(places, on=SHAPE).drop(columns="wide")


def shape(layer: pd.Series) -> str:
    """A convolution in short: channels, height → filters; the filter's size unless 3×3; the stride unless 1."""
    stride = "" if layer["stride"] in (1, None) or pd.isna(layer["stride"]) else f" /{layer['stride']:.0f}"
    return f"{_filter(layer)}{layer['c']:.0f},{layer['h']:.0f}→{layer['k']:.0f}{stride}"


def _filter(layer: pd.Series) -> str:
    return "" if layer["r"] == 3 else f"{layer['r']:.0f}×{layer['s']:.0f} "


def groups(layers: pd.DataFrame, labels: Sequence[str]) -> list[Group]:
    """Runs of neighbouring layers of one network with one label (`layers` from `in_order`)."""
    runs: list[Group] = []
    networks = layers["network"].tolist()
    for place, label in enumerate(labels):
        if runs and runs[-1].label == label and networks[place] == networks[place - 1]:
            runs[-1] = Group(label, runs[-1].first, place)
        else:
            runs.append(Group(label, place, place))
    return runs


def label_axis(axes: Axes, layers: pd.DataFrame) -> str:
    """Shapes below the panel, one label a group of equal layers, with thin lines between; returns the axis' label.

    Where there are more shapes than labels fit (every 1×1 layer of a DenseNet has its own), heights stand for them.
    """
    inch = len(layers) / _PANEL
    runs = groups(layers, [shape(layer) for _, layer in layers.iterrows()])
    means = "layer: channels,height→filters (3×3 unless said)"
    if len(runs) * _UPRIGHT > _PANEL:
        runs = groups(layers, [f"{_filter(layer)}{layer['h']:.0f}²" for _, layer in layers.iterrows()])
        means = "layers in groups of equal input height (3×3 unless said)"
    places = [(run.first + run.last) / 2 for run in runs]
    labels = [run.label for run in runs]
    nearest = min((right - left for left, right in pairwise(places)), default=len(layers)) / inch
    if nearest < _TWO_LINES:
        axes.tick_params(axis="x", labelrotation=90)
        places = _apart(places, _UPRIGHT * inch, len(layers) - 1)
    elif nearest < _ONE_LINE:
        labels = [label.replace("→", "\n→") for label in labels]
    axes.set_xticks(places, labels)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    for run in runs[1:]:
        axes.axvline(run.first - 0.5, color="#D0D0D0", linewidth=0.6, zorder=0)
    axes.set_xlim(-0.7, len(layers) - 0.3)
    return means


def random_layers(layers: pd.DataFrame) -> str:
    """ "random weights", "random weights in 3 of 16 layers", or nothing; one row a layer."""
    random = layers["weights"].map(is_random)
    if not random.any():
        return ""
    return "random weights" + ("" if random.all() else f" in {random.sum()} of {len(random)} layers")


def name_networks(axes: Axes, layers: pd.DataFrame) -> None:
    """Networks on the panel's upper edge, with a line between two."""
    networks = groups(layers, layers["network"].tolist())
    above = axes.secondary_xaxis("top")
    above.set_xticks(
        [(run.first + run.last) / 2 for run in networks],
        [f"{told.pretty(run.label)} ({run.last - run.first + 1})" for run in networks],
    )
    above.tick_params(axis="x", length=0, labelcolor=style.MUTED, pad=1)
    above.spines["top"].set_visible(False)
    for run in networks[1:]:
        axes.axvline(run.first - 0.5, color="#8A8A8A", linewidth=0.9, zorder=0)


def command(experiment: str) -> str:
    """What to type to measure one of cuSNN's experiments."""
    return f'snakemake --cores all --config "cusnn={{experiments: [{experiment}]}}" -- cusnn'


def nothing_here(rows: pd.DataFrame, command: str = COMMAND) -> str:
    """frugal.figures.told.nothing_here, with what to type for cuSNN."""
    return told.nothing_here(rows, command)


def nothing(title: str, rows: pd.DataFrame, what: str, empty: str, command: str = COMMAND) -> Figure:
    """frugal.figures.told.nothing, with what to type for cuSNN."""
    return told.nothing(title, rows, what, empty, command)


def _apart(places: Sequence[float], least: float, last: float) -> list[float]:
    """The places, pushed apart to at least `least` and back from the right end `last`, order kept."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + least) if moved else place)
    for i in range(len(moved) - 1, -1, -1):
        moved[i] = min(moved[i], last - (len(moved) - 1 - i) * least)
    return moved


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
