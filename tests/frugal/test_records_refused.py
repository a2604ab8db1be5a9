"""What must not be written: NaN, wrong types, paths and names of this machine, rows that do not belong together."""

import dataclasses
import getpass
import math
import socket
from datetime import datetime

import pyarrow as pa
import pytest
from record_rows import a_row, a_run, a_sample

from frugal import records
from frugal.records import RecordError


def refusal(tmp_path, run=None, rows=None, samples=None):
    path = tmp_path / "refused.parquet"
    with pytest.raises(RecordError) as caught:
        records.write_job(path, run or a_run(), [a_row()] if rows is None else rows, samples or {})
    assert list(tmp_path.iterdir()) == []
    return str(caught.value)


def test_all_bad_columns_are_listed_at_once(tmp_path):
    row = a_row(value=math.nan, mean=math.inf, status=None, n=1.5, reason="/usr/lib/x.so is missing", tf32=1)
    run = a_run(wall_s=-math.inf, started_at=datetime(2026, 1, 1))
    text = refusal(tmp_path, run, [row], {row.key: [a_sample(value=math.nan, round="one")]})
    for column in (
        "measurements.value", "measurements.mean", "measurements.status", "measurements.n ", "measurements.reason",
        "measurements.tf32", "runs.wall_s", "runs.started_at", "samples.value", "samples.round",
    ):  # fmt: skip
        assert column in text
    assert "10 bad columns" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("column", "value"),
    [("n", 2**31), ("n", True), ("n", 1.0), ("arm", 3), ("arm", b"x"), ("value", "1"), ("value", True), ("tf32", 0)],
)
def test_wrong_types_are_refused_not_bent(tmp_path, column, value):
    assert f"measurements.{column} must be" in refusal(tmp_path, rows=[a_row(**{column: value})])


@pytest.mark.parametrize(
    "text",
    [
        "/tmp/x", "cannot open /usr/lib/libcuda.so.1: no such file", "path=/data/images", "a:/opt/b", "(/srv/x)",
        "file:/etc/passwd", "file:///home/me/x", r"C:\Users\me", '{"images":"/data"}', "'/scratch'", "/a/b",
    ],
)  # fmt: skip
def test_absolute_paths_are_refused_and_scrubbed(tmp_path, text):
    assert "measurements.reason holds" in refusal(tmp_path, rows=[a_row(reason=text)])
    records.write_job(tmp_path / "ok.parquet", a_run(), [a_row(reason=records.scrub(text))], {})


@pytest.mark.parametrize(
    "text",
    [
        "1/s", "images /s", "12 images/s, and/or more", "logs/cusnn/layers.log", "../x/y", "./x", "https://a.org/b/c",
        "http://a.org:8080/x", "a / b", "2 /= 3", "<path>/x.so", "NVIDIA H200", "v3_ballot@th=4,tw=8", "~/x", "s3://b/k",
    ],
)  # fmt: skip
def test_what_is_no_absolute_path_is_kept(tmp_path, text):
    records.write_job(tmp_path / "ok.parquet", a_run(), [a_row(reason=text)], {})
    assert records.scrub(text) == text


@pytest.fixture
def somebody(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "athena-7.lab.example.org")
    monkeypatch.setattr(getpass, "getuser", lambda: "jmiller")
    monkeypatch.setenv("HOME", "/Users/jmiller")


@pytest.mark.parametrize(
    "text", ["ran on athena-7", "athena-7.lab.example.org:22", "jmiller", "owner: jmiller.", "x/Users/jmiller/y"]
)
def test_host_user_and_home_are_refused_and_scrubbed(tmp_path, somebody, text):
    assert "measurements.reason holds" in refusal(tmp_path, rows=[a_row(reason=text)])
    assert "runs.doctor_json holds" in refusal(tmp_path, run=a_run(doctor_json=records.canonical_json({"x": text})))
    clean = records.scrub(text)
    assert "jmiller" not in clean
    assert "athena" not in clean
    records.write_job(tmp_path / "ok.parquet", a_run(), [a_row(reason=clean)], {})


def test_names_are_whole_words(tmp_path, somebody):
    records.write_job(tmp_path / "ok.parquet", a_run(), [a_row(reason="jmillers athena-70 pallas-athena-7")], {})


@pytest.mark.parametrize("name", ["root", "sparse", "gpu", "localhost", "me"])
def test_names_that_name_nobody_are_words(tmp_path, monkeypatch, name):
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    monkeypatch.setattr(getpass, "getuser", lambda: name)
    records.write_job(tmp_path / "ok.parquet", a_run(), [a_row(reason=f"a {name} of it")], {})


def test_a_user_id_without_a_name_is_no_fault(tmp_path, monkeypatch):
    def unknown():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", unknown)
    records.write_job(tmp_path / "ok.parquet", a_run(), [a_row()], {})


def test_rows_and_samples_must_belong_together(tmp_path):
    row = a_row()
    untimed = a_row(metric="flops", regime=None)
    text = refusal(
        tmp_path,
        rows=[row, a_row(), untimed, a_row(arm="z", run_id="other", session=9)],
        samples={row.key._replace(arm="lost"): [a_sample()], untimed.key: [a_sample()]},
    )
    for words in ("more than one row", "'lost'", "has no regime", "measurements.run_id is not", "measurements.session"):
        assert words in text


def test_a_table_must_have_its_columns(tmp_path):
    table = records.table_of("comparisons", [])
    with pytest.raises(RecordError, match="lacks the columns ratio, margin"):
        records.write_table(tmp_path / "c.parquet", table.drop_columns(["ratio", "margin"]), "comparisons")
    with pytest.raises(RecordError, match="no column speed"):
        records.write_table(tmp_path / "c.parquet", table.append_column("speed", pa.nulls(0)), "comparisons")
    with pytest.raises(RecordError, match="no table 'comparison': use one of runs"):
        records.write_table(tmp_path / "c.parquet", table, "comparison")
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_checked_like_a_job(tmp_path):
    table = pa.Table.from_pylist([dataclasses.asdict(a_run(wall_s=math.nan))], schema=records.SCHEMAS["runs"])
    with pytest.raises(RecordError, match=r"runs\.wall_s is nan"):
        records.write_table(tmp_path / "runs.parquet", table, "runs")
