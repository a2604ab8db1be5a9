"""What a report is made of, read from the results folder; what is not there yet is empty, and the page says so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from frugal import records
from frugal.errors import FrugalError
from frugal.figures import NAMES, Frames, frames

_ADDED = ("recorded", "machine", "device_key")


@dataclass(frozen=True)
class Campaign:
    """The tables of one campaign: columns of frugal.records.SCHEMAS and those that frugal.figures.frames adds.

    `recorded` is the folder's name of a recorded campaign, None for what this machine measured.
    """

    recorded: str | None
    runs: pd.DataFrame
    measurements: pd.DataFrame
    comparisons: pd.DataFrame

    @property
    def machines(self) -> list[str]:
        """The machines that measured, in words ("this machine (AMD EPYC, 2 threads)"), in the order of their runs."""
        return self.runs["machine"].drop_duplicates().tolist()


@dataclass(frozen=True)
class FigureFiles:
    """A figure as it lies in results/figures: SVG (with title and description) and PNG."""

    name: str
    svg: bytes
    png: bytes


@dataclass(frozen=True)
class Inputs:
    """Everything that a report shows.

    `samples` (pyarrow, this machine's) and `claims` have the columns of frugal.records.SCHEMAS; `captions` are
    reStructuredText by figure name; `availability` is data/availability.json, `plan` results/plan.json (None: no plan).
    """

    here: Campaign
    recorded: tuple[Campaign, ...] = ()
    samples: pa.Table = field(default_factory=lambda: records.SCHEMAS["samples"].empty_table())
    claims: pd.DataFrame = field(default_factory=lambda: records.SCHEMAS["claims"].empty_table().to_pandas())
    figures: tuple[FigureFiles, ...] = ()
    captions: Mapping[str, str] = field(default_factory=dict)
    availability: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    plan: Mapping[str, Any] | None = None

    @property
    def campaigns(self) -> tuple[Campaign, ...]:
        """This machine's campaign first, then the recorded ones."""
        return (self.here, *self.recorded)


def read(
    results: str | Path,
    recorded: Iterable[str | Path] = (),
    *,
    captions: Iterable[str | Path] = (),
    figures: Sequence[str] = NAMES,
    availability: str | Path | None = None,
    plan: str | Path | None = None,
) -> Inputs:
    """Read a results folder and recorded campaigns.

    `captions` are files `<figure>.rst`; `figures` are the names of those to show, as far as they are drawn;
    `availability` and `plan` are JSON files, which need not exist.
    Raises FrugalError for a recorded folder that is not there and for a damaged file.
    """
    results = Path(results)
    folders = [Path(folder) for folder in recorded]
    tables = frames.load(results, folders)
    samples, claims = (_table(results, name) for name in ("samples", "claims"))
    return Inputs(
        here=campaign_of(tables, None),
        recorded=tuple(campaign_of(tables, folder.name) for folder in folders),
        samples=samples,
        claims=claims.to_pandas(),
        figures=tuple(_figure(results / "figures", name) for name in figures if _drawn(results / "figures", name)),
        captions={path.stem: path.read_text("utf-8") for path in map(Path, captions)},
        availability=_json(availability) or {},
        plan=_json(plan),
    )  # fmt: skip


def campaign_of(tables: Frames, recorded: str | None) -> Campaign:
    """The rows of one campaign out of frames that hold several.

    A device has one name here: that of its run with the most threads, since a short job beside the timing takes fewer.
    """

    def part(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.reindex(columns=[*frame.columns, *(name for name in _ADDED if name not in frame.columns)])
        mine = frame["recorded"].isna() if recorded is None else frame["recorded"] == recorded
        return frame[mine].reset_index(drop=True)

    runs, *others = (part(frame) for frame in (tables.runs, tables.measurements, tables.comparisons))
    longest = runs.sort_values("threads").drop_duplicates("device_key", keep="last")
    names = dict(zip(longest["device_key"], longest["machine"], strict=True))
    return Campaign(recorded, *(frame.assign(machine=frame["device_key"].map(names)) for frame in (runs, *others)))


def _table(results: Path, name: str) -> pa.Table:
    path = results / f"{name}.parquet"
    return records.read(path, name) if path.exists() else records.SCHEMAS[name].empty_table()


def _drawn(folder: Path, name: str) -> bool:
    return all((folder / f"{name}.{suffix}").is_file() for suffix in ("svg", "png"))


def _figure(folder: Path, name: str) -> FigureFiles:
    return FigureFiles(name, *((folder / f"{name}.{suffix}").read_bytes() for suffix in ("svg", "png")))


def _json(path: str | Path | None) -> Any:
    if path is None or not Path(path).exists():
        return None
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except ValueError as problem:
        raise FrugalError(f"{path} is damaged ({problem}): delete it, and run the same command again") from None
