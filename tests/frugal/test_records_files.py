"""Files of records are whole or refused, and say which schema they have."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_rows import a_row, a_run, a_sample, blocks

from frugal import records
from frugal.records import RecordError, SchemaMismatch

# --- whole files or none


def test_a_failing_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "session-0.parquet"
    records.write_job(path, a_run(), [a_row()], {})
    before = path.read_bytes()
    with pytest.raises(RecordError):
        records.write_job(path, a_run(), [a_row(value=math.nan)], {})

    def die_half_way(table, file, **settings):
        file.write(b"PAR1 half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", die_half_way)
    with pytest.raises(KeyboardInterrupt):
        records.write_job(path, a_run(), [a_row()], {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "session-0.parquet"
    row = a_row()
    records.write_job(path, a_run(), [row], {row.key: blocks([i * 1e-6 / 3 for i in range(3, 2000)])})
    return path


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99, -1])
@pytest.mark.parametrize("table", ["runs", "measurements", "samples"])
def test_truncated_files_are_refused_in_one_sentence(job, keep, table):
    whole = job.read_bytes()
    job.write_bytes(whole[: int(len(whole) * keep)] if isinstance(keep, float) else whole[:keep])
    with pytest.raises(RecordError, match=r"session-0\.parquet is damaged.*: delete it and run again$") as caught:
        records.read(job, table)
    assert "\n" not in str(caught.value)


def test_every_flipped_bit_in_the_data_is_seen(job):
    # zstd alone lets some through as other numbers; the pages' checksums do not.
    whole = job.read_bytes()
    group = pq.ParquetFile(job).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    (values,) = [c for c in columns if c.path_in_schema == "samples.list.element.value"]
    start = values.dictionary_page_offset or values.data_page_offset
    for tenth in range(4, 10):
        damaged = bytearray(whole)
        damaged[start + values.total_compressed_size * tenth // 10] ^= 1
        job.write_bytes(damaged)
        with pytest.raises(RecordError, match="damaged"):
            records.read(job, "samples")


def test_missing_and_foreign_files(tmp_path, job):
    with pytest.raises(RecordError, match=r"nothing\.parquet does not exist: run what makes it first"):
        records.read(tmp_path / "nothing.parquet", "runs")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    with pytest.raises(SchemaMismatch, match="schema version none"):
        records.read(tmp_path / "foreign.parquet", "runs")
    with pytest.raises(RecordError, match="holds job, not comparisons"):
        records.read(job, "comparisons")
    records.write_table(tmp_path / "c.parquet", records.table_of("comparisons", []), "comparisons")
    with pytest.raises(RecordError, match=r"c\.parquet is no job file \(it holds comparisons\)"):
        records.read_job(tmp_path / "c.parquet")


def test_folders(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RecordError, match=r"neither runs\.parquet nor job files"):
        records.read(empty, "runs")
    for k in range(2):
        run = a_run(run_id=f"01RUN{k}", session=k)
        row = a_row(run_id=run.run_id, session=k)
        records.write_job(tmp_path / "raw" / f"session-{k}.parquet", run, [row], {row.key: blocks([1.0])})
    for table in ("runs", "measurements", "samples"):
        found = records.read(tmp_path / "raw", table)
        assert found.column("run_id").to_pylist() == ["01RUN0", "01RUN1"]
    # an aggregated table is preferred to the jobs beneath
    records.write_table(tmp_path / "raw" / "runs.parquet", records.table_of("runs", []), "runs")
    assert records.read(tmp_path / "raw", "runs").num_rows == 0


def test_only_some_columns_are_read_where_they_are_named(tmp_path, job):
    wanted = ("value", "run_id")
    for where in (job, job.parent):
        found = records.read(where, "samples", columns=wanted)
        assert found.column_names == ["run_id", "value"]  # in the schema's order
        assert found == records.read(where, "samples").select(["run_id", "value"])
    assert records.read(job, "runs", columns=["torch"]).column_names == ["torch"]
    records.write_table(tmp_path / "out" / "samples.parquet", records.read(job, "samples"), "samples")
    assert records.read(tmp_path / "out", "samples", columns=wanted) == found
    with pytest.raises(RecordError, match=r"samples has no column speed: docs/output\.md"):
        records.read(job, "samples", columns=["speed"])


def test_a_column_that_is_named_may_be_younger_than_the_file(tmp_path):
    path = tmp_path / "runs.parquet"
    records.write_table(path, records.table_of("runs", [a_run(flops_fp16=1.0)]), "runs")
    rewritten(path, "1.0.0", lambda table: table.drop_columns(["flops_fp16"]))
    assert records.read(path, "runs", columns=["flops_fp16"]).to_pylist() == [{"flops_fp16": None}]


# --- versions


def rewritten(path, version, change=lambda table: table):
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"schema_version": version.encode()}
    pq.write_table(change(table).replace_schema_metadata(metadata), path)


@pytest.mark.parametrize("version", ["0.9.0", "2.0.0", "10.0.0"])
def test_another_major_version_is_refused(job, version):
    rewritten(job, version)
    advice = "rerun what made it" if version < "1" else "update frugal"
    with pytest.raises(
        SchemaMismatch, match=rf"session-0\.parquet has schema version {version}.*: {advice}$"
    ) as caught:
        records.read(job, "measurements")
    assert (caught.value.found, caught.value.expected) == (version, records.SCHEMA_VERSION)


def test_an_older_minor_version_has_nulls(job):
    def older(table):
        samples = [
            [{k: v for k, v in s.items() if k != "power_w"} for s in row] for row in table["samples"].to_pylist()
        ]
        return table.drop_columns(["occupancy", "samples"]).append_column("samples", pa.array(samples))

    rewritten(job, "1.0.0", older)
    assert records.read(job, "measurements").column("occupancy").to_pylist() == [None]
    _, (row,), samples = records.read_job(job)
    assert row.occupancy is None
    assert samples[row.key][0] == a_sample(value=1e-6, start_ns=0)


def test_a_newer_minor_version_loses_what_we_do_not_know(job):
    before = records.read_job(job)
    rewritten(job, "1.9.0", lambda table: table.append_column("new_column", pa.array([1])))
    assert records.read_job(job) == before


def test_a_file_without_a_column_that_must_be_there_is_refused(job):
    rewritten(job, "1.0.0", lambda table: table.drop_columns(["case_id", "role"]))
    with pytest.raises(RecordError, match="lacks the columns case_id, role"):
        records.read(job, "measurements")


def test_a_column_of_another_type_is_refused(job):
    rewritten(job, "1.0.0", lambda t: t.set_column(t.column_names.index("session"), "session", pa.array(["zero"])))
    with pytest.raises(RecordError, match="column session cannot be read as int32"):
        records.read(job, "measurements")
