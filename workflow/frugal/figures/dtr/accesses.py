"""Figure `dtr_accesses`: how much of the graph the heuristics look at."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from frugal.figures import style
from frugal.figures.dtr import programs
from frugal.figures.frames import usable
from frugal.figures.style import Look

TITLE = "Tensors that a heuristic looks at in one step"
LOOKS = {
    "maintained": Look("h_dtr, e* maintained", "#D55E00", "o"),
    "lazy": Look("h_dtr, e* searched", "#0072B2", "s"),
    "cached": Look("h_dtr, e* cached", "#009E73", "v"),
    "h_dtr_eq": Look("h_dtr_eq", "#E69F00", "D"),
    "h_local": Look("h_local", "#5E5E5E", "X"),
}


def accesses(measurements: pd.DataFrame) -> Figure:
    """Accesses to tensors in one step (y, log) over the budget as a share of the unbudgeted peak (x), a panel a log."""
    found = programs.once(programs.of(measurements, "simulate", "overhead", "tensor_accesses"))
    found = found[found["method"].isin(("h_dtr", "h_dtr_eq", "h_local")) & found["dealloc"].isna()]
    way = found["e_star"].fillna("maintained").where(found["method"] == "h_dtr", found["method"])
    found = found.assign(way=way)
    drawn = usable(found[found["metric"] == "tensor_accesses"])
    if drawn.empty:
        empty = "No log has been simulated yet, neither on this machine nor in a recorded campaign."
        return programs.nothing(TITLE, found, empty)
    notes = [
        "e*: what would have to be computed again. Maintained: sets of neighbours kept up to date, as published; "
        "searched: a fresh search a candidate; cached: searched again only where it changed.",
        *programs.missing(found, drawn),
    ]
    return programs.compose(
        TITLE, programs.panels(drawn), _draw, handles=programs.line_handles(LOOKS), said=_said, notes=notes,
        xlabel="budget ÷ unbudgeted peak", height=2.1, legend=3,
    )  # fmt: skip


def _draw(axes: Axes, own: pd.DataFrame) -> None:
    for name, look in LOOKS.items():
        line = own[own["way"] == name].sort_values("ratio")
        axes.plot(line["ratio"], line["value"], color=look.colour, marker=look.marker, markersize=5, linewidth=1.1,
                  label=name)  # fmt: skip
    axes.set(yscale="log", xlim=(0, 1.04), ylabel="accesses")
    style.panel_title(axes, programs.heading(own))


def _said(own: pd.DataFrame) -> str:
    near = own[(own["ratio"] - 0.5).abs() < 1e-9]
    each = ", ".join(f"{LOOKS[row.way].label} {row.value:.3g}" for row in near.itertuples())
    return f"{' · '.join(programs.heading(own))}: accesses at half the peak: {each or 'none worked'}."
