"""Figure `dtr_predicted_measured`: what the simulator predicts of our runtime beside what it measures."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from frugal.figures import style
from frugal.figures.dtr import programs
from frugal.figures.frames import over_sessions
from frugal.figures.style import Look

TITLE = "Predicted by the simulator, measured by the runtime"
BAND = 0.10
_COLOURS = (
    "#D55E00",
    "#0072B2",
    "#009E73",
    "#E69F00",
    "#CC79A7",
    "#56B4E9",
    "#4A1A8C",
    "#000000",
    "#5E5E5E",
    "#785A3C",
)
_MARKERS = ("o", "s", "v", "D", "P", "^", "h", "*", "X", "d")
# (predicted, measured, what)
PAIRS = (("overhead_predicted", "overhead_measured", "time over the step without a budget"),
         ("peak_predicted", "peak_managed", "peak of managed bytes over the unbudgeted"))  # fmt: skip


def predicted_measured(measurements: pd.DataFrame) -> Figure:
    """Measured (y) over predicted (x) at the same budget, a mark a program and budget, the band ±10 %.

    Time: over the same runtime's step without a budget. Peak: bytes over those of that step.
    """
    found = programs.of(
        measurements, ("budgets", "memory"), "time", "overhead_predicted", "peak_predicted", "peak_managed"
    )
    found = found[found["method"] == "dtr"]
    drawn = _pairs(over_sessions(found))
    if drawn.empty:
        empty = "No step has been predicted and measured yet, neither on this machine nor in a recorded campaign."
        return programs.nothing(TITLE, found, empty)
    looks = _looks(drawn)

    def draw(axes: Axes, own: pd.DataFrame) -> None:
        _draw(axes, own, looks)

    notes = [
        "The simulator runs the captured log under the same budget. It knows operators alone: the runtime's own time "
        "counts as an error of the prediction here.",
        *programs.missing(programs.by_program(found[found["arm"] != "dtr"]), programs.by_program(drawn)),
    ]
    return programs.compose(
        TITLE, programs.panels(drawn, ("pair",)), draw, handles=[style.handle(look) for look in looks.values()],
        said=_said, notes=notes, xlabel="predicted", height=2.7, legend=4,
    )  # fmt: skip


def _looks(drawn: pd.DataFrame) -> dict[str, Look]:
    return {
        name: Look(programs.network(name), _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)])
        for place, name in enumerate(drawn["network"].unique())
    }


def _pairs(joined: pd.DataFrame) -> pd.DataFrame:
    """A row a program, budget and pair: `predicted` and `measured`, both over the step without a budget."""
    keys = ["machine", "program", "arm"]
    wide = joined.pivot_table(index=keys, columns="metric", values="value").reset_index()
    wide = wide.reindex(columns=[*keys, "time", "overhead_predicted", "peak_predicted", "peak_managed"])
    free = wide[wide["arm"] == "dtr"].set_index(["machine", "program"])[["time", "peak_managed"]].add_suffix("_free")
    wide = wide[wide["arm"] != "dtr"].merge(free.reset_index(), on=["machine", "program"])
    wide = wide.assign(
        overhead_measured=wide["time"] / wide["time_free"],
        peak_predicted=wide["peak_predicted"] / wide["peak_managed_free"],
        peak_managed=wide["peak_managed"] / wide["peak_managed_free"],
    )
    first = joined[joined["arm"] != "dtr"].drop_duplicates(keys)
    parts = [
        first.merge(
            wide.assign(pair=what, predicted=wide[predicted], measured=wide[measured])[
                [*keys, "pair", "predicted", "measured"]
            ],
            on=keys,
        )
        for predicted, measured, what in PAIRS
    ]
    return pd.concat(parts).dropna(subset=["predicted", "measured"])


def _draw(axes: Axes, own: pd.DataFrame, looks: dict[str, Look]) -> None:
    low = 0.95 * own[["predicted", "measured"]].min().min()
    high = 1.05 * own[["predicted", "measured"]].max().max()
    axes.fill_between([low, high], [low * (1 - BAND), high * (1 - BAND)], [low * (1 + BAND), high * (1 + BAND)],
                      color="#E8E8E8", linewidth=0, zorder=0.5)  # fmt: skip
    axes.plot([low, high], [low, high], color=style.MUTED, linewidth=0.8)
    for name, look in looks.items():
        rows = own[own["network"] == name]
        axes.plot(rows["predicted"], rows["measured"], color=look.colour, marker=look.marker, markersize=6,
                  linestyle="none", label=name)  # fmt: skip
    axes.set(xlim=(low, high), ylim=(low * (1 - BAND), high * (1 + BAND)), ylabel="measured")
    axes.xaxis.set_major_formatter(FuncFormatter(programs.times))
    axes.yaxis.set_major_formatter(FuncFormatter(programs.times))
    style.panel_title(axes, [f"{own['pair'].iloc[0]} · {_within(own)}", own["machine"].iloc[0]])


def _within(own: pd.DataFrame) -> str:
    off = (own["measured"] / own["predicted"] - 1).abs()
    return f"{(off <= BAND).sum()} of {len(own)} within {BAND:.0%}"


def _said(own: pd.DataFrame) -> str:
    return f"{own['pair'].iloc[0]} on {own['machine'].iloc[0]}: {_within(own)}."
