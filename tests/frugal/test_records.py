"""Canonical JSON, case ids, and rows that come back as they were written."""

import dataclasses
import json
import math
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_rows import a_row, a_run, blocks

from frugal import records
from frugal.records import RowKey
from frugal.records.columns import Claim, Comparison, Measurement, Run, Sample

# --- canonical JSON and case ids

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_canonical_json_by_hand():
    value = {"b": [1, 1.0, 0.1, 1e-7, True, None, "µ"], "a": {"z": (2, 3), "y": np.float64(0.5)}}
    assert records.canonical_json(value) == '{"a":{"y":0.5,"z":[2,3]},"b":[1,1.0,0.1,1e-07,true,null,"µ"]}'


@settings(deadline=None)
@given(st.dictionaries(st.text(), JSON), st.randoms(use_true_random=False))
def test_canonical_json_and_case_id_do_not_depend_on_the_order_of_keys(axes, random):
    shuffled = dict(random.sample(list(axes.items()), len(axes)))
    assert records.canonical_json(shuffled) == records.canonical_json(axes)
    assert json.loads(records.canonical_json(axes)) == axes
    assert records.case_id("cusnn", "layers", shuffled) == records.case_id("cusnn", "layers", axes)


def test_case_id_is_for_ever():
    # printf '{"axes":{"batch":1,"layer":"conv1"},"experiment":"layers","system":"cusnn"}' | sha256sum | cut -c1-16
    assert records.case_id("cusnn", "layers", {"layer": "conv1", "batch": 1}) == "f3334609c8fca999"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"a": [1, math.nan]}, r"value\.a\[1\] = nan"),
        (math.inf, "value = inf"),
        ({1: 2}, "the key 1"),
        ({"a": {1, 2}}, r"value\.a is a set"),
        (b"x", "is a bytes"),
        (np.int64(3), "is a int64"),
        (datetime(2026, 1, 1), "is a datetime"),
    ],
)
def test_canonical_json_refuses_what_json_lacks(bad, words):
    with pytest.raises(ValueError, match=words):
        records.canonical_json(bad)


# --- round trips

# No slashes: they could make an absolute path by chance, which is refused (tested below).
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\\"), max_size=8)
VALUES = {
    "string": TEXT,
    "bool": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "timestamp[us, tz=UTC]": st.datetimes(timezones=st.just(UTC)),
}


def random_rows(row, table, **fixed):
    names = {f.name for f in dataclasses.fields(row)}
    columns = {
        f.name: (st.none() | VALUES[str(f.type)]) if f.nullable else VALUES[str(f.type)]
        for f in records.SCHEMAS[table]
        if f.name in names and f.name not in fixed
    }
    return st.builds(row, **columns, **{name: st.just(value) for name, value in fixed.items()})


JOBS = random_rows(Run, "runs", run_id="01R", session=3).flatmap(
    lambda run: st.tuples(
        st.just(run),
        st.lists(
            random_rows(Measurement, "measurements", run_id="01R", session=3), max_size=4, unique_by=lambda r: r.key
        ),
        st.lists(st.lists(random_rows(Sample, "samples"), max_size=4), min_size=4, max_size=4),
    )
)


@settings(deadline=None, max_examples=30)
@given(JOBS)
def test_random_jobs_come_back_as_they_were(tmp_path_factory, job):
    run, rows, lists = job
    samples = {row.key: s for row, s in zip(rows, lists, strict=False) if s and row.regime is not None}
    path = tmp_path_factory.mktemp("job") / "session-3.parquet"
    records.write_job(path, run, rows, samples)
    assert records.read_job(path) == (run, rows, samples)
    for table, count in (("runs", 1), ("measurements", len(rows)), ("samples", sum(map(len, samples.values())))):
        found = records.read(path, table)
        assert found.schema.equals(records.SCHEMAS[table])
        assert found.num_rows == count


@settings(deadline=None, max_examples=50)
@given(st.lists(random_rows(Comparison, "comparisons"), max_size=4), st.lists(random_rows(Claim, "claims"), max_size=4))
def test_random_tables_come_back_as_they_were(tmp_path_factory, comparisons, claims):
    folder = tmp_path_factory.mktemp("tables")
    for name, row, rows in (("comparisons", Comparison, comparisons), ("claims", Claim, claims)):
        records.write_table(folder / f"{name}.parquet", records.table_of(name, rows), name)
        assert [row(**found) for found in records.read(folder, name).to_pylist()] == rows


def test_samples_take_the_key_of_their_row(tmp_path):
    first, second = a_row(arm="a"), a_row(arm="b", l2=None)
    samples = {second.key: blocks([1.0, 2.0], [3.0])}
    records.write_job(tmp_path / "j.parquet", a_run(), [first, second], samples)
    found = records.read(tmp_path / "j.parquet", "samples").to_pylist()
    assert [(s["arm"], s["l2"], s["round"], s["value"]) for s in found] == [
        ("b", None, 0, 1.0), ("b", None, 0, 2.0), ("b", None, 1, 3.0),
    ]  # fmt: skip


def test_numpy_scalars_are_numbers(tmp_path):
    row = a_row(value=np.float32(0.5), n=np.int64(8), tf32=np.bool_(True), flop=3)
    records.write_job(tmp_path / "j.parquet", a_run(), [row], {})
    (found,) = records.read(tmp_path / "j.parquet", "measurements").to_pylist()
    assert (found["value"], found["n"], found["tf32"], found["flop"]) == (0.5, 8, True, 3.0)


def test_the_file_is_as_the_method_says(tmp_path):
    records.write_job(tmp_path / "j.parquet", a_run(), [a_row()], {})
    file = pq.ParquetFile(tmp_path / "j.parquet")
    assert file.schema_arrow.metadata[b"schema_version"] == b"1.1.0"
    assert json.loads(file.schema_arrow.metadata[b"frugal.run"])["run_id"] == "01RUN0"
    column = file.metadata.row_group(0).column(0)
    assert (column.compression, column.path_in_schema) == ("ZSTD", "run_id")
    assert {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(column.encodings)


# --- the rest


def test_a_row_key_is_a_plain_tuple():
    assert a_row().key == ("0123456789abcdef", "sparse", "graph", "resident", "time")
    assert {a_row().key: 1}["0123456789abcdef", "sparse", "graph", "resident", "time"] == 1
    assert RowKey._fields == ("case_id", "arm", "regime", "l2", "metric")


def test_importing_records_is_light():
    # The Snakefile's imports must stay quick: neither torch nor pandas may come along.
    heavy = "{'torch', 'pandas', 'numba', 'scipy'}"
    code = f"import sys, frugal.clock, frugal.records; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
