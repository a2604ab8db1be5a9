"""Figure `sft_trajectory`: the loss of a planned training beside the untiled one's, step by step."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullLocator

from frugal.figures import style
from frugal.figures.frames import axis
from frugal.figures.sft import steps

TITLE = "Loss over training steps, planned and untiled"
PANEL = ("network", "width_divisor", "norms", "batch", "input", "precision", "channels_last", "h", "w")


def trajectory(measurements: pd.DataFrame) -> Figure:
    """Loss by step (above), and |difference| of each arm to the untiled one over the latter (below, log).

    The first session's; a pair of panels a case. Frames as frugal.figures.frames.load gives them.
    """
    found = steps.of(measurements, "training", "loss")
    found = found.assign(step=pd.to_numeric(axis(found, "step")))
    keys = ["machine", *PANEL, "arm", "step"]
    drawn = found[(found["status"] == "ok") & found["value"].notna()]
    drawn = drawn.sort_values("session", kind="stable").drop_duplicates(keys)
    # A distance needs two arms, of which one is the untiled.
    parts = [own for own in steps.panels(drawn, PANEL) if "vanilla" in set(own["arm"]) and own["arm"].nunique() > 1]
    if not parts:
        empty = "No training has been followed yet, neither on this machine nor in a recorded campaign."
        return steps.nothing(TITLE, found, "training", empty)
    notes = [
        "Same weights, image, target and optimiser. Sums in another order differ by rounding, and each step carries it "
        "on; an equal loss is drawn at the panel's lower edge.",
        *steps.missing(found, pd.concat(parts), "training"),
    ]
    looks = style.looks({name for own in parts for name in own["method"]}, steps.LOOKS)
    with style.context():
        figure, panes = steps.grid([half for own in parts for half in (own, own)], 1.75, notes)
        for place, own in enumerate(parts):
            _losses(panes[2 * place], own, looks)
            _differences(panes[2 * place + 1], own, looks)
        panes[-1].set_xlabel("step")
        style.describe(figure, TITLE, " ".join(map(_said, parts)))
        style.head(figure, TITLE, [style.handle(look) for look in looks.values()], columns=3)
        style.notes(figure, notes)
    return figure


def _losses(axes: Axes, own: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    for (method, _), line in own.groupby(["method", "arm"], sort=False):
        line = line.sort_values("step")
        # The untiled line is wide and pale, so that one on top of it stays visible.
        under = method == "vanilla"
        axes.plot(line["step"], line["value"], color=looks[method].colour, linewidth=5 if under else 1.3,
                  alpha=0.35 if under else 1.0, marker="none" if under else looks[method].marker, markersize=4,
                  label=method)  # fmt: skip
    axes.set_ylabel("loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    first = own.iloc[0]
    style.panel_title(axes, steps.heading(own, steps.size(first["h"], first["w"]), first["precision"]))


def _differences(axes: Axes, own: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    apart = _apart(own)
    positive = apart.loc[apart["apart"] > 0, "apart"]
    least = positive.min() / 3 if len(positive) else 1e-17
    for (method, _), line in apart.groupby(["method", "arm"], sort=False):
        axes.plot(line["step"], line["apart"].clip(lower=least), color=looks[method].colour, linewidth=1.0,
                  marker=looks[method].marker, markersize=4, label=method)  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(least / 2, max(apart["apart"].max(), least) * 4)
    axes.set_ylabel("|Δ| ÷ loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(LogLocator(base=10, numticks=5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(LogFormatterSciNotation(base=10))


def _apart(own: pd.DataFrame) -> pd.DataFrame:
    """The other arms' losses with their distance to the untiled one's, relative to it (`apart`)."""
    untiled = own[own["arm"] == "vanilla"].set_index("step")["value"].rename("untiled")
    both = own[own["arm"] != "vanilla"].merge(untiled.reset_index(), on="step").sort_values("step", kind="stable")
    return both.assign(apart=(both["value"] - both["untiled"]).abs() / both["untiled"].abs())


def _said(own: pd.DataFrame) -> str:
    apart = _apart(own).groupby("arm", sort=False)["apart"].max()
    each = ", ".join(f"{steps.in_words(arm)} at most {value:.1e} off" for arm, value in apart.items())
    return f"{' · '.join(steps.heading(own, own['precision'].iloc[0]))}: {each}."
