"""The tables that figures draw: this machine's results and recorded campaigns, read from Parquet, side by side.

Every frame gains `recorded` (null for this machine's rows, else the campaign's name, such as "nvidia-h200") and
`machine` (the words a panel uses, such as "recorded on NVIDIA H200"). `measurements` also gains `device_key`, which its
runs row carries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from frugal import records
from frugal.block_medians import block_values
from frugal.errors import FrugalError

TABLES = ("measurements", "comparisons", "runs")
_OF_RUN = ("device_key", "machine")
ONE = ["machine", "case_id", "arm", "regime", "l2", "metric"]  # what a value of one session is of


@dataclass(frozen=True)
class Frames:
    """The three tables (columns of frugal.records.SCHEMAS, plus those of this module's docstring)."""

    measurements: pd.DataFrame
    comparisons: pd.DataFrame
    runs: pd.DataFrame
    blocks: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The medians of blocks of one system (see `load`): run_id, case_id, arm, regime, l2, metric, round, value."""


def load(results_dir: str | Path, recorded_dirs: Iterable[str | Path] = (), *, blocks_of: str | None = None) -> Frames:
    """Read `<dir>/{measurements,comparisons,runs}.parquet` of the results and of each recorded campaign.

    `blocks_of` names a system whose samples are read too, as the medians of their blocks.
    A table that is not there yet is empty (its figure will say so). A recorded folder that does not exist:
    FrugalError; files of another schema version: frugal.records raises its own.
    """
    folders: list[tuple[Path, str | None]] = [(Path(results_dir), None)]
    for folder in map(Path, recorded_dirs):
        if not folder.is_dir():
            raise FrugalError(
                f"{folder}: there is no such recorded campaign; take its name out of `recorded` in config.yaml"
            )
        folders.append((folder, folder.name))
    parts = [_campaign(*campaign) for campaign in folders]
    blocks = [
        _blocks(folder, part["measurements"], blocks_of) for (folder, _), part in zip(folders, parts, strict=True)
    ]
    return Frames(*(_stack([part[name] for part in parts]) for name in TABLES), blocks=_stack(blocks))


def machine(run: pd.Series) -> str:
    """How a panel calls the machine of a runs row: where the rows come from, and the device in words."""
    if run["device_kind"] == "cuda":
        device = run["gpu_name"] if pd.notna(run["gpu_name"]) else run["device_key"]
    elif pd.notna(run["cpu_model"]):
        device = f"{run['cpu_model']}, {run['threads']} thread{'s' if run['threads'] != 1 else ''}"
    else:
        device = run["device_key"]
    return f"this machine ({device})" if pd.isna(run["recorded"]) else f"recorded on {device}"


def axis(measurements: pd.DataFrame, name: str) -> pd.Series:
    """The value of an axis or of an arm's setting (keys of axes_json, then of arm_json); None where a row has none."""
    return pd.Series(
        [
            _key(axes, name) if _key(axes, name) is not None else _key(arm, name)
            for axes, arm in zip(measurements["axes_json"], measurements["arm_json"], strict=True)
        ],
        index=measurements.index,
        dtype=object,
    )


def usable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a value that a logarithmic axis can show."""
    return rows[(rows["status"] == "ok") & (rows["value"] > 0)]


def over_sessions(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each machine, case, arm, regime, l2 and metric: `value` is the geometric mean over the sessions.

    `regime` and `l2` must not be null: "" stands for none.
    """
    drawn = usable(rows)
    means = np.exp(np.log(drawn["value"]).groupby([drawn[name] for name in ONE]).mean())
    first = drawn.drop_duplicates(ONE).drop(columns="value")
    return first.merge(means.rename("value").reset_index(), on=ONE)


def in_machine_order(frame: pd.DataFrame) -> list[str]:
    """The machines of a frame: this machine's first, then recorded ones by name."""
    seen = frame[["recorded", "machine"]].drop_duplicates()
    return seen.assign(first=seen["recorded"].notna()).sort_values(["first", "machine"])["machine"].unique().tolist()


def _campaign(folder: Path, recorded: str | None) -> dict[str, pd.DataFrame]:
    tables = {name: _table(folder, name).assign(recorded=recorded) for name in TABLES}
    runs = tables["runs"]
    runs["machine"] = [machine(run) for _, run in runs.iterrows()]
    by_run = runs.drop_duplicates("run_id")[["run_id", *_OF_RUN]]
    by_device = runs.drop_duplicates("device_key")[["device_key", "machine"]]
    tables["measurements"] = tables["measurements"].merge(by_run, on="run_id", how="left")
    tables["comparisons"] = tables["comparisons"].merge(by_device, on="device_key", how="left")
    return tables


def _blocks(folder: Path, measurements: pd.DataFrame, system: str | None) -> pd.DataFrame:
    path = folder / "samples.parquet"
    columns = ["run_id", *records.RowKey._fields, "round", "value"]
    cases = measurements.loc[measurements["system"] == system, "case_id"].unique()
    if not len(cases) or not path.exists():
        return pd.DataFrame(columns=columns)
    samples = records.read(path, "samples")
    found = block_values(samples.filter(pc.is_in(samples.column("case_id"), pa.array(cases))))
    rows = [
        (run_id, *key, number, block.value)
        for (run_id, key), of_row in found.items()
        for number, block in of_row.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def _table(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"{name}.parquet"
    table = records.read(path, name) if path.exists() else records.SCHEMAS[name].empty_table()
    frame = table.to_pandas()
    # Dictionary columns come as categories, whose groups would include levels that no row has.
    return frame.astype(dict.fromkeys(frame.select_dtypes("category"), object))


def _stack(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]


def _key(text: object, name: str) -> object:
    return json.loads(text).get(name) if isinstance(text, str) else None
