"""Figure `cusnn_sparsity`: the share of zeros in what each convolution reads, by depth."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from frugal.figures import style, told
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.frames import in_machine_order

TITLE = "Zeros in the inputs of the convolutions"
ESTIMATE = "bn_closed_form"  # the arm whose rows are the closed form from batch norm's parameters, not a count
# Filters have colours and markers of their own, none of which belongs to a system (frugal.figures.style.LOOKS).
FILTERS = {
    "3×3": style.Look("3×3 convolutions", "#332288", "o"),
    "1×1": style.Look("1×1 convolutions", "#999933", "s"),
    "other": style.Look("other filters", "#8A8A8A", "D"),
}


def sparsity(measurements: pd.DataFrame) -> Figure:
    """Mean share of zeros by layer depth, with the least and the greatest of the photographs as a band.

    One panel a machine, network and origin of weights. Hollow marks: the closed-form estimate from batch norm, where
    rows of arm `bn_closed_form` exist. Networks with random weights are labelled so (key `weights` of the axes or of
    the arm's settings).
    """
    rows = of_layers.of(measurements, "sparsity", "sparsity")
    rows = rows.assign(filter=[_filter(size) for size in rows["r"]])
    drawn = rows[(rows["status"] == "ok") & rows["value"].notna()].astype({"value": float, "min": float, "max": float})
    panels = _panels(drawn)
    if not panels:
        empty = "The zeros of no network have been counted yet, neither on this machine nor in a recorded campaign."
        return of_layers.nothing(TITLE, rows, "layers", empty)
    with style.context():
        notes = _notes(rows, drawn)
        figure = Figure(
            figsize=(style.WIDTH, 1.6 + 2.25 * len(panels) + style.note_height(notes)), layout="constrained"
        )
        grid = figure.subplots(len(panels), 1, squeeze=False, sharey=True)[:, 0]
        for axes, panel in zip(grid, panels, strict=True):
            _draw(axes, panel)
        grid[-1].set_xlabel("convolution, by depth in the network")
        style.describe(figure, TITLE, _description(panels))
        style.head(figure, TITLE, _legend(drawn))
        style.notes(figure, notes)
    return figure


def _panels(drawn: pd.DataFrame) -> list[pd.DataFrame]:
    panels = []
    for machine in in_machine_order(drawn):
        own = drawn[drawn["machine"] == machine]
        for _, rows in own.groupby(["network", own["weights"].fillna("")], sort=True):
            # Counting zeros repeats exactly: of several sessions any one says it, the last here.
            panels.append(rows.drop_duplicates(["arm", *of_layers.KEY], keep="last").sort_values("depth"))
    return panels


def _filter(size: float) -> str:
    return {3: "3×3", 1: "1×1"}.get(int(size), "other") if pd.notna(size) else "other"


def _draw(axes: Axes, panel: pd.DataFrame) -> None:
    counted, estimated = panel[panel["arm"] != ESTIMATE], panel[panel["arm"] == ESTIMATE]
    size = 22 if panel["depth"].nunique() <= 60 else 12
    for name, look in FILTERS.items():
        rows = counted[counted["filter"] == name]
        if len(rows):
            band = rows.dropna(subset=["min", "max"])
            axes.fill_between(band["depth"], band["min"], band["max"], color=look.colour, alpha=0.18, linewidth=0,
                              label=name)  # fmt: skip
            sns.lineplot(data=rows, x="depth", y="value", errorbar=None, color=look.colour, linewidth=1.0, ax=axes,
                         legend=False, label=name)  # fmt: skip
            sns.scatterplot(data=rows, x="depth", y="value", color=look.colour, marker=look.marker, s=size,
                            linewidth=0, ax=axes, legend=False, zorder=3, label=name)  # fmt: skip
        guess = estimated[estimated["filter"] == name]
        if len(guess):
            sns.scatterplot(data=guess, x="depth", y="value", color=look.colour, edgecolor=look.colour,
                            marker=look.marker, s=size + 14, linewidth=0.9, ax=axes, legend=False, zorder=4,
                            label=f"{name} estimate")  # fmt: skip
            axes.collections[-1].set_facecolor("none")
    axes.set(xlabel="", ylabel="share of zeros", ylim=(-0.02, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.margins(x=0.02)
    style.panel_title(axes, _heading(panel))


def _heading(panel: pd.DataFrame) -> list[str]:
    first = panel.iloc[0]
    counted = panel[panel["arm"] != ESTIMATE]
    parts = [told.pretty(first["network"])]
    if random := of_layers.random_layers(panel.drop_duplicates("case_id")):
        parts.append(random)
    if len(counted) and pd.notna(counted.iloc[0]["n_samples"]):
        images = int(counted["n_samples"].max())
        parts.append(f"{images} photograph{'s' if images != 1 else ''}")
    return [" · ".join(parts), first["machine"]]


def _legend(drawn: pd.DataFrame) -> list[Line2D | Patch]:
    used = [look for name, look in FILTERS.items() if (drawn["filter"] == name).any()]
    handles: list[Line2D | Patch] = [style.handle(look, label=f"{look.label}, mean") for look in used]
    handles.append(Patch(color=style.MUTED, alpha=0.25, linewidth=0, label="least to greatest of the photographs"))
    if (drawn["arm"] == ESTIMATE).any():
        handles.append(
            style.handle(style.Look("", style.MUTED, "o"), hollow=True, label="closed form from batch norm (hollow)")
        )
    return handles


def _notes(rows: pd.DataFrame, drawn: pd.DataFrame) -> list[str]:
    lines = []
    if drawn["weights"].map(of_layers.is_random).any():
        lines.append(
            "Random weights: the network's weights were drawn to reach plausible shares of zeros; they are not "
            "trained, and their zeros say nothing about a trained network's."
        )
    for machine in in_machine_order(rows):
        own = rows[rows["machine"] == machine]
        text = told.not_drawn(own, drawn.loc[drawn["machine"] == machine, "case_id"], "layers")
        lines.append(f"{machine[0].upper()}{machine[1:]}: {text}." if text else "")
    return [*lines, of_layers.nothing_here(rows)]


def _description(panels: list[pd.DataFrame]) -> str:
    said = []
    for panel in panels:
        counted = panel[panel["arm"] != ESTIMATE]
        if len(counted):
            said.append(
                f"{' · '.join(_heading(panel))}: {len(counted)} layers, mean share of zeros from "
                f"{counted['value'].min():.0%} to {counted['value'].max():.0%}"
            )
    return "Share of zeros in the input of each convolution by depth. " + ". ".join(said) + "."
