"""What SFT's figures share: the rows of an experiment with their axes, one look a method, panels and their titles."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from frugal.figures import style, told
from frugal.figures.frames import in_machine_order, over_sessions
from frugal.figures.style import Look

COMMAND = "snakemake --cores all sft"
# The colours and markers are those of frugal.figures.style.LOOKS, here for ways to train.
LOOKS = {
    "planned": Look("ours: planned", "#D55E00", "o"),
    "tiled": Look("ours: tiles alone", "#E69F00", "D"),
    "strips": Look("ours: strips alone", "#5A2D00", "<"),
    "tiled_1seg": Look("one segment of tiles, single halo", "#8778FF", ">"),
    "sft_artifact": Look("the paper's schedule", "#4A1A8C", "h"),
    "vanilla": Look("untiled", "#0072B2", "s"),
    "checkpoint": Look("checkpoint", "#56B4E9", "^"),
    "checkpoint_blocks": Look("checkpoint, by block", "#009E73", "v"),
    "save_on_cpu": Look("save on CPU", "#CC79A7", "P"),
    "activation_budget": Look("activation memory budget", "#5E5E5E", "X"),
    "compile": Look("torch.compile", "#000000", "*"),
}
OURS = ("planned", "tiled", "strips")
# Axes of a case (frugal.sft.cases) that its columns do not repeat, and what stands for one that is not there.
_AXES = {"width_divisor": 1, "precision": "fp32", "channels_last": False, "input": "device", "norms": "none"}
PRECISIONS = {"fp64": "float64", "fp32": "fp32", "tf32": "TF32", "bf16": "bfloat16"}  # in the order of panels
_MEMORY = {"budget_mib": "", "host_mib": " of main memory"}  # an arm's settings in MiB


def of(measurements: pd.DataFrame, experiment: str, *metrics: str) -> pd.DataFrame:
    """The rows of one of SFT's experiments and some of its metrics, with numbers in `value`, "" for no regime or l2.

    More columns: `method` (the arm without its settings), `batch`, the case's other axes (frugal.sft.cases), and
    `settings`, the arm's own as a mapping.
    """
    rows = measurements[
        (measurements["system"] == "sft")
        & (measurements["experiment"] == experiment)
        & measurements["metric"].isin(metrics)
    ]
    axes = [_read(text) for text in rows["axes_json"]]
    return rows.assign(
        regime=rows["regime"].fillna(""),
        l2=rows["l2"].fillna(""),
        value=pd.to_numeric(rows["value"]),
        network=rows["network"].fillna("any network"),
        method=rows["arm"].map(method),
        batch=pd.to_numeric(rows["n"]).fillna(1),
        settings=[_read(text) for text in rows["arm_json"]],
        **{name: [each.get(name, default) for each in axes] for name, default in _AXES.items()},
    )


def method(arm: str) -> str:
    """The method of an arm: "checkpoint" of "checkpoint@segments=5"."""
    return arm.partition("@")[0]


def setting(arm: str, name: str) -> float:
    """A number among an arm's settings as its name has them (`budget_mib` of "planned@budget_mib=64"); NaN for none."""
    found = re.search(rf"[@,]{name}=([\d.]+)", arm)
    return float(found[1]) if found else float("nan")


def in_words(arm: str) -> str:
    """An arm as a person reads it: "checkpoint, segments 5", "ours: planned, 64 MiB"."""
    label = LOOKS[method(arm)].label if method(arm) in LOOKS else method(arm)
    words = []
    for part in filter(None, arm.partition("@")[2].split(",")):
        name, _, value = part.partition("=")
        if name in _MEMORY:
            words.append(mebibytes(float(value)) + _MEMORY[name])
        else:
            words.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join([label, *words])


def mebibytes(value: float) -> str:
    """512 MiB, 9.5 GiB."""
    return f"{value / 1024:.3g} GiB" if value >= 1024 else f"{value:.3g} MiB"


def gibibytes(value: float, _position: int | None = None) -> str:
    """A number of bytes for an axis: 64 MiB, 2 GiB."""
    return mebibytes(value / 2**20)


