"""Figure `sft_prediction`: peaks of memory and times that plans predict beside the measured ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from frugal.figures import style, told
from frugal.figures.frames import in_machine_order, over_sessions
from frugal.figures.sft import steps

TITLE = "Predicted and measured peaks and times of plans"
BANDS = (0.02, 0.05)  # drawn on either side of equality
# (predicted, measured, how a panel calls it)
PAIRS = (
    ("peak_predicted", "peak_total", "peak of live tensors"),
    ("peak_predicted", "peak_allocated", "peak of the allocator"),
    ("time_predicted", "time_step", "time of a step"),
)
_METRICS = sorted({name for pair in PAIRS for name in pair[:2]})
_MARKS = tuple(steps.LOOKS[name] for name in ("planned", "vanilla", "compile", "strips", "sft_artifact"))


def prediction(measurements: pd.DataFrame) -> Figure:
    """Measured over predicted (y) by the prediction (x, log), a mark a plan under a random budget, by network.

    A panel a machine and quantity. Bands: 2 % and 5 % off.
    """
    found = steps.of(measurements, "prediction", *_METRICS)
    pairs = _pairs(found)
    if pairs.empty:
        empty = "No plan has been held against a measurement yet, neither on this machine nor in a recorded campaign."
        return steps.nothing(TITLE, found, "prediction", empty)
    parts = [
        own
        for machine in in_machine_order(pairs)
        for _, _, name in PAIRS
        if len(own := pairs[(pairs["machine"] == machine) & (pairs["quantity"] == name)])
    ]
    notes = [
        "Plans of random networks, sizes and budgets. A plan predicts tensors and, on a GPU, adds the workspace that "
        "it measured for its largest windows; the allocator rounds and fragments besides.",
        *steps.missing(found, found[found["status"] == "ok"], "prediction"),
    ]
    with style.context():
        figure, panes = steps.grid(parts, 2.4, notes)
        looks = _looks(pairs)
        for axes, own in zip(panes, parts, strict=True):
            _draw(axes, own, looks)
        style.describe(figure, TITLE, " ".join(f"{own['machine'].iloc[0]}: {_how_good(own)}." for own in parts))
        style.head(figure, TITLE, _legend(looks), columns=3)
        style.notes(figure, notes)
    return figure


def _pairs(found: pd.DataFrame) -> pd.DataFrame:
    """One row a plan and quantity: `predicted`, `measured`, `quantity`, and the plan's case."""
    joined = over_sessions(found)
    keys = ["machine", "case_id", "arm"]
    tables = []
    for predicted, measured, name in PAIRS:
        left = joined[joined["metric"] == predicted][[*keys, "value"]].rename(columns={"value": "predicted"})
        right = joined[joined["metric"] == measured][[*keys, "recorded", "network", "value"]]
        tables.append(right.rename(columns={"value": "measured"}).merge(left, on=keys).assign(quantity=name))
    return pd.concat(tables, ignore_index=True)


def _looks(pairs: pd.DataFrame) -> dict[str, style.Look]:
    names = sorted(pairs["network"].unique())
    return {name: _MARKS[place % len(_MARKS)] for place, name in enumerate(names)}


def _draw(axes: Axes, own: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    ends = (own["predicted"].min() / 1.3, own["predicted"].max() * 1.3)
    for band, colour in zip(sorted(BANDS, reverse=True), ("#F1F1F1", "#DEDEDE"), strict=True):
        axes.fill_between(ends, 1 - band, 1 + band, color=colour, linewidth=0, zorder=0)
    axes.axhline(1.0, color=style.INK, linewidth=1.0, zorder=1)
    ratios = own["measured"] / own["predicted"]
    for name, look in looks.items():
        rows = own["network"] == name
        axes.scatter(own.loc[rows, "predicted"], ratios[rows], s=22, marker=look.marker, color=look.colour, alpha=0.8,
                     linewidth=0, zorder=3, label=name)  # fmt: skip
    off = max(1.4 * BANDS[-1], 1.1 * float(np.abs(ratios - 1).max()))
    axes.set(xscale="log", xlim=ends, ylim=(max(0.0, 1 - off), 1 + off), ylabel="measured ÷ predicted")
    times = own["quantity"].iloc[0] == PAIRS[-1][2]
    axes.set_xlabel("predicted " + own["quantity"].iloc[0])
    axes.xaxis.set_major_locator(LogLocator(base=10 if times else 2, numticks=8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(style.seconds if times else steps.gibibytes))
    style.panel_title(axes, [own["machine"].iloc[0], _how_good(own)])


def _how_good(own: pd.DataFrame) -> str:
    off = (own["measured"] / own["predicted"] - 1).abs()
    return (
        f"{own['quantity'].iloc[0]}, {told.counted(len(own), 'plan')}: half within {_percent(off.quantile(0.5))}, "
        f"the worst {_percent(off.max())} off"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _legend(looks: dict[str, style.Look]) -> list[Line2D]:
    line = Line2D([], [], color=style.INK, linewidth=1.0, label="equal; bands: 2 % and 5 % off")
    return [*(style.handle(look, label=told.pretty(name)) for name, look in looks.items()), line]
