"""Many job files become `runs.parquet`, `measurements.parquet` and `samples.parquet`.

Two rows are the same measurement when device, session, case, arm, regime, l2 and metric agree: the one whose job
finished last is kept. A row whose arm's sources have changed since is stale: sessions of two implementations are no
sample of one. Both are dropped with their samples, and listed, never silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from frugal.records import (
    SCHEMAS,
    RecordError,
    RowKey,
    Run,
    job_run,
    job_samples,
    job_table,
    table_of,
    write_table,
)


@dataclass(frozen=True)
class Dropped:
    """A row that was left out, and the file that it stands in."""

    path: str
    session: int
    key: RowKey
    why: str


@dataclass(frozen=True)
class AggregateReport:
    """How many measurement rows were written, and which were left out."""

    rows: int
    stale: list[Dropped]
    duplicates: list[Dropped]

    @property
    def summary(self) -> str:
        """One line for the log."""
        return f"{self.rows} rows kept, {len(self.stale)} stale and {len(self.duplicates)} replaced by newer ones"

    @property
    def details(self) -> list[str]:
        """A line a file and reason: how many of its rows were left out, and why."""
        counts = Counter((dropped.path, dropped.why) for dropped in (*self.stale, *self.duplicates))
        return [f"{path}: {n} rows left out: {why}" for (path, why), n in sorted(counts.items())]


@dataclass(frozen=True)
class _Job:
    path: Path
    run: Run
    table: pa.Table


def aggregate(
    paths: Iterable[str | Path], out_dir: str | Path, keep_hashes: Collection[str] | None = None
) -> AggregateReport:
    """Join job files into `<out_dir>/{runs,measurements,samples}.parquet`, each replaced as a whole.

    `keep_hashes` are the source hashes of today's arms, rows with another one are stale; None takes, for each arm of a
    case on a device, that of the job that finished last. The result does not depend on the order of `paths`.
    RecordError for no path, a file that cannot be read, and a case measured on one device under two presets (their
    sessions are no sample of one design).
    """
    jobs = [_job(Path(path)) for path in sorted({str(path) for path in paths})]
    if not jobs:
        raise RecordError("there is nothing to aggregate: give the job files of at least one session")
    _refuse_mixed_presets(jobs)

    stale: list[Dropped] = []
    duplicates: list[Dropped] = []
    newest: dict[tuple, tuple[_Job, int]] = {}
    latest = _latest_sources(jobs)
    for job in jobs:
        for index, (key, source_hash) in enumerate(_keys(job)):
            today = keep_hashes if keep_hashes is not None else {latest[_arm_of(job, key)]}
            if source_hash not in today:
                stale.append(_dropped(job, key, "its sources have changed since it was measured"))
                continue
            name = (job.run.device_key, job.run.session, *key)
            other = newest.get(name)
            if other is not None:
                duplicates.append(_dropped(min(other[0], job, key=_age), key, "a newer job measured it again"))
            if other is None or _age(other[0]) < _age(job):
                newest[name] = (job, index)

    kept: dict[Path, list[int]] = {}
    for job, index in newest.values():
        kept.setdefault(job.path, []).append(index)
    parts = [(job.run, _part(job.table, sorted(kept[job.path]))) for job in jobs if job.path in kept]

    out = Path(out_dir)
    runs = {run.run_id: run for run, _ in parts}
    measurements = [part.drop_columns("samples").cast(SCHEMAS["measurements"]) for _, part in parts]
    write_table(out / "runs.parquet", table_of("runs", runs.values()), "runs")
    write_table(out / "measurements.parquet", _concat(measurements, "measurements"), "measurements")
    write_table(out / "samples.parquet", _concat([job_samples(part) for _, part in parts], "samples"), "samples")
    return AggregateReport(sum(len(part) for _, part in parts), stale, duplicates)


def _job(path: Path) -> _Job:
    table = job_table(path)
    return _Job(path, job_run(table), table)


def _keys(job: _Job) -> Iterator[tuple[RowKey, str]]:
    columns = [job.table.column(name).to_pylist() for name in (*RowKey._fields, "source_hash")]
    for *key, source_hash in zip(*columns, strict=True):
        yield RowKey(*key), source_hash


def _latest_sources(jobs: list[_Job]) -> dict[tuple, str]:
    """The source hash of each arm in the job that measured it last."""
    return {_arm_of(job, key): source_hash for job in sorted(jobs, key=_age) for key, source_hash in _keys(job)}


def _arm_of(job: _Job, key: RowKey) -> tuple[str, str, str]:
    return job.run.device_key, key.case_id, key.arm


def _part(table: pa.Table, rows: list[int]) -> pa.Table:
    """Those rows; the table itself, and no copy of its samples, where that is all of them."""
    return table if len(rows) == len(table) else table.take(rows)


def _age(job: _Job) -> tuple:
    # A ULID sorts by time too; the path settles what is still equal, so that the order of the files never matters.
    return (job.run.finished_at, job.run.run_id, str(job.path))


def _dropped(job: _Job, key: RowKey, why: str) -> Dropped:
    return Dropped(str(job.path), job.run.session, key, why)


def _concat(parts: list[pa.Table], name: str) -> pa.Table:
    return pa.concat_tables([SCHEMAS[name].empty_table(), *parts])


def _refuse_mixed_presets(jobs: list[_Job]) -> None:
    seen: dict[tuple[str, str], _Job] = {}
    for job in jobs:
        for case in job.table.column("case_id").unique().to_pylist():
            first = seen.setdefault((job.run.device_key, case), job)
            if first.run.preset != job.run.preset:
                raise RecordError(
                    f"{first.path} (preset {first.run.preset}) and {job.path} (preset {job.run.preset}) hold the same "
                    f"case on {job.run.device_key}: aggregate one preset at a time"
                )
