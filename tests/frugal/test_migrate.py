"""Files of older schema versions: rewritten, read, aggregated with today's; and campaigns of two machines joined."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_rows import a_row, a_run, blocks

from frugal import cli, records
from frugal.aggregate import aggregate
from frugal.compare import compare
from frugal.records import SCHEMA_VERSION, SCHEMAS, RecordError, SchemaMismatch

# The columns that schema version 1.1.0 added, by table.
ADDED = {"runs": "flops_fp16"}
TABLES = ("runs", "measurements", "samples")


def job(path: Path, values=(1e-4, 2e-4), **given) -> Path:
    """A job file of two arms."""
    run = a_run(**{"flops_fp16": 1e15, **given})
    rows = [
        a_row(run_id=run.run_id, session=run.session, arm=arm, role=role, occupancy=0.5, value=values[0])
        for arm, role in (("sparse", "ours"), ("cudnn", "baseline"))
    ]
    records.write_job(path, run, rows, {row.key: blocks(values, [2 * v for v in values]) for row in rows})
    return path


def aged(path: Path, version: str = "1.0.0", drop: tuple[str, ...] = ()) -> Path:
    """The file as a frugal of an older minor version wrote it: without some columns, of rows and of the run."""
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    run = metadata.get(b"frugal.run")
    if run is not None:
        stored = json.loads(run)
        for name in (ADDED["runs"], *drop):
            stored.pop(name, None)
        metadata[b"frugal.run"] = json.dumps(stored).encode()
    table = table.drop_columns([name for name in (ADDED["runs"], *drop) if name in table.column_names])
    metadata[b"schema_version"] = version.encode()
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def version(path: Path) -> str:
    return pq.read_schema(path).metadata[b"schema_version"].decode()


# ---- migrate ---------------------------------------------------------------------------------------------------------


def test_an_older_minor_version_is_rewritten_with_nulls_and_nothing_else_changes(tmp_path):
    path = job(tmp_path / "session-0.parquet")
    run, rows, samples = records.read_job(path)
    aged(path, drop=("occupancy",))
    (done,) = records.migrate([path])
    assert (done.path, done.found, done.rewritten) == (path, "1.0.0", True)
    assert version(path) == SCHEMA_VERSION
    assert pq.read_schema(path).names == [*SCHEMAS["measurements"].names, "samples"]
    now_run, now_rows, now_samples = records.read_job(path)
    assert now_run.flops_fp16 is None
    now_run.flops_fp16 = run.flops_fp16
    assert now_run == run
    assert {row.occupancy for row in now_rows} == {None}
    for row in now_rows:
        row.occupancy = 0.5
    assert (now_rows, now_samples) == (rows, samples)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_tables_in_folders_are_found_and_those_of_today_stay_as_they_are(tmp_path):
    aggregate([job(tmp_path / "raw/smoke/session-0.parquet")], tmp_path)
    old = [aged(tmp_path / "runs.parquet"), aged(tmp_path / "raw/smoke/session-0.parquet")]
    before = {file: file.stat().st_ino for file in tmp_path.rglob("*.parquet")}
    done = records.migrate([tmp_path, tmp_path / "runs.parquet"])
    assert {file.path for file in done} == set(before)
    assert {file.path for file in done if file.rewritten} == set(old)
    assert {file for file, inode in before.items() if file.stat().st_ino != inode} == set(old)
    assert {version(file) for file in before} == {SCHEMA_VERSION}
    assert [file.rewritten for file in records.migrate([tmp_path])] == [False] * 4
    assert records.read(tmp_path / "runs.parquet", "runs")["flops_fp16"].to_pylist() == [None]


def test_a_newer_minor_version_is_left_alone(tmp_path):
    path = aged(job(tmp_path / "a.parquet"), "1.99.0")
    before = path.read_bytes()
    assert [(done.found, done.rewritten) for done in records.migrate([path])] == [("1.99.0", False)]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (
            lambda p: aged(p, "0.9.0"),
            SchemaMismatch,
            "has schema version 0.9.0, this frugal reads and migrates 1.x: rerun",
        ),
        (lambda p: aged(p, "2.0.0"), SchemaMismatch, "has schema version 2.0.0, .* update frugal"),
        (lambda p: pq.write_table(pa.table({"a": [1]}), p), SchemaMismatch, "has schema version none, .* rerun"),
        (lambda p: p.write_bytes(p.read_bytes()[:-50]), RecordError, "is damaged, cut short or no Parquet file"),
        (lambda p: aged(p, drop=("case_id",)), RecordError, "lacks the columns case_id: rerun what made it"),
        (lambda p: p.unlink(), RecordError, "does not exist"),
    ],
    ids=["older", "newer", "foreign", "cut short", "without a column", "gone"],
)
def test_what_cannot_be_migrated_is_one_sentence_and_nothing_is_rewritten(tmp_path, spoil, error, sentence, capsys):
    good, bad = aged(job(tmp_path / "a.parquet")), job(tmp_path / "b.parquet")
    spoil(bad)
    before = good.read_bytes()
    with pytest.raises(error, match=rf"b\.parquet {sentence}"):
        records.migrate([good, bad])
    assert good.read_bytes() == before
    assert cli.main(["migrate", str(good), str(bad)]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert str(bad) in err


def test_a_flipped_bit_is_seen_before_anything_is_rewritten(tmp_path):
    good, bad = aged(job(tmp_path / "a.parquet")), job(tmp_path / "b.parquet", values=[i / 3 for i in range(1, 2000)])
    group = pq.ParquetFile(bad).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    (values,) = [c for c in columns if c.path_in_schema == "samples.list.element.value"]
    damaged = bytearray(bad.read_bytes())
    damaged[(values.dictionary_page_offset or values.data_page_offset) + values.total_compressed_size // 2] ^= 1
    bad.write_bytes(damaged)
    before = good.read_bytes()
    with pytest.raises(RecordError, match=r"b\.parquet is damaged"):
        records.migrate([good, bad])
    assert good.read_bytes() == before


def test_folders_without_tables_and_tables_that_are_unknown(tmp_path):
    with pytest.raises(RecordError, match="holds no Parquet file: name the file"):
        records.migrate([tmp_path])
    path = job(tmp_path / "a.parquet")
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"frugal.table": b"wonders", b"schema_version": b"1.0.0"}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(RecordError, match="holds wonders, which this frugal does not know: update frugal"):
        records.migrate([path])


def test_the_command_says_what_it_did(tmp_path, capsys):
    old, new = aged(job(tmp_path / "a.parquet")), job(tmp_path / "b.parquet")
    assert cli.main(["migrate", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (
        f"{old}: 1.0.0 -> {SCHEMA_VERSION}\n1 of 2 files rewritten at schema version {SCHEMA_VERSION}\n"
    )
    assert version(new) == SCHEMA_VERSION


# ---- versions and machines together ----------------------------------------------------------------------------------


def tables(folder: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    return records.read(folder, "measurements"), records.read(folder, "samples"), records.read(folder, "runs")


def test_two_schema_versions_aggregate_together(tmp_path):
    files = [job(tmp_path / f"raw/session-{k}.parquet", run_id=f"01R{k}", session=k) for k in range(3)]
    aggregate(files, tmp_path / "same")
    for file in files[:2]:
        aged(file, drop=("occupancy",))
    aggregate(files, tmp_path / "mixed")
    same, mixed = tmp_path / "same", tmp_path / "mixed"
    assert {file.name: version(file) for file in mixed.iterdir()} == {f"{t}.parquet": SCHEMA_VERSION for t in TABLES}
    assert records.read(mixed, "runs")["flops_fp16"].to_pylist() == [None, None, 1e15]
    assert records.read(mixed, "measurements")["occupancy"].to_pylist() == [None] * 4 + [0.5] * 2
    for name, added in (("runs", "flops_fp16"), ("measurements", "occupancy"), ("samples", None)):
        a, b = (records.read(folder, name) for folder in (same, mixed))
        assert a.select([c for c in a.column_names if c != added]) == b.select(
            [c for c in b.column_names if c != added]
        )
    assert compare(*tables(mixed)) == compare(*tables(same))


def test_two_machines_are_kept_apart_whether_their_jobs_or_their_tables_are_joined(tmp_path):
    """This machine's results and a recorded campaign of another: the same cases, sessions and arms."""
    folders = {}
    for name, key, scale in (("here", "cpu-some-2c", 1.0), ("recorded", "nvidia-h200-9.0-132sm", 0.01)):
        raw = [
            job(tmp_path / name / f"raw/session-{k}.parquet", (scale * (1 + k / 100), scale * 1.5),
                run_id=f"01{name}{k}", session=k, device_key=key, finished_at=datetime(2026, 1, 1 + k, tzinfo=UTC))
            for k in range(3)
        ]  # fmt: skip
        aggregate(raw, tmp_path / name)
        folders[tmp_path / name] = raw
    aged(tmp_path / "recorded/runs.parquet")  # recorded by an older version
    apart = [row for folder in folders for row in compare(*tables(folder)).to_pylist()]
    assert {row["device_key"] for row in apart} == {"cpu-some-2c", "nvidia-h200-9.0-132sm"}
    assert {row["n_sessions"] for row in apart} == {3}

    joined = [pa.concat_tables(parts) for parts in zip(*(tables(folder) for folder in folders), strict=True)]
    assert compare(*joined).to_pylist() == apart

    report = aggregate([file for raw in folders.values() for file in raw], tmp_path / "both")
    assert (report.rows, report.stale, report.duplicates) == (12, [], [])
    assert compare(*tables(tmp_path / "both")).to_pylist() == apart
