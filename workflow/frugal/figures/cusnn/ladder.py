"""Figure `cusnn_ladder`: what each step of our kernels is worth, and what each choice of the last one is."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from frugal.figures import frames, style, told
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.cusnn import timed as of_times
from frugal.figures.frames import in_machine_order

TITLE = "The ladder of kernels, step by step"
STEPS = {
    "v1_naive": "v1 a thread an output",
    "v2_dense": "v2 register tile",
    "v3_ballot": "v3 zeros skipped",
    "v4_split": "v4 sums in one pass",
    "v5_wide": "v5 more outputs a lane",
    "v6_fused": "v6 fused",
    "sparse": "sparse, as planned",
}
_COLUMNS = 4


def ladder(measurements: pd.DataFrame) -> Figure:
    """Time on a log scale, a row a step, a column a shape; below the steps other arms and single choices of the last.

    Values are geometric means over sessions in the regime that most arms share. The dashed line is the least time that
    the machine allows for the multiply-adds that the last step keeps (`roofline_s` of its rows). Frames as
    frugal.figures.frames.load gives them.
    """
    found = of_times.of(measurements, "ladder")
    drawn = of_times.in_one_regime(frames.over_sessions(found))
    if drawn.empty:
        empty = "The ladder has not been timed yet, neither on this machine nor in a recorded campaign."
        return of_layers.nothing(TITLE, found, "cases", empty, of_layers.command("ladder"))
    strips = [
        own
        for machine in in_machine_order(drawn)
        for _, own in drawn[drawn["machine"] == machine].groupby("n", sort=True)
    ]
    orders = [_order(set(own["arm"])) for own in strips]
    parts = [
        (own, order, shapes[start : start + _COLUMNS])
        for own, order in zip(strips, orders, strict=True)
        for shapes in [_shapes(own)]
        for start in range(0, len(shapes), _COLUMNS)
    ]
    notes = _notes(found, drawn)
    heights = [1.0 + 0.2 * len(order) for _, order, _ in parts]
    with style.context():
        figure = Figure(figsize=(style.WIDTH, 0.95 + sum(heights) + style.note_height(notes)), layout="constrained")
        folders = figure.subfigures(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, (own, order, shapes) in zip(folders, parts, strict=True):
            grid = part.subplots(1, len(shapes), squeeze=False, sharey=True)[0]
            for axes, shape in zip(grid, shapes, strict=True):
                _draw(axes, own[own["shape"] == shape], order, shape)
            first = own.iloc[0]
            line = f"{first['machine']} · batch {first['n']:.0f} · {of_times.words(first['regime'], first['l2'])}"
            part.suptitle(style.wrap(line, 84), x=0.01, ha="left", fontsize=9.5)
        style.describe(figure, TITLE, _description(parts))
        style.head(figure, TITLE, _legend(), columns=3)
        style.notes(figure, notes)
    return figure


def label(arm: str) -> str:
    """An arm in words: a step's own, `sparse@skip=false` as "skip=false", others as everywhere."""
    if arm in STEPS:
        return STEPS[arm]
    if arm.startswith("sparse@"):
        return arm.removeprefix("sparse@").replace("_", " ")
    return style.looks([style.system(arm)])[style.system(arm)].label


def _order(arms: set[str]) -> list[str]:
    """Steps first, then single choices of the last one, then the other arms, as rows from the top."""
    steps = [arm for arm in STEPS if arm in arms]
    choices = sorted(arm for arm in arms if arm.startswith("sparse@"))
    return [*steps, *choices, *sorted(arms - {*steps, *choices}, key=lambda arm: [*style.looks(arms)].index(arm))]


def _shapes(own: pd.DataFrame) -> list[str]:
    """The strip's shapes, largest map first; gives the rows their column `shape`."""
    own["shape"] = [of_layers.shape(row) for _, row in own.iterrows()]
    return own.sort_values(["h", "c", "k"], ascending=[False, True, True])["shape"].drop_duplicates().tolist()


