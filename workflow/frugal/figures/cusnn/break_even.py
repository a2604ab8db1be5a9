"""Figure `cusnn_break_even`: from which share of zeros on skipping pays, by shape, against each baseline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from frugal.cusnn import break_even_table
from frugal.figures import frames, style
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.cusnn import timed as of_times
from frugal.figures.frames import axis, in_machine_order

TITLE = "Break-even: how many zeros skipping needs"
RANGE = 2.0  # log2: colours end at a quarter and at four times
# Blue where the baseline is faster, vermillion where ours is: the two that every sight tells apart.
COLOURS = LinearSegmentedColormap.from_list("ours", [style.LOOKS["cudnn_fp32"].colour, "#F7F7F7", "#D55E00"])
_PER_ROW = 2


@dataclass(frozen=True)
class Map:
    """One machine, batch and baseline: log2(baseline/ours) by shape (rows) and share of zeros (columns).

    `ends`: by shape the break-even of frugal.cusnn (state, sparsity, sparsity_low, sparsity_high). `real`: rows (place,
    sparsity, log) measured with the zeros of a network's own activations.
    """

    machine: str
    regime: str
    batch: int
    baseline: str
    logs: pd.DataFrame
    ends: pd.DataFrame
    real: pd.DataFrame


def break_even(measurements: pd.DataFrame) -> Figure:
    """Colour: log2 of the baseline's time over ours; x: share of zeros, y: shape; a map a machine, batch and baseline.

    The line is where they are equal (frugal.cusnn.break_even, with its interval): right of it ours is nowhere slower.
    Cells are zeros at random places, circles the
    zeros of a network's own activations. Values are geometric means over sessions in the regime that most systems
    share; our dense twin counts as a baseline too. Frames as frugal.figures.frames.load gives them.
    """
    found = of_times.of(measurements, "break_even")
    maps = _maps(found)
    if not maps:
        empty = "No break-even has been measured yet, neither on this machine nor in a recorded campaign."
        return of_layers.nothing(TITLE, found, "cases", empty, of_layers.command("break_even"))
    rows = [
        chunk
        for key in dict.fromkeys((each.machine, each.batch) for each in maps)
        for own in [[each for each in maps if (each.machine, each.batch) == key]]
        for chunk in (own[start : start + _PER_ROW] for start in range(0, len(own), _PER_ROW))
    ]
    notes = _notes(found, maps)
    heights = [1.25 + 0.19 * len(own[0].logs) for own in rows]
    with style.context():
        figure = Figure(figsize=(style.WIDTH, 1.5 + sum(heights) + style.note_height(notes)), layout="constrained")
        grid = figure.subplots(len(rows), _PER_ROW, squeeze=False, height_ratios=heights)
        seen: set[str] = set()
        for line, own in zip(grid, rows, strict=True):
            for axes in line[len(own) :]:
                axes.remove()
            for place, (axes, each) in enumerate(zip(line, own, strict=False)):
                _draw(axes, each, first=place == 0, named=place == 0 and own[0].machine not in seen)
            seen.add(own[0].machine)
        _colour_bar(figure, list(figure.axes))
        style.describe(figure, TITLE, ". ".join(map(_said, maps)) + ".")
        style.head(figure, TITLE, _legend(maps))
        style.notes(figure, notes)
    return figure


def _maps(found: pd.DataFrame) -> list[Map]:
    rows = found.assign(
        sparsity=pd.to_numeric(axis(found, "sparsity")),
        pattern=axis(found, "pattern"),
        shape=[of_layers.shape(row) for _, row in found.iterrows()],
    )
    joined = of_times.best_layout(frames.over_sessions(of_times.in_one_regime(frames.usable(rows))))
    maps = []
    for machine in in_machine_order(joined):
        own = joined[joined["machine"] == machine]
        order = own.sort_values(["r", "h", "c"], ascending=[False, False, True])["shape"].drop_duplicates().tolist()
        words = of_times.words(own["regime"].iloc[0], own["l2"].iloc[0])
        ends = _ends(found[found["machine"] == machine], own["regime"].iloc[0], own["l2"].iloc[0])
        for batch, rows_of_batch in own.groupby("n", sort=True):
            ours = rows_of_batch[rows_of_batch["arm"] == "sparse"]
            shapes = [shape for shape in order if shape in set(ours["shape"])]
            for baseline in style.looks(set(rows_of_batch["arm"]) - {"sparse"}):
                theirs = rows_of_batch[rows_of_batch["arm"] == baseline][["case_id", "value"]]
                pairs = ours.merge(theirs, on="case_id", suffixes=("", "_base"))
                pairs = pairs.assign(log=np.log2(pairs["value_base"] / pairs["value"]))
                drawn = pairs[pairs["pattern"] != "real"]
                if drawn.empty:
                    continue
                logs = drawn.pivot(index="shape", columns="sparsity", values="log").reindex(shapes)
                real = pairs.loc[pairs["pattern"] == "real", ["shape", "sparsity", "log"]]
                real = real.assign(place=real["shape"].map({shape: place for place, shape in enumerate(shapes)}))
                here = ends[(ends["batch"] == batch) & (ends["baseline"] == baseline)].set_index("shape")
                maps.append(Map(machine, words, int(batch), baseline, logs, here.reindex(shapes), real))
    return maps


def _ends(rows: pd.DataFrame, regime: str, l2: str) -> pd.DataFrame:
    """The break-even of every shape with zeros at random places, in one regime, with its `shape` in short."""
    table = break_even_table.break_even(rows)
    table = table[(table["pattern"] != "real") & (table["regime"] == regime) & (table["l2"].fillna("") == l2)]
    return table.assign(shape=[of_layers.shape(row) for _, row in table.assign(s=table["r"]).iterrows()])


def _draw(axes: Axes, each: Map, *, first: bool, named: bool) -> None:
    shares = each.logs.columns.to_numpy(dtype=float)
    norm = Normalize(-RANGE, RANGE)
    axes.imshow(each.logs.to_numpy(dtype=float), cmap=COLOURS, norm=norm, aspect="auto", interpolation="nearest")
    columns = np.arange(len(shares))
    for place, (_, end) in enumerate(each.ends.iterrows()):
        if end["state"] not in (break_even_table.ALWAYS, break_even_table.FROM):
            continue
        always = end["state"] == break_even_table.ALWAYS
        x = -0.5 if always else float(np.interp(end["sparsity"], shares, columns))
        axes.plot([x, x], [place - 0.5, place + 0.5], color=style.INK, linewidth=1.8, solid_capstyle="butt", zorder=3)
        bounds = np.interp([end["sparsity_low"], end["sparsity_high"]], shares, columns)
        if not always and np.isfinite(bounds).all():
            axes.plot(bounds, [place, place], color=style.INK, linewidth=1.0, zorder=3)
    if len(each.real):
        at = np.interp(each.real["sparsity"], shares, columns)
        axes.scatter(at, each.real["place"], c=each.real["log"], cmap=COLOURS, norm=norm, s=26, edgecolor=style.INK,
                     linewidth=0.8, zorder=4, label="real")  # fmt: skip
    step = max(1, -(-len(shares) // 7))
    axes.set_xticks(columns[::step], [f"{share:.2g}".lstrip("0") or "0" for share in shares[::step]])
    axes.set_yticks(range(len(each.logs)), each.logs.index if first else [""] * len(each.logs))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_xlabel("share of zeros")
    label = style.looks([each.baseline])[each.baseline].label
    title = [f"batch {each.batch}, over {label}"]
    if named:
        title = [each.machine, each.regime, "", *title]
    axes.set_title("\n".join(title), loc="left")


def _colour_bar(figure: Figure, grid: list[Axes]) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(-RANGE, RANGE), COLOURS), ax=grid, orientation="horizontal", shrink=0.6,
        extend="both", aspect=40, ticks=[-2, -1, 0, 1, 2],
    )  # fmt: skip
    bar.ax.set_xticklabels(["¼×", "½×", "1×", "2×", "4×"])
    bar.set_label("time of the baseline over ours")


def _legend(maps: list[Map]) -> list[Line2D]:
    handles = [Line2D([], [], linestyle="none", marker="|", markersize=11, markeredgewidth=1.8, color=style.INK,
                      label="equal: right of it ours is nowhere slower")]  # fmt: skip
    if any(len(each.real) for each in maps):
        handles.append(Line2D([], [], linestyle="none", marker="o", markerfacecolor=style.PAPER, color=style.INK,
                              label="zeros of a network's own activations"))  # fmt: skip
    return handles


def _notes(found: pd.DataFrame, maps: list[Map]) -> list[str]:
    lines = [
        "Cells: zeros at random places. A row without a line: ours is slower at the greatest share, so it never pays. "
        "A line at the left edge: it always does. Geometric means over sessions; lines: frugal.cusnn.break_even, a fit "
        "that nowhere falls with more zeros, with its interval over sessions as a bar."
    ]
    for machine in in_machine_order(found):
        own = found[found["machine"] == machine]
        regimes = {each.regime for each in maps if each.machine == machine}
        shown = own[[of_times.words(*pair) in regimes for pair in zip(own["regime"], own["l2"], strict=True)]]
        bad = shown[(shown["status"] != "ok") & (shown["arm"] == "sparse")]
        if len(bad):
            counts = ", ".join(f"{count} {status}" for status, count in bad["status"].value_counts().items())
            lines.append(f"{machine[0].upper()}{machine[1:]}: cells of ours not drawn: {counts}.")
    return [*lines, of_layers.nothing_here(found, of_layers.command("break_even"))]


def _said(each: Map) -> str:
    words = []
    for shape, end in each.ends.iterrows():
        words.append(f"{shape} {end['state']}" + (f" {end['sparsity']:.2f}" if end["state"] == "from" else ""))
    label = style.looks([each.baseline])[each.baseline].label
    return f"{each.machine}, batch {each.batch}, over {label}: {', '.join(words)}"
