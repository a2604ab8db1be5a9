"""Joining job files: nothing is lost, doubled or mixed up, and what is left out is listed."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_rows import a_row, a_run, blocks

from frugal import records
from frugal.aggregate import aggregate
from frugal.records import RecordError

EARLY, LATE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
TABLES = ("runs", "measurements", "samples")


def write(folder, name, values=(1e-4, 2e-4), arms=("sparse", "cudnn"), source_hash="new", **given):
    """A job file with one row and len(values) samples an arm; the samples' values tell the files apart."""
    run = a_run(**{"run_id": f"01{name.upper()}", **given})
    rows = [a_row(run_id=run.run_id, session=run.session, arm=arm, source_hash=source_hash) for arm in arms]
    path = folder / f"{name}.parquet"
    records.write_job(path, run, rows, {row.key: blocks(values) for row in rows})
    return path


def tables(folder):
    return {name: records.read(folder, name).to_pylist() for name in TABLES}


def test_all_rows_of_all_sessions_are_there(tmp_path):
    paths = [write(tmp_path / "raw", f"s{k}", values=[k + 1.0, k + 2.0], session=k) for k in range(3)]
    report = aggregate(paths, tmp_path / "out")
    assert (report.rows, report.stale, report.duplicates) == (6, [], [])
    assert report.summary == "6 rows kept, 0 stale and 0 replaced by newer ones"
    found = tables(tmp_path / "out")
    assert [run["session"] for run in found["runs"]] == [0, 1, 2]
    assert sorted((row["session"], row["arm"]) for row in found["measurements"]) == [
        (k, arm) for k in range(3) for arm in ("cudnn", "sparse")
    ]
    # each sample stands under the run, session and arm that it was filed under
    assert sorted((s["session"], s["run_id"], s["arm"], s["value"]) for s in found["samples"]) == [
        (k, f"01S{k}", arm, k + value) for k in range(3) for arm in ("cudnn", "sparse") for value in (1.0, 2.0)
    ]


@settings(deadline=None, max_examples=6)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_files_does_not_matter(tmp_path_factory, rng: random.Random):
    folder = tmp_path_factory.mktemp("order")
    paths = [
        write(folder / "raw", "a", finished_at=EARLY),
        write(folder / "raw", "b", finished_at=LATE),
        write(folder / "raw", "c", finished_at=LATE),  # as late as b: the later ULID wins
        write(folder / "raw", "d", session=1),
    ]
    aggregate(paths, folder / "straight")
    shuffled = rng.sample(paths, len(paths))
    report = aggregate([*shuffled, shuffled[0]], folder / "shuffled")  # a file named twice counts once
    for name in TABLES:
        assert (folder / "shuffled" / f"{name}.parquet").read_bytes() == (
            folder / "straight" / f"{name}.parquet"
        ).read_bytes()
    assert {run["run_id"] for run in tables(folder / "shuffled")["runs"]} == {"01C", "01D"}
    assert len(report.duplicates) == 4


def test_of_two_equal_rows_the_newer_one_stays_with_its_samples(tmp_path):
    old = write(tmp_path / "raw", "z_old", values=[1.0], finished_at=EARLY)
    new = write(tmp_path / "raw", "a_new", values=[2.0], arms=("sparse",), finished_at=LATE)
    report = aggregate([old, new], tmp_path / "out")
    found = tables(tmp_path / "out")
    assert sorted((s["run_id"], s["arm"], s["value"]) for s in found["samples"]) == [
        ("01A_NEW", "sparse", 2.0),
        ("01Z_OLD", "cudnn", 1.0),  # measured in the old job only
    ]
    assert {(row["run_id"], row["arm"]) for row in found["measurements"]} == {
        ("01A_NEW", "sparse"),
        ("01Z_OLD", "cudnn"),
    }
    assert [(d.path, d.session, d.key) for d in report.duplicates] == [(str(old), 0, a_row().key)]
    assert (report.rows, report.stale) == (2, [])


@pytest.mark.parametrize(
    "other", [{"device_key": "cpu-some-2c"}, {"session": 1}, {"device_key": "cpu-some-2c", "preset": "smoke"}]
)
def test_another_device_or_session_is_no_duplicate(tmp_path, other):
    paths = [write(tmp_path / "raw", "a"), write(tmp_path / "raw", "b", **other)]
    assert aggregate(paths, tmp_path / "out").rows == 4