def _draw(axes: Axes, rows: pd.DataFrame, order: list[str], shape: str) -> None:
    values = rows.drop_duplicates("arm").set_index("arm")["value"]
    places = {arm: place for place, arm in enumerate(order) if arm in values}
    steps = [arm for arm in places if arm in STEPS]
    colour = style.LOOKS["sparse"].colour
    axes.plot([values[arm] for arm in steps], [places[arm] for arm in steps], color=colour, linewidth=1.0, zorder=2)
    for arm, place in places.items():
        own = arm in STEPS or arm.startswith("sparse@")
        look = style.LOOKS["sparse"] if own else style.looks([style.system(arm)])[style.system(arm)]
        hollow = arm.startswith("sparse@")
        axes.scatter(values[arm], place, s=34, marker=look.marker, color=look.colour, zorder=3, label=arm,
                     facecolor="none" if hollow else look.colour)  # fmt: skip
        axes.annotate(_number(values, arm, steps), (values[arm], place), xytext=(6, 0), textcoords="offset points",
                      va="center", fontsize=style.NOTE_SIZE)  # fmt: skip
    floor = pd.to_numeric(rows.loc[rows["arm"] == steps[-1], "roofline_s"]).dropna() if steps else pd.Series()
    low = values.min()
    if len(floor) and floor.iloc[0] > 0:
        low = min(low, floor.iloc[0])
        axes.axvline(floor.iloc[0], color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    span = max(values.max() / low, 2)
    axes.set_xscale("log")
    # The numbers stand right of their marks: the panel needs a fixed share of its width there.
    axes.set(xlim=(low / span**0.08, values.max() * span**0.75), ylim=(len(order) - 0.5, -0.6))
    axes.set_yticks(range(len(order)), [label(arm) for arm in order])
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1,) if span**1.8 > 30 else (1, 3), numticks=3))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 1e6:g}"))
    axes.set_xlabel("µs")
    axes.set_title(shape, loc="left")


def _number(values: pd.Series, arm: str, steps: list[str]) -> str:
    """A time; of a single choice also how many times the last step's."""
    said = style.seconds(values[arm])
    if arm.startswith("sparse@") and steps:
        return f"{values[arm] / values[steps[-1]]:.2f}×"
    return said


def _notes(found: pd.DataFrame, drawn: pd.DataFrame) -> list[str]:
    lines = [
        "Every arm computes the same convolution. Hollow: the last step with one choice made otherwise, as a multiple "
        "of its time. Dashed: the least time of the multiply-adds that are kept, at the rate that the session "
        "measured; no launch is in it."
    ]
    for machine in in_machine_order(found):
        own = found[found["machine"] == machine]
        here = drawn[drawn["machine"] == machine]
        marks = own.assign(case_id=own["case_id"] + "/" + own["arm"])
        text = told.not_drawn(marks, here["case_id"] + "/" + here["arm"], "pairs of shape and arm")
        lines.append(f"{machine[0].upper()}{machine[1:]}: {text}." if text else "")
    return [*lines, of_layers.nothing_here(found, of_layers.command("ladder"))]


def _legend() -> list[Line2D]:
    look = style.LOOKS["sparse"]
    return [
        style.handle(look, label="a step of the ladder"),
        style.handle(look, label="the last step, one choice otherwise", hollow=True),
        Line2D([], [], color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)), label="least time of the kept work"),
    ]


def _description(parts: list) -> str:
    said = []
    for own, order, shapes in parts:
        for shape in shapes:
            values = own[own["shape"] == shape].drop_duplicates("arm").set_index("arm")["value"]
            each = ", ".join(f"{label(arm)} {style.seconds(values[arm])}" for arm in order if arm in values)
            said.append(f"{own['machine'].iloc[0]}, {shape}, batch {own['n'].iloc[0]:.0f}: {each}")
    return ". ".join(said) + "."
