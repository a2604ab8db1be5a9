"""Figure `cusnn_prediction`: the model's time of our kernels beside the measured one."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from frugal.figures import frames, style, told
from frugal.figures.cusnn import layers as of_layers
from frugal.figures.cusnn import timed as of_times
from frugal.figures.frames import in_machine_order
from kernels.sparse import ConvShape, Variant
from kernels.sparse.planning import cut
from kernels.sparse.predict import Machine, predict

TITLE = "Predicted and measured time of our kernels"
EXPERIMENTS = ("layers", "break_even", "ladder")
BAND = 1.25  # drawn on either side of equality


def prediction(measurements: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Predicted time (x) against measured time (y) on log scales, a mark a case and arm, one panel a GPU.

    Measured: geometric means over sessions, regime graph with data resident in L2, which is what the model describes
    (kernels.sparse.predict). A row's `arm_json` has its variant and splits; kernels that the model does not describe
    are counted. Frames as frugal.figures.frames.load gives them.
    """
    found = pd.concat([of_times.of(measurements, name) for name in EXPERIMENTS])
    own = found[(found["role"] == "ours") & (found["regime"] == "graph") & (found["l2"] == "resident")]
    gpus = runs.drop_duplicates("run_id")
    gpus = gpus[gpus["device_kind"] == "cuda"][["run_id", "sm_count", "sm_hz_max", "settled_sm_hz"]]
    rows = frames.over_sessions(own.merge(gpus, on="run_id"))
    rows = rows.assign(predicted=[_predicted(row) for _, row in rows.iterrows()])
    drawn = rows[rows["predicted"].notna()]
    if drawn.empty:
        return _nothing(found, rows)
    machines = in_machine_order(drawn)
    notes = _notes(found, rows, drawn)
    with style.context():
        figure = Figure(
            figsize=(style.WIDTH, 0.9 + 4.3 * len(machines) + style.note_height(notes)), layout="constrained"
        )
        grid = figure.subplots(len(machines), 1, squeeze=False)[:, 0]
        arms = style.looks(drawn["arm"])
        for axes, machine in zip(grid, machines, strict=True):
            _draw(axes, drawn[drawn["machine"] == machine], arms)
        style.describe(figure, TITLE, ". ".join(_said(drawn[drawn["machine"] == name]) for name in machines) + ".")
        style.head(figure, TITLE, _legend(arms), columns=3)
        style.notes(figure, notes)
    return figure


def _predicted(row: pd.Series) -> float:
    """The model's seconds for a row; NaN for a kernel that it does not describe."""
    settings = json.loads(row["arm_json"]) if isinstance(row["arm_json"], str) else {}
    if "variant" not in settings or pd.isna(row["sparsity_measured"]):
        return float("nan")
    sizes = {name: int(row[name]) for name in ("n", "c", "h", "w", "k", "r", "stride", "pad")}
    shape = ConvShape(
        sizes["n"], sizes["c"], sizes["h"], sizes["w"], sizes["k"], k=sizes["r"], stride=sizes["stride"],
        pad=sizes["pad"],
    )  # fmt: skip
    clock = row["settled_sm_hz"] if pd.notna(row["settled_sm_hz"]) else row["sm_hz_max"]
    try:
        plan = cut(Variant.parse(settings["variant"]), shape, int(settings.get("splits", 1)))
        machine = Machine(sm_count=int(row["sm_count"]), clock_hz=float(clock))
        return predict(plan, shape, float(row["sparsity_measured"]), machine).seconds
    except ValueError:  # a step before v3, a 1×1 kernel, the paper's scheme
        return float("nan")


def _draw(axes: Axes, own: pd.DataFrame, arms: dict[str, style.Look]) -> None:
    both = own[["predicted", "value"]].to_numpy()
    ends = np.array([both.min() / 1.4, both.max() * 1.4])
    axes.fill_between(ends, ends / BAND, ends * BAND, color="#EDEDED", linewidth=0, zorder=0)
    axes.plot(ends, ends, color=style.INK, linewidth=1.0, zorder=1)
    size = 26 if len(own) <= 150 else 12
    for name, look in arms.items():
        rows = own[own["arm"] == name]
        axes.scatter(rows["predicted"], rows["value"], s=size, marker=look.marker, color=look.colour, linewidth=0,
                     alpha=0.8, zorder=3, label=name)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="predicted time", ylabel="measured time")
    for side in (axes.xaxis, axes.yaxis):
        side.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        side.set_minor_locator(NullLocator())
        side.set_major_formatter(FuncFormatter(style.seconds))
    style.panel_title(axes, [own["machine"].iloc[0], _how_good(own)])


def _how_good(own: pd.DataFrame) -> str:
    off = np.abs(np.log(own["value"] / own["predicted"]))
    half, nine = (_percent(float(np.quantile(off, q))) for q in (0.5, 0.9))
    return f"{told.counted(len(own), 'mark')}: half within {half} of the prediction, nine tenths within {nine}"


def _percent(log: float) -> str:
    """A difference of logarithms as a percentage."""
    return f"{100 * np.expm1(log):.0f} %"


def _legend(arms: dict[str, style.Look]) -> list[Line2D]:
    line = Line2D([], [], color=style.INK, linewidth=1.0, label="equal; band: within a quarter")
    return [*(style.handle(look) for look in arms.values()), line]


def _notes(found: pd.DataFrame, rows: pd.DataFrame, drawn: pd.DataFrame) -> list[str]:
    lines = [
        "The model counts what a launch does (kernels/sparse/predict.py); its constants were fitted on an H200 before "
        "these measurements. Regime graph, L2 resident."
    ]
    left = len(rows) - len(drawn)
    if left:
        lines.append(f"{left} of {len(rows)} cases and arms are of kernels that it does not describe.")
    if found["recorded"].isna().any() and drawn["recorded"].notna().all():
        lines.append("On this machine no kernel was timed that the model describes: it is of GPUs.")
    return [*lines, of_layers.nothing_here(found)]


def _nothing(found: pd.DataFrame, rows: pd.DataFrame) -> Figure:
    if len(found):
        sentences = ["Layers have been timed, but no kernel that the model describes: it is of our kernels on a GPU."]
        return style.message(
            TITLE, sentences, "To measure on a GPU, type:", "snakemake --workflow-profile gpu -- cusnn"
        )
    empty = "No kernel has been timed yet, neither on this machine nor in a recorded campaign."
    return of_layers.nothing(TITLE, rows, "cases", empty)


def _said(own: pd.DataFrame) -> str:
    return f"{own['machine'].iloc[0]}: {_how_good(own)}"
