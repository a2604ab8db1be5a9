"""Figure `cusnn_end_to_end`: time of whole networks, system by system."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from frugal.figures import frames, style
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.cusnn import networks
from frugal.figures.cusnn import timed as of_times
from frugal.figures.frames import in_machine_order

TITLE = "Time of whole networks"


def end_to_end(measurements: pd.DataFrame, comparisons: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Milliseconds of one forward pass as bars, a row a system, a column a batch size; a strip a machine and network.

    Bars are geometric means over sessions in the regime that most systems share; a tick is the same system called
    eagerly (regime wall). Above a column: the stored ratio of our network over the best baseline in fp32, with its
    interval. Hollow bars: published values. Frames as frugal.figures.frames.load gives them.
    """
    found = networks.rows(measurements, "time")
    joined = frames.over_sessions(found)
    drawn = of_times.best_layout(of_times.in_one_regime(joined))
    if drawn.empty:
        empty = "No whole network has been timed yet, neither on this machine nor in a recorded campaign."
        return of_layers.nothing(TITLE, found, "cases", empty, networks.COMMAND)
    eager = of_times.best_layout(joined[joined["regime"] == "wall"])
    strips = []
    for machine in in_machine_order(drawn):
        for _, own in drawn[drawn["machine"] == machine].groupby("network", sort=True):
            strips.append(_strip(own, eager, comparisons, published))
    notes = [
        "Geometric means over sessions, one forward pass; of a library's two memory layouts the faster one. TF32 and "
        "float16 are less exact. Above a column: our network's stored speed-up over the faster fp32 baseline, with its "
        "95 % interval over sessions where there is one. An eager call that takes longer than the panel is wide has no "
        "tick.",
        *networks.missing(found, drawn),
    ]
    ticks = Line2D([], [], linestyle="none", marker="|", markersize=9, color=style.INK, label="called eagerly (wall)")
    legend = [*([ticks] if len(eager) else []), *_hollow(strips)]
    said = ". ".join(_said(strip) for strip in strips)
    return networks.bars(TITLE, strips, "ms", lambda bar: networks.number(bar.value), legend, notes, f"{said}.")


def _strip(
    own: pd.DataFrame, eager: pd.DataFrame, comparisons: pd.DataFrame, published: pd.DataFrame
) -> networks.Strip:
    looks = style.looks(own["arm"])
    batches = sorted(own["n"].unique())
    network, regime, l2 = own["network"].iloc[0], own["regime"].iloc[0], own["l2"].iloc[0]
    papers = {
        label for batch in batches for label, _ in networks.published(published, "time_per_image", network, batch)
    }
    columns: dict[str, list[networks.Bar | None]] = {}
    for batch in batches:
        rows = own[own["n"] == batch].set_index("arm")
        wall = eager[eager["case_id"].isin(rows["case_id"]) & (eager["machine"] == own["machine"].iloc[0])]
        wall = wall.set_index("arm")["value"] if regime != "wall" else pd.Series(dtype=float)
        column: list[networks.Bar | None] = [
            networks.Bar(1e3 * rows["value"][arm], tick=1e3 * wall[arm] if arm in wall else None)
            if arm in rows.index
            else None
            for arm in looks
        ]
        paper = dict(networks.published(published, "time_per_image", network, batch))
        for label in sorted(papers):
            column.append(networks.Bar(1e3 * paper[label], published=True) if label in paper else None)
        columns[f"batch {batch:.0f}{_speedup(rows, comparisons, regime, l2)}"] = column
    systems = [(look.label, look.colour) for look in looks.values()]
    return networks.Strip(
        networks.heading(own, of_times.words(regime, l2)),
        [*systems, *((label, style.LOOKS["paper_scheme"].colour) for label in sorted(papers))],
        columns,
    )


def _speedup(rows: pd.DataFrame, comparisons: pd.DataFrame, regime: str, l2: str) -> str:
    """The least ratio of our network over the fp32 baselines of a case: " · 3.9× [3.7×, 4.1×]"."""
    first = rows.iloc[0]
    pairs = comparisons[
        (comparisons["case_id"] == first["case_id"])
        & (comparisons["machine"] == first["machine"])
        & (comparisons["metric"] == "time")
        & (comparisons["candidate"] == "sparse")
        & comparisons["baseline"].isin([*of_times.FP32, "torch_compile_fp32"])
        & (comparisons["regime"] == regime)
        & (comparisons["l2"].fillna("") == l2)
        & comparisons["ratio"].notna()
    ]
    if pairs.empty:
        return ""
    least = pairs.sort_values("ratio", kind="stable").iloc[0]
    known = pd.notna(least["ratio_low"]) and not least["conditional"]
    interval = f"\n[{style.times(least['ratio_low'])}, {style.times(least['ratio_high'])}]" if known else ""
    return f" · {style.times(least['ratio'])}{interval}"


def _hollow(strips: list[networks.Strip]) -> list[Patch]:
    drawn = any(
        bar is not None and bar.published for strip in strips for each in strip.columns.values() for bar in each
    )
    colour = style.LOOKS["paper_scheme"].colour
    return [Patch(facecolor=style.PAPER, edgecolor=colour, label="published, on another GPU")] if drawn else []


def _said(strip: networks.Strip) -> str:
    parts = []
    for name, column in strip.columns.items():
        each = [
            f"{label} {networks.number(bar.value)} ms"
            for (label, _), bar in zip(strip.systems, column, strict=True)
            if bar is not None
        ]
        parts.append(f"{name.split(' ·')[0]}: {', '.join(each)}")
    return f"{' · '.join(strip.heading)}: {'; '.join(parts)}"
