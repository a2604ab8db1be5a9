"""Times of a network's layers as lines of numbers, in the form in which the paper's artifact published its own.

A line a 3×3 layer with stride 1: `B, C, H, W, N, t1, t2, t3, t4`, times in milliseconds, no header; a field without a
measurement is empty. Originally t1 to t3 are cuDNN's three GEMM algorithms and t4 is cuSNN. Here they are what
`COLUMNS` says; the JSON file beside it repeats that. No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from frugal.errors import FrugalError
from frugal.files import publishing

# field: arms, of which the fastest counts
COLUMNS = {
    "t1": ("cudnn_fp32", "cudnn_fp32_cl", "onednn_fp32", "onednn_fp32_cl"),
    "t2": ("gemm_fp32",),
    "t3": ("cudnn_tf32", "cudnn_tf32_cl"),
    "t4": ("sparse",),
}
REGIMES = (("graph", "resident"), ("hot", None), ("wall", None))  # the first that both sides were measured in
TIMED = ("ok", "unstable")  # an unstable time is one whose samples spread
MS = 1e3


def export(table: pd.DataFrame, network: str, batch: int, device_key: str | None = None) -> tuple[str, dict]:
    """(lines, what they mean) of a network's layers at one batch size.

    table: rows of `results/measurements.parquet` of one machine, or with a column `device_key` of which the one given
    is taken. Lines are in the order of the network, `distinct` shapes once. Times are geometric means over sessions, in
    the first of REGIMES in which t1 and t4 were measured. Raises FrugalError where no layer was timed.
    """
    rows = table[(table["experiment"] == "layers") & (table["metric"] == "time") & table["status"].isin(TIMED)]
    rows = rows[(rows["network"] == network) & (rows["n"] == batch) & (rows["r"] == 3) & (rows["stride"] == 1)]
    rows = rows[rows["value"].notna()]
    if device_key is not None:
        rows = rows[rows["device_key"] == device_key]
    regime = _regime(rows)
    if regime is None:
        raise FrugalError(
            f"no 3×3 layer of {network} was timed with batch {batch}: name both in cusnn.networks and "
            "cusnn.batch_sizes, with `layers` in cusnn.experiments, and run again"
        )
    rows = rows[(rows["regime"] == regime[0]) & (rows["l2"].fillna("") == (regime[1] or ""))]
    lines = []
    for _, layer in sorted(rows.groupby("case_id"), key=lambda item: _index(item[1])):
        first = layer.iloc[0]
        sizes = [str(int(first[name])) for name in ("n", "c", "h", "w", "k")]
        lines.append(", ".join([*sizes, *(_time(layer, arms) for arms in COLUMNS.values())]))
    meaning = {
        "layers": "3×3 convolutions with stride 1",
        "columns": ["B", "C", "H", "W", "N", *COLUMNS],
        "unit": "ms",
        "arms": {name: f"the fastest of {', '.join(arms)}" for name, arms in COLUMNS.items()},
        "originally": "t1 to t3: cuDNN's three GEMM algorithms, on dense random input; t4: cuSNN",
        "empty": "not measured",
        "network": network,
        "batch": batch,
        "regime": regime[0],
        "l2": regime[1],
        "device_key": device_key,
    }
    return "".join(f"{line}\n" for line in lines), meaning


def write(table: pd.DataFrame, network: str, batch: int, device_key: str | None, path: str | Path) -> None:
    """Write `export` to `path` and what it means beside it, under the same name with `.json` for its suffix."""
    lines, meaning = export(table, network, batch, device_key)
    with publishing(path) as file:
        file.write(lines.encode())
    with publishing(Path(path).with_suffix(".json")) as file:
        file.write((json.dumps(meaning, indent=1) + "\n").encode())


def _regime(rows: pd.DataFrame) -> tuple[str, str | None] | None:
    for name, l2 in REGIMES:
        arms = set(rows.loc[(rows["regime"] == name) & (rows["l2"].fillna("") == (l2 or "")), "arm"])
        if arms & set(COLUMNS["t1"]) and arms & set(COLUMNS["t4"]):
            return name, l2
    return None


def _index(layer: pd.DataFrame) -> int:
    return json.loads(layer["axes_json"].iloc[0])["layer_index"]


def _time(layer: pd.DataFrame, arms: Sequence[str]) -> str:
    """The fastest of these arms in milliseconds, in five digits; empty where none was measured."""
    found = [math.exp(own["value"].map(math.log).mean()) for arm, own in layer.groupby("arm") if arm in arms]
    return f"{min(found) * MS:.5g}" if found else ""