def test_stale_rows_are_dropped_and_listed(tmp_path):
    old = write(tmp_path / "raw", "old", source_hash="before", session=0)
    new = write(tmp_path / "raw", "new", values=[3.0], source_hash="after", session=1)
    report = aggregate([old, new], tmp_path / "out", keep_hashes={"after"})
    found = tables(tmp_path / "out")
    assert report.rows == 2
    assert {(d.path, d.key.arm) for d in report.stale} == {(str(old), "sparse"), (str(old), "cudnn")}
    assert report.summary == "2 rows kept, 2 stale and 0 replaced by newer ones"
    assert [run["run_id"] for run in found["runs"]] == ["01NEW"]  # a session without a row left goes too
    assert {s["value"] for s in found["samples"]} == {3.0}


def test_a_stale_row_replaces_nothing(tmp_path):
    good = write(tmp_path / "raw", "good", source_hash="now", finished_at=EARLY)
    bad = write(tmp_path / "raw", "bad", source_hash="before", finished_at=LATE)
    report = aggregate([good, bad], tmp_path / "out", keep_hashes={"now"})
    assert {row["run_id"] for row in tables(tmp_path / "out")["measurements"]} == {"01GOOD"}
    assert (len(report.stale), report.duplicates) == (2, [])


def test_the_newest_job_of_an_arm_says_which_sources_are_todays(tmp_path):
    raw = tmp_path / "raw"
    kept = [
        write(raw, "new0", source_hash="after", session=0, finished_at=EARLY, arms=("sparse",)),
        write(raw, "new1", source_hash="after", session=1, finished_at=LATE, arms=("sparse",)),
        write(raw, "other", source_hash="library", session=0, finished_at=EARLY, arms=("cudnn",)),
        # another machine has not measured the new sources yet
        write(raw, "there", source_hash="before", session=0, finished_at=EARLY, device_key="cpu-some-2c"),
    ]
    old = write(raw, "old", source_hash="before", session=2, finished_at=EARLY, arms=("sparse",))
    report = aggregate([*kept, old], tmp_path / "out")
    assert report.rows == 5
    assert [(d.path, d.key.arm) for d in report.stale] == [(str(old), "sparse")]
    assert {row["run_id"] for row in tables(tmp_path / "out")["measurements"]} == {
        "01NEW0", "01NEW1", "01OTHER", "01THERE",
    }  # fmt: skip


def test_what_is_left_out_is_listed_by_file(tmp_path):
    old = write(tmp_path / "raw", "old", source_hash="before", session=1, finished_at=EARLY)
    twice = write(tmp_path / "raw", "twice", session=0, finished_at=EARLY, arms=("sparse",))
    new = write(tmp_path / "raw", "new", session=0, finished_at=LATE)
    assert aggregate([old, twice, new], tmp_path / "out").details == [
        f"{old}: 2 rows left out: its sources have changed since it was measured",
        f"{twice}: 1 rows left out: a newer job measured it again",
    ]


def test_all_stale_leaves_empty_tables(tmp_path):
    aggregate([write(tmp_path / "raw", "a")], tmp_path / "out", keep_hashes=set())
    assert tables(tmp_path / "out") == {name: [] for name in TABLES}


def test_presets_of_one_case_do_not_mix(tmp_path):
    paths = [write(tmp_path / "raw", "a"), write(tmp_path / "raw", "b", preset="smoke", session=1)]
    with pytest.raises(RecordError, match=r"a\.parquet \(preset headline\) and .*b\.parquet \(preset smoke\)"):
        aggregate(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_to_aggregate_and_damaged_files(tmp_path):
    with pytest.raises(RecordError, match="nothing to aggregate"):
        aggregate([], tmp_path / "out")
    good, cut = write(tmp_path / "raw", "a"), write(tmp_path / "raw", "b", session=1)
    cut.write_bytes(cut.read_bytes()[:-50])
    with pytest.raises(RecordError, match=r"b\.parquet is damaged"):
        aggregate([good, cut], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_aggregating_again_replaces_the_tables(tmp_path):
    paths = [write(tmp_path / "raw", f"s{k}", session=k) for k in range(2)]
    aggregate(paths, tmp_path / "out")
    aggregate(paths[:1], tmp_path / "out")
    assert [run["session"] for run in tables(tmp_path / "out")["runs"]] == [0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{name}.parquet" for name in sorted(TABLES)]
