"""Figure `cusnn_energy`: energy an image of whole networks, gross and net of what the idle device draws."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from frugal.figures import frames, style
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.cusnn import networks
from frugal.figures.cusnn import timed as of_times
from frugal.figures.frames import in_machine_order

TITLE = "Energy an image of whole networks"


def energy(measurements: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Millijoules an image, a row a system, a column a batch size; a strip a machine and network.

    Dark bars: net of idle; light bars behind them: gross; geometric means over sessions. Hollow bars: published values,
    which are gross. Where a machine has whole networks but no energy the figure says why. Frames as
    frugal.figures.frames.load gives them.
    """
    gross, net = (networks.rows(measurements, f"energy_{which}") for which in ("gross", "net"))
    drawn = of_times.best_layout(of_times.in_one_regime(frames.over_sessions(gross)))
    if drawn.empty:
        return _nothing(measurements, gross)
    above = of_times.best_layout(frames.over_sessions(net))
    keys = ["machine", "case_id", "arm", "regime", "l2"]
    both = drawn.merge(above[[*keys, "value"]], on=keys, how="left", suffixes=("", "_net"))
    strips = [
        _strip(own, published)
        for machine in in_machine_order(both)
        for _, own in both[both["machine"] == machine].groupby("network", sort=True)
    ]
    notes = [
        "Numbers: gross / net, in mJ an image, geometric means over sessions. Gross: what the device's counter "
        "counted; net: less what it draws when idle, over the same time. Inputs are photographs.",
        *_without(measurements, drawn),
        *networks.missing(gross, drawn),
    ]
    legend = [
        Patch(color=style.MUTED, label="net of idle"),
        Patch(color=style.MUTED, alpha=0.35, label="gross"),
    ]
    if any(bar is not None and bar.published for strip in strips for each in strip.columns.values() for bar in each):
        colour = style.LOOKS["paper_scheme"].colour
        legend.append(Patch(facecolor=style.PAPER, edgecolor=colour, label="published, gross, on another GPU"))
    said = ". ".join(_said(strip) for strip in strips)
    return networks.bars(TITLE, strips, "mJ an image", _write, legend, notes, f"{said}.")


def _strip(own: pd.DataFrame, published: pd.DataFrame) -> networks.Strip:
    looks = style.looks(own["arm"])
    network, batches = own["network"].iloc[0], sorted(own["n"].unique())
    papers = sorted(
        {label for batch in batches for label, _ in networks.published(published, "energy_per_image", network, batch)}
    )
    columns: dict[str, list[networks.Bar | None]] = {}
    for batch in batches:
        rows = own[own["n"] == batch].set_index("arm")
        an_image = 1e3 / batch
        column: list[networks.Bar | None] = []
        for arm in looks:
            if arm not in rows.index:
                column.append(None)
                continue
            gross, net = rows["value"][arm] * an_image, rows["value_net"][arm] * an_image
            # Without the idle power there is no net value: the gross one stands alone, light.
            column.append(networks.Bar(net if pd.notna(net) else 0.0, behind=gross))
        paper = dict(networks.published(published, "energy_per_image", network, batch))
        column += [networks.Bar(1e3 * paper[label], published=True) if label in paper else None for label in papers]
        columns[f"batch {batch:.0f}"] = column
    systems = [(look.label, look.colour) for look in looks.values()]
    words = of_times.words(own["regime"].iloc[0], own["l2"].iloc[0])
    paper_colour = style.LOOKS["paper_scheme"].colour
    return networks.Strip(
        networks.heading(own, words), [*systems, *((label, paper_colour) for label in papers)], columns
    )


def _write(bar: networks.Bar) -> str:
    if bar.behind is None:
        return networks.number(bar.value)
    return f"{networks.number(bar.behind)} / {networks.number(bar.value) if bar.value else '–'}"


def _without(measurements: pd.DataFrame, drawn: pd.DataFrame) -> list[str]:
    """A note for each machine that timed whole networks and has no energy of them at all."""
    timed = networks.rows(measurements, "time")
    return [
        f"{machine[0].upper()}{machine[1:]}: energy was not measured."
        for machine in in_machine_order(timed)
        if machine not in set(drawn["machine"])
    ]


def _nothing(measurements: pd.DataFrame, gross: pd.DataFrame) -> Figure:
    if gross.empty and len(networks.rows(measurements, "time")):
        sentences = [
            "Whole networks have been timed, but energy was not measured: the preset smoke leaves it out, and a device "
            "without an energy counter has none.",
        ]
        command = "snakemake --workflow-profile gpu -- cusnn"
        advice = "To measure it on a GPU, with `networks` among `cusnn.experiments` in config.yaml, type:"
        return style.message(TITLE, sentences, advice, command)
    empty = "Energy has not been measured yet, neither on this machine nor in a recorded campaign."
    return of_layers.nothing(TITLE, gross, "cases", empty, networks.COMMAND)


def _said(strip: networks.Strip) -> str:
    parts = []
    for name, column in strip.columns.items():
        each = [
            f"{label} {_write(bar)} mJ"
            for (label, _), bar in zip(strip.systems, column, strict=True)
            if bar is not None
        ]
        parts.append(f"{name}: {', '.join(each)}")
    return f"{' · '.join(strip.heading)}: gross / net, {'; '.join(parts)}"
