"""Figure `method_equal`: one callable under two names, over and over, and what was planted beside it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from frugal.figures import style
from frugal.figures.frames import in_machine_order

TITLE = "Equal implementations, and a planted difference"
COMMAND = "snakemake --workflow-profile method -- figures"
PLANTED = ("planted", "planted_copy")
_SAME, _PLANTED, _FALSE = "#0072B2", "#E69F00", "#D55E00"


def equal(comparisons: pd.DataFrame) -> Figure:
    """Ratio of the second name to the first, a mark a case, one panel a machine and regime; planted pairs beside them.

    Bars are the stored intervals; the band is the margin within which two arms are the same. A false verdict stands in
    its own colour and shape. Frames as frugal.figures.frames.load gives them.
    """
    rows = _rows(comparisons)
    if not len(rows):
        return style.message(
            TITLE,
            ["The method has not been measured on itself yet, neither on this machine nor in a recorded campaign."],
            "To measure it (half an hour on a GPU), type:",
            COMMAND,
        )
    panels = [
        (machine, regime, l2, own)
        for machine in in_machine_order(rows)
        for (regime, l2), own in rows[rows["machine"] == machine].groupby(["regime", "l2"], sort=True)
    ]
    notes = [
        "Ratio above 1: the second name is faster. Blue: one callable under two names, sorted; the grey band is the "
        "margin within which two are called the same. Diamonds: pairs with a planted difference, which must be found.",
        "Bars: stored 95 % intervals over sessions; with one session hollow, from the least to the greatest round.",
        *nothing_here(rows),
    ]
    with style.context():
        figure = Figure(figsize=(style.WIDTH, 0.9 + 2.0 * len(panels) + style.note_height(notes)), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        said = [_draw(axes, *panel) for axes, panel in zip(grid, panels, strict=True)]
        style.describe(figure, TITLE, " ".join(said))
        style.head(figure, TITLE, _legend(), columns=3)
        style.notes(figure, notes)
    return figure


def nothing_here(rows: pd.DataFrame) -> list[str]:
    """What to type, where only recorded campaigns have rows."""
    if rows["recorded"].isna().any():
        return []
    return [f"Nothing is measured on this machine yet; to measure, type: {COMMAND}"]


def _rows(comparisons: pd.DataFrame) -> pd.DataFrame:
    ours = (comparisons["system"] == "method") & (comparisons["experiment"] == "equal")
    machines = comparisons.loc[ours, "machine"].unique()
    planted = (comparisons["system"] == "control") & comparisons["experiment"].isin(PLANTED)
    rows = comparisons[(ours | (planted & comparisons["machine"].isin(machines))) & comparisons["ratio"].notna()]
    rows = rows[rows["metric"] == "time"]
    kind = rows["verdict"].where(rows["verdict"].isin(["FASTER", "SLOWER"]), "none")
    is_planted = rows["system"] == "control"
    return rows.assign(
        l2=rows["l2"].fillna(""),
        kind=kind.where(is_planted | (kind == "none"), "false").where(~is_planted, "planted"),
    )


def _draw(axes: Axes, machine: str, regime: str, l2: str, rows: pd.DataFrame) -> str:
    """Draw a panel; returns what a screen reader says of it."""
    rows = rows.sort_values(["kind", "ratio"], ascending=[False, True], kind="stable").reset_index(drop=True)
    rows = pd.concat([rows[rows["kind"] != "planted"], rows[rows["kind"] == "planted"]], ignore_index=True)
    margin = float(rows["margin"].min())
    axes.axhspan(1 / (1 + margin), 1 + margin, color="#EDEDED", zorder=0)
    axes.axhline(1, color=style.INK, linewidth=0.8, zorder=1)
    for kind, colour, marker in (("none", _SAME, "o"), ("false", _FALSE, "X"), ("planted", _PLANTED, "D")):
        own = rows[rows["kind"] == kind]
        if not len(own):
            continue
        axes.vlines(own.index, own["ratio_low"].astype(float), own["ratio_high"].astype(float), colors=colour,
                    linewidth=1.1, zorder=2)  # fmt: skip
        sns.scatterplot(x=own.index, y=own["ratio"].astype(float), color=colour, edgecolor=colour, marker=marker, s=26,
                        ax=axes, legend=False, zorder=3)  # fmt: skip
        if own["conditional"].all():
            axes.collections[-1].set_facecolor(style.PAPER)
    equal = rows[rows["kind"] != "planted"]
    found = sorted(equal["verdict"].fillna("no verdict").value_counts().items(), key=lambda item: (-item[1], item[0]))
    words = ", ".join(f"{count} {word}" for word, count in found)
    false = int((rows["kind"] == "false").sum())
    planted = rows[rows["kind"] == "planted"]
    pairs = ", ".join(
        _planted(str(name), own["ratio"].astype(float), own["verdict"].fillna("no verdict").unique())
        for name, own in planted.groupby("experiment")
    )
    head = f"{machine} · regime {regime}" + (f", L2 {l2}" if l2 else "")
    line = f"{len(equal)} equal pairs: {words}; false verdicts: {false}" + (f"; planted: {pairs}" if pairs else "")
    style.panel_title(axes, [head, line])
    axes.set(xlabel="", ylabel="ratio")
    axes.set_xticks([])
    return f"{head}: {line}."


def _planted(name: str, ratios: pd.Series, verdicts: Sequence[str]) -> str:
    low, high = f"{ratios.min():.4f}", f"{ratios.max():.4f}"
    return f"{name.replace('_', ' ')} {low if low == high else f'{low} to {high}'} ({', '.join(verdicts)})"


def _legend() -> list[Line2D]:
    marks = (("same callable, two names", _SAME, "o"), ("planted difference", _PLANTED, "D"),
             ("false verdict", _FALSE, "X"))  # fmt: skip
    return [
        Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=6, label=label)
        for label, colour, marker in marks
    ]
