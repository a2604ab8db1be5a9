"""What DTR's figures share: the rows of an experiment with programs and settings, looks, panels and titles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from frugal.figures import style, told
from frugal.figures.frames import in_machine_order
from frugal.figures.style import Look

COMMAND = "snakemake --cores all --config systems=[dtr] -- dtr"  # what measures all that the figures show
HEURISTICS = {
    "h_dtr": Look("h_dtr", "#D55E00", "o"),
    "h_dtr_eq": Look("h_dtr_eq", "#E69F00", "D"),
    "h_dtr_unopt": Look("h_dtr_unopt", "#4A1A8C", "h"),
    "h_local": Look("h_local", "#0072B2", "s"),
    "h_msps": Look("h_msps", "#56B4E9", "^"),
    "h_lru": Look("h_lru", "#009E73", "v"),
    "h_size": Look("h_size", "#CC79A7", "P"),
    "h_rand": Look("h_rand", "#5E5E5E", "X"),
}
METHODS = {
    "dtr": Look("ours: DTR", "#D55E00", "o"),
    "plain": Look("plain", "#0072B2", "s"),
    "checkpoint_blocks": Look("checkpoint, by block", "#009E73", "v"),
    "checkpoint_sqrt": Look("checkpoint, √n segments", "#56B4E9", "^"),
    "selective_matmul": Look("selective, matmuls kept", "#E69F00", "D"),
    "selective_sdpa": Look("selective, attention kept", "#4A1A8C", "h"),
    "activation_budget": Look("activation memory budget", "#5E5E5E", "X"),
    "save_on_cpu": Look("save on CPU", "#CC79A7", "P"),
}
# Axes of a case (frugal.dtr.cases) that are not of its program.
_NOT_OF_PROGRAM = ("origin", "ratio", "group", "cap_gib", "device", "grows", "bound", "moment", "class", "ops")
_NAMES = {
    "unet": "U-Net", "lstm": "LSTM", "gru": "GRU", "treelstm": "TreeLSTM", "transformer": "Transformer",
    "inceptionv4": "Inception-v4", "unrolled_gan": "unrolled GAN", "chain": "chain", "adversary": "adversary",
}  # fmt: skip
SETTINGS = ("ratio", "dealloc", "e_star", "seed", "budget", "expandable")


def of(measurements: pd.DataFrame, experiment: str | Sequence[str], *metrics: str) -> pd.DataFrame:
    """The rows of DTR's experiments and some of its metrics, with numbers in `value` and "" for no regime or l2.

    More columns: `method` (the arm without its settings), SETTINGS as the arm's name has them (None where it has
    none), `program` (network and sizes as text), `origin`, and `axes`, the case's as a mapping.
    """
    wanted = [experiment] if isinstance(experiment, str) else list(experiment)
    rows = _on_one_machine(measurements[measurements["system"] == "dtr"])
    rows = rows[rows["experiment"].isin(wanted) & rows["metric"].isin(metrics)]
    axes = [json.loads(text) if isinstance(text, str) else {} for text in rows["axes_json"]]
    settings = [settings_of(arm) for arm in rows["arm"]]
    return rows.assign(
        regime=rows["regime"].fillna(""),
        l2=rows["l2"].fillna(""),
        value=pd.to_numeric(rows["value"]),
        method=[arm.partition("@")[0] for arm in rows["arm"]],
        axes=axes,
        origin=[each.get("origin", "") for each in axes],
        program=[_program(each) for each in axes],
        **{name: [each.get(name) for each in settings] for name in SETTINGS},
    )


def settings_of(arm: str) -> dict[str, float | str]:
    """The settings that an arm's name has: {"ratio": 0.5, "dealloc": "ignore"} of "h_dtr@ratio=0.5,dealloc=ignore"."""
    parts = (part.partition("=") for part in filter(None, arm.partition("@")[2].split(",")))
    return {name: _number(value) for name, _, value in parts}


def in_words(arm: str) -> str:
    """An arm as a person reads it: "ours: DTR, budget 0.5"."""
    method = arm.partition("@")[0]
    label = METHODS[method].label if method in METHODS else method
    return ", ".join([label, *(f"{name.replace('_', ' ')} {value}" for name, value in settings_of(arm).items())])


def panels(rows: pd.DataFrame, by: Sequence[str] = ("program", "origin")) -> list[pd.DataFrame]:
    """The rows by machine, this one first, and then by the columns `by` in the order of the rows."""
    return [
        own
        for machine in in_machine_order(rows)
        for _, own in rows[rows["machine"] == machine].groupby(list(by), sort=False, dropna=False)
    ]