def fastest(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Of the arms and layouts of one method the one with the least time, as its user would choose; one row a `by`."""
    ordered = over_sessions(rows).sort_values("value", kind="stable")
    return ordered.drop_duplicates(list(by)).sort_index(kind="stable")


def panels(rows: pd.DataFrame, names: Sequence[str]) -> list[pd.DataFrame]:
    """The rows by machine, this one first, and then by the columns `names`, in order."""
    found = []
    for machine in in_machine_order(rows):
        parts = [(key, own) for key, own in rows[rows["machine"] == machine].groupby(list(names), sort=False)]
        found += [own for _, own in sorted(parts, key=lambda part: [_place(value) for value in part[0]])]
    return found


def network(row: pd.Series) -> str:
    """A network as a title has it: "VGG-16", "ResNet-18 with 1/8 of its channels, batch norm trained"."""
    narrow = f" with 1/{row['width_divisor']:.0f} of its channels" if row["width_divisor"] != 1 else ""
    norms = {"train": ", batch norm trained", "frozen": ", batch norm frozen"}.get(row["norms"], "")
    return told.pretty(row["network"]) + narrow + norms


def heading(own: pd.DataFrame, *more: str) -> list[str]:
    """A panel's title: network, `more` (with a precision in words) and settings on a line, the machine on another."""
    first = own.iloc[0]
    more = tuple(PRECISIONS.get(word, word) for word in more)
    place = "image in main memory" if first["input"] == "host" else ""
    batch = f"batch {first['batch']:.0f}" if first["batch"] != 1 else ""
    return [" · ".join(filter(None, [network(first), *more, batch, place])), first["machine"]]


def size(height: float, width: float) -> str:
    """2048², 4096 × 1536."""
    return f"{height:.0f}²" if height == width else f"{height:.0f} × {width:.0f}"


def size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """A logarithmic x axis whose ticks are the sizes that were measured, as far as their numbers fit side by side."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(sizes) / 1.15, max(sizes) * 1.15)
    shown: list[float] = []
    for value in sorted(set(sizes)):
        if not shown or value / shown[-1] >= (max(sizes) * 1.3 / min(sizes)) ** 0.08:
            shown.append(value)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))


def grid(parts: Sequence[object], height: float, notes: Sequence[str], columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with a panel a part, so many beside each other, and room for the notes."""
    rows = -(-len(parts) // columns)
    figure = Figure(figsize=(style.WIDTH, 1.1 + height * rows + style.note_height(notes)), layout="constrained")
    panes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in panes[len(parts) :]:
        spare.set_axis_off()
    return figure, panes[: len(parts)]


def missing(found: pd.DataFrame, drawn: pd.DataFrame, experiment: str, what: str = "cases and arms") -> list[str]:
    """Notes on what is not drawn, by machine, with the reasons of the records; and what to type."""
    lines = []
    here = set(drawn["case_id"] + "/" + drawn["arm"])
    for machine in in_machine_order(found):
        own = found[found["machine"] == machine]
        marks = own.assign(case_id=own["case_id"] + "/" + own["arm"])
        text = told.not_drawn(marks, here, what)
        why = told.reasons(marks[~marks["case_id"].isin(here)], most=2)
        because = f" (reasons in the records: {why})" if why else ""
        lines.append(f"{machine[0].upper()}{machine[1:]}: {text}{because}." if text else "")
    return [*lines, told.nothing_here(found, command(experiment)) if len(found) else ""]


def command(experiment: str) -> str:
    """What to type to measure one of SFT's experiments."""
    return f'snakemake --cores all --config "sft={{experiments: [{experiment}]}}" -- sft'


def nothing(title: str, found: pd.DataFrame, experiment: str, empty: str) -> Figure:
    """The figure for rows of which none can be drawn."""
    return told.nothing(title, found, "cases", empty, command(experiment))


def _read(text: object) -> dict:
    return json.loads(text) if isinstance(text, str) else {}


def _place(value: object) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return (0, float(value), "")
    place = list(PRECISIONS).index(value) if value in PRECISIONS else len(PRECISIONS)
    return (1, float(place), str(value))
