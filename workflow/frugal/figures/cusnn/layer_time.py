"""Figure `cusnn_layer_time`: time of every 3×3 layer by depth, and what was published for the same layers."""

from __future__ import annotations

from dataclasses import dataclass

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

TITLE = "Time of the 3×3 layers, by depth"
PAPER = style.Look("published: cuDNN's best GEMM algorithm", style.LOOKS["gemm_fp32"].colour, "H")


@dataclass(frozen=True)
class Panel:
    """One machine and network at its least batch: times of the systems (`rows`) and its layers in order."""

    machine: str
    network: str
    batch: int
    rows: pd.DataFrame
    layers: pd.DataFrame


def layer_time(measurements: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Time in µs on a log scale by 3×3 layer, a mark a system; one panel a machine and network, at the least batch.

    Values are geometric means over sessions in the regime that most systems share. Hollow marks: published times of the
    same shape, network and batch on the hardware that the legend names. Frames as frugal.figures.frames gives them.
    """
    timed = of_layers.of(measurements, "layers", "time")
    panels = _panels(timed[timed["r"] == 3])
    if not panels:
        empty = "No 3×3 layer has been timed yet, neither on this machine nor in a recorded campaign."
        return of_layers.nothing(TITLE, timed, "cases", empty)
    with style.context():
        papers = _published(published, {panel.network for panel in panels})
        systems = style.looks(pd.concat([panel.rows["arm"] for panel in panels]))
        notes = _notes(panels, timed, papers)
        height = 1.2 + 2.75 * len(panels) + style.note_height(notes)
        figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, panel in zip(grid, panels, strict=True):
            _draw(axes, panel, systems, papers)
        style.describe(figure, TITLE, _description(panels, systems))
        style.head(figure, TITLE, _legend(systems, papers), columns=3)
        style.notes(figure, notes)
    return figure


def _panels(timed: pd.DataFrame) -> list[Panel]:
    joined = of_times.best_layout(frames.over_sessions(of_times.in_one_regime(frames.usable(timed))))
    panels = []
    for machine in in_machine_order(joined):
        for network, own in joined[joined["machine"] == machine].groupby("network", sort=True):
            rows = own[own["n"] == own["n"].min()]
            layers = of_layers.in_order(rows)
            rows = rows.merge(layers[[*of_layers.KEY, "place"]], on=of_layers.KEY)
            panels.append(Panel(machine, str(network), int(own["n"].min()), rows, layers))
    return panels


def _published(published: pd.DataFrame, networks: set[str]) -> pd.DataFrame:
    """The published times of a shape: their mean over its layers."""
    rows = published[(published["metric"] == "time") & published["model"].isin(networks) & published["C"].notna()]
    rows = rows.rename(columns={"C": "c", "H": "h", "N": "k", "B": "n"})
    return rows.groupby(["model", "hardware", "n", "c", "h", "k"], as_index=False)["value"].mean()


def _draw(axes: Axes, panel: Panel, systems: dict[str, style.Look], papers: pd.DataFrame) -> None:
    axes.set_yscale("log")
    size = 30 if len(panel.layers) <= 24 else 11
    for name, look in systems.items():
        rows = panel.rows[panel.rows["arm"] == name].sort_values("place")
        if len(rows):
            axes.plot(rows["place"], rows["value"], color=look.colour, linewidth=0.8, alpha=0.6, zorder=2)
            sns.scatterplot(data=rows, x="place", y="value", color=look.colour, edgecolor=look.colour,
                            marker=look.marker, s=size, linewidth=0.8, ax=axes, legend=False, zorder=3,
                            label=name)  # fmt: skip
    found = panel.layers[(panel.layers["stride"] == 1) & (panel.layers["network"] == panel.network)].merge(
        papers[(papers["n"] == panel.batch) & (papers["model"] == panel.network)], on=["n", "c", "h", "k"],
        suffixes=("", "_published"),
    )  # fmt: skip
    if len(found):
        axes.scatter(found["place"], found["value_published"], color=PAPER.colour, facecolor="none",
                     marker=PAPER.marker, s=size + 20, zorder=4, label="published")  # fmt: skip
    means = of_layers.label_axis(axes, panel.layers)
    axes.set(xlabel=means, ylabel="time of a layer")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(style.seconds))
    style.panel_title(axes, _heading(panel))


def _heading(panel: Panel) -> list[str]:
    regime, l2 = panel.rows["regime"].iloc[0], panel.rows["l2"].iloc[0]
    count = int(panel.layers["count"].sum())
    shown = told.counted(count, "layer")
    if count != len(panel.layers):
        shown = f"{told.counted(len(panel.layers), 'shape')} of {shown}"
    random = of_layers.random_layers(panel.layers)
    random = f" · {random}" if random else ""
    return [
        f"{told.pretty(panel.network)} · batch {panel.batch} · {shown}{random}",
        f"{panel.machine} · {of_times.words(regime, l2)}",
    ]


def _legend(systems: dict[str, style.Look], papers: pd.DataFrame) -> list[Line2D]:
    handles = [style.handle(look) for look in systems.values()]
    for hardware in papers["hardware"].unique():
        handles.append(style.handle(PAPER, label=f"{PAPER.label} ({hardware})", hollow=True))
    return handles


def _notes(panels: list[Panel], timed: pd.DataFrame, papers: pd.DataFrame) -> list[str]:
    lines = [
        "Geometric means over sessions; of a library's two memory layouts the faster one for the layer. TF32 and "
        "float16 are less exact. Other batches: cusnn_layer_speedup."
    ]
    if len(papers):
        lines.append(
            "Published times are of another GPU: they show what the paper timed, and are no baseline here. A shape has "
            "one published value, the mean over its layers."
        )
    for machine in in_machine_order(timed):
        drawn = pd.concat([timed["case_id"][:0], *(p.rows["case_id"] for p in panels if p.machine == machine)])
        own = timed[(timed["machine"] == machine) & (timed["r"] == 3)]
        batches = {panel.batch for panel in panels if panel.machine == machine}
        text = told.not_drawn(own[own["n"].isin(batches)] if batches else own, drawn)
        lines.append(f"{machine[0].upper()}{machine[1:]}: {text}." if text else "")
    return [*lines, of_layers.nothing_here(timed)]


def _description(panels: list[Panel], systems: dict[str, style.Look]) -> str:
    said = []
    for panel in panels:
        medians = panel.rows.groupby("arm")["value"].median()
        each = ", ".join(
            f"{look.label} {style.seconds(medians[name])}" for name, look in systems.items() if name in medians
        )
        said.append(f"{' · '.join(_heading(panel))}: median {each}")
    return "Time of each 3×3 layer by depth, on a log scale. " + ". ".join(said) + "."