def once(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the second and later machines' rows of what depends on no machine: published logs and chains."""
    first = {name: place for place, name in enumerate(in_machine_order(rows))}
    same = rows["origin"].isin(("published", "made")) | rows["network"].isin(("chain", "adversary"))
    keys = ["case_id", "arm", "metric", "session"]
    kept = rows[same].assign(first=rows["machine"].map(first)).sort_values("first", kind="stable")
    kept = kept[kept["first"] == kept.groupby("case_id")["first"].transform("min")].drop_duplicates(keys)
    return pd.concat([rows[~same], kept.drop(columns="first")]).sort_index()


def network(name: str) -> str:
    """A network's name as papers write it."""
    return _NAMES.get(name, told.pretty(name))


def heading(own: pd.DataFrame, *more: str) -> list[str]:
    """A panel's title: the network, `more`, and where the rows come from, a line each."""
    first = own.iloc[0]
    axes = first["axes"]
    sizes = [f"batch {axes['batch']}"] if "batch" in axes else []
    sizes += [f"{axes['h']} × {axes['w']}"] if "h" in axes and "w" in axes else []
    sizes += [f"{key} {axes[key]}" for key in ("seq", "depth", "layers") if key in axes]
    where = "published log" if first["origin"] == "published" else first["machine"]
    return [" · ".join([network(first["network"]), *sizes, *filter(None, more)]), where]


def compose(
    title: str,
    parts: Sequence[pd.DataFrame],
    draw: Callable[[Axes, pd.DataFrame], None],
    *,
    handles: Sequence[Artist],
    said: Callable[[pd.DataFrame], str],
    xlabel: str,
    notes: Sequence[str],
    height: float = 2.3,
    legend: int = 4,
) -> Figure:
    """A figure with a panel a part, below each other; `draw` draws one, `said` says one in words."""
    with style.context():
        size = (style.WIDTH, 1.1 + height * len(parts) + style.note_height(notes))
        figure = Figure(figsize=size, layout="constrained")
        panes = figure.subplots(len(parts), 1, squeeze=False)[:, 0]
        for axes, own in zip(panes, parts, strict=True):
            draw(axes, own)
        panes[-1].set_xlabel(xlabel)
        style.describe(figure, title, " ".join(map(said, parts)))
        style.head(figure, title, handles, columns=legend)
        style.notes(figure, notes)
    return figure


def line_handles(looks: Mapping[str, Look], linestyle: str = "solid") -> list[Line2D]:
    """Legend entries of lines with marks."""
    handles = [style.handle(look) for look in looks.values()]
    for handle in handles:
        handle.set_linestyle(linestyle)
    return handles


def missing(found: pd.DataFrame, drawn: pd.DataFrame) -> list[str]:
    """Notes on what is not drawn, by machine, with the reasons of the records; and what to type."""
    lines = []
    here = set(_marks(drawn))
    for machine in in_machine_order(found):
        own = found[found["machine"] == machine]
        marks = own.assign(case_id=_marks(own))
        text = told.not_drawn(marks, here, "cases and arms")
        why = told.reasons(marks[~marks["case_id"].isin(here)].assign(reason=lambda rows: _short(rows["reason"])), 2)
        because = f" (reasons in the records: {why})" if why else ""
        lines.append(f"{machine[0].upper()}{machine[1:]}: {text}{because}." if text else "")
    return [*lines, told.nothing_here(found, COMMAND) if len(found) else ""]


def by_program(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the program for a case, for `missing`: one program stands in several experiments."""
    return rows.assign(case_id=rows["program"])


def times(value: float, _position: int | None = None) -> str:
    """A ratio for an axis, with three digits: 1.25×."""
    return f"{value:.3g}×"


def nothing(title: str, found: pd.DataFrame, empty: str) -> Figure:
    """The figure for rows of which none can be drawn."""
    return told.nothing(title, found, "cases", empty, COMMAND)


def _on_one_machine(rows: pd.DataFrame) -> pd.DataFrame:
    """Steps are timed in several threads and counted in one: `machine` is the former's, so that both are compared."""
    if rows.empty:
        return rows
    of_device = rows.groupby(["device_key", rows["recorded"].fillna("")])["machine"]
    return rows.assign(machine=of_device.transform("max"))  # "1 thread" sorts before "2 threads" and "16 threads"


def _marks(rows: pd.DataFrame) -> pd.Series:
    return rows["machine"] + "/" + rows["case_id"] + "/" + rows["arm"]


def _short(reasons: Iterable[object]) -> list[object]:
    """Reasons without the operator and the bytes that differ from row to row."""
    return [
        "passed its limit of recomputation" if str(text).startswith("ThrashError")
        else "bytes short" if "bytes short" in str(text)
        else text
        for text in reasons
    ]  # fmt: skip


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _program(axes: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in axes.items() if name not in _NOT_OF_PROGRAM)
