"""frugal.data.download against a local server that cuts, lies, refuses and dates its files in the future."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import shutil
import socket
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_server import Server

from frugal.data import download
from frugal.data.download import DownloadError, ProgressBoard, fetch, fetch_all
from frugal.data.sources import Source
from frugal.files import DiskFull

BODY = random.Random(1).randbytes(3_000_000)  # several chunks, so that a cut can fall between and inside them
SHA = hashlib.sha256(BODY).hexdigest()
WRONG = bytes(len(BODY))


def source(*urls: str, sha256: str | None = SHA, size: int | None = len(BODY), prefix: str | None = None) -> Source:
    return Source(name="f.bin", urls=urls, sha256=sha256, sha256_prefix=prefix, bytes=size, licence="test", what="test")


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_whole_checked_and_alone_in_its_folder(server: Server, tmp_path: Path) -> None:
    server.add("a", BODY)
    got = fetch(source(server.url("a")), tmp_path / "new" / "f.bin")
    assert (tmp_path / "new" / "f.bin").read_bytes() == BODY
    assert (got.sha256, got.bytes, got.address) == (SHA, len(BODY), server.url("a"))
    assert parts(tmp_path / "new") == ["f.bin"]


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_cut_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path, size: int | None) -> None:
    served = server.add("a", BODY, cut_after=[1_200_000, 700_001])
    fetch(source(server.url("a"), size=size), tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert served.requests[0] is None
    assert len(served.requests) == 3
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in served.requests[1:]]
    assert 0 < starts[0] <= 1_200_000
    assert starts[0] < starts[1] <= starts[0] + 700_001


def test_what_a_killed_job_left_is_continued(server: Server, tmp_path: Path) -> None:
    served = server.add("a", BODY)
    (tmp_path / "f.bin.part").write_bytes(BODY[:1_234_567])
    fetch(source(server.url("a")), tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert served.requests == ["bytes=1234567-"]


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_part_that_was_complete_is_not_downloaded_again(server: Server, tmp_path: Path, size: int | None) -> None:
    served = server.add("a", BODY, before_body=lambda: pytest.fail("the body was sent again"))
    (tmp_path / "f.bin.part").write_bytes(BODY)
    fetch(source(server.url("a"), size=size), tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert len(served.requests) == (0 if size else 1)


@pytest.mark.parametrize("left", [WRONG[:1_000_000], WRONG, WRONG + b"longer"])
@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_damaged_part_is_thrown_away(server: Server, tmp_path: Path, left: bytes, size: int | None) -> None:
    server.add("a", BODY)
    (tmp_path / "f.bin.part").write_bytes(left)
    fetch(source(server.url("a"), size=size), tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_a_server_without_range_starts_again(server: Server, tmp_path: Path) -> None:
    served = server.add("a", BODY, ranges=False, cut_after=[2_000_000])
    fetch(source(server.url("a")), tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert len(served.requests) == 2


def test_a_server_that_never_gets_further_is_left_and_the_next_one_goes_on(server: Server, tmp_path: Path) -> None:
    first = server.add("a", BODY, ranges=False, cut_after=[2_000_000] * 9)
    second = server.add("b", BODY)
    fetch(source(server.url("a"), server.url("b")), tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert len(first.requests) == 2
    assert second.requests[0] is not None


def test_a_cut_without_any_length_is_resumed_when_the_size_is_known(server: Server, tmp_path: Path) -> None:
    server.add("a", BODY, length=False, cut_after=[1_500_000])
    fetch(source(server.url("a")), tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_a_range_answered_wrongly_is_refused(server: Server, tmp_path: Path) -> None:
    server.add("a", BODY, shift=7)
    server.add("b", BODY)
    (tmp_path / "f.bin.part").write_bytes(BODY[:100])
    assert fetch(source(server.url("a"), server.url("b")), tmp_path / "f.bin").address == server.url("b")
    assert (tmp_path / "f.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("body", "faults", "reason"),
    [
        (WRONG, {}, f"sha256 {hashlib.sha256(WRONG).hexdigest()}, expected {SHA}"),
        (BODY[:-1], {}, "it has 2,999,999 bytes there, expected 3,000,000"),
        (BODY + b"x", {"length": False}, "more than the expected 3,000,000 bytes came"),
        (BODY, {"statuses": [404]}, "HTTP 404"),
        (BODY, {"statuses": [500]}, "HTTP 500"),
        (BODY, {"statuses": [416]}, "HTTP 416"),
    ],
    ids=["wrong hash", "too short", "too long", "404", "500", "416 for the whole file"],
)
def test_a_bad_place_is_followed_by_the_next(
    server: Server, tmp_path: Path, body: bytes, faults: dict, reason: str
) -> None:
    server.add("good", BODY)
    server.add("bad", body, **{key: list(v) if isinstance(v, list) else v for key, v in faults.items()})
    got = fetch(source(server.url("bad"), server.url("good")), tmp_path / "f.bin")
    assert got.address == server.url("good")
    assert (tmp_path / "f.bin").read_bytes() == BODY

    server.add("bad", body, **faults)
    (tmp_path / "alone").mkdir()
    with pytest.raises(DownloadError) as told:
        fetch(source(server.url("bad")), tmp_path / "alone" / "f.bin")
    assert f"{server.url('bad')}: {reason}" in str(told.value)
    assert "FRUGAL_MIRROR" in str(told.value)
    assert parts(tmp_path / "alone") == []  # nothing wrong is left behind, not even as a part


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    served = server.add("a", BODY, statuses=[503])
    fetch(source(server.url("a")), tmp_path / "f.bin")
    assert len(served.requests) == 2


def test_a_prefix_is_checked_and_the_full_sum_reported(server: Server, tmp_path: Path) -> None:
    server.add("a", BODY)
    assert fetch(source(server.url("a"), sha256=None, prefix=SHA[:8], size=None), tmp_path / "f.bin").sha256 == SHA
    wrong = "0" * 8 if SHA[:8] != "0" * 8 else "1" * 8
    with pytest.raises(DownloadError, match=f"sha256 {SHA[:8]}, expected {wrong}"):
        fetch(source(server.url("a"), sha256=None, prefix=wrong, size=None), tmp_path / "g.bin")


def test_the_date_is_this_machines_not_the_servers(server: Server, tmp_path: Path) -> None:
    server.add("a", BODY, headers={"Last-Modified": "Fri, 01 Jan 2100 00:00:00 GMT"})
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "f.bin").write_bytes(BODY)
    os.utime(mirror / "f.bin", (4e9, 4e9))
    (tmp_path / "before").touch()
    fetch(source(server.url("a")), tmp_path / "f.bin")
    fetch(source(), tmp_path / "copied.bin", mirror=str(mirror))
    os.utime(tmp_path / "f.bin", (4e9, 4e9))
    fetch(source(server.url("a")), tmp_path / "f.bin")  # kept, and dated again
    (tmp_path / "finished.bin.part").write_bytes(BODY)  # killed between the last byte and the rename, long ago
    os.utime(tmp_path / "finished.bin.part", (1e9, 1e9))
    fetch(source(server.url("a")), tmp_path / "finished.bin")
    (tmp_path / "after").touch()
    for name in ("f.bin", "copied.bin", "finished.bin"):
        dates = [(tmp_path / n).stat().st_mtime_ns for n in ("before", name, "after")]
        assert dates == sorted(dates)


def test_a_mirror_folder_comes_first_also_in_a_sub_folder(server: Server, tmp_path: Path) -> None:
    served = server.add("a", BODY)
    (tmp_path / "mirror" / "cusnn").mkdir(parents=True)
    (tmp_path / "mirror" / "cusnn" / "f.bin").write_bytes(BODY)
    got = fetch(source(server.url("a")), tmp_path / "f.bin", mirror=str(tmp_path / "mirror"))
    assert got.address == str(tmp_path / "mirror" / "cusnn" / "f.bin")
    assert served.requests == []
    assert (tmp_path / "f.bin").read_bytes() == BODY


@pytest.mark.parametrize("body", [WRONG, BODY[:-1], None], ids=["wrong hash", "wrong size", "missing"])
def test_a_bad_mirror_folder_is_followed_by_the_urls(server: Server, tmp_path: Path, body: bytes | None) -> None:
    server.add("a", BODY)
    (tmp_path / "mirror").mkdir()
    if body is not None:
        (tmp_path / "mirror" / "f.bin").write_bytes(body)
    got = fetch(source(server.url("a")), tmp_path / "f.bin", mirror=str(tmp_path / "mirror"))
    assert got.address == server.url("a")


def test_the_mirror_may_be_a_url_and_come_from_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("mirror/f.bin", BODY)
    other = server.add("a", BODY)
    got = fetch(source(server.url("a")), tmp_path / "f.bin", mirror=server.url("mirror/"))
    assert got.address == server.url("mirror/f.bin")
    monkeypatch.setenv("FRUGAL_MIRROR", server.url("mirror"))
    assert fetch(source(server.url("a")), tmp_path / "g.bin").address == server.url("mirror/f.bin")
    assert other.requests == []


def test_no_network_at_all_is_one_sentence_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_names(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    (tmp_path / "f.bin").write_bytes(WRONG)
    with pytest.raises(DownloadError) as told:
        fetch(source("http://nowhere.invalid/f.bin"), tmp_path / "f.bin")
    assert str(told.value) == (
        "f.bin: no place gave it (http://nowhere.invalid/f.bin: no connection); connect this machine, or set `mirror:` "
        "(or FRUGAL_MIRROR) to a folder or URL that holds the file"
    )
    assert (tmp_path / "f.bin").read_bytes() == WRONG
    assert parts(tmp_path) == ["f.bin"]


class FullDisk(io.BufferedRandom):
    """A file on a disk that has room for one more megabyte."""

    def write(self, data: bytes) -> int:
        if self.tell() + len(data) > 1 << 20:
            raise OSError(errno.ENOSPC, "No space left on device", self.name)
        return super().write(data)


@pytest.mark.parametrize("from_mirror", [False, True])
def test_a_full_disk_ends_it_at_once_and_the_next_run_goes_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_mirror: bool
) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "f.bin").write_bytes(BODY)
    mirror = str(tmp_path / "mirror") if from_mirror else None
    server.add("a", BODY)
    second = server.add("b", BODY)

    def full(path: Path, mode: str) -> object:
        return FullDisk(io.FileIO(path, "ab+")) if mode == "ab+" else open(path, mode)

    monkeypatch.setattr(download, "open", full, raising=False)
    wanted = source(server.url("a"), server.url("b"))
    (tmp_path / "out").mkdir()
    with pytest.raises(DiskFull, match=r"no room for f\.bin: 3,000,000 bytes are needed and [\d,]+ bytes are free"):
        fetch(wanted, tmp_path / "out" / "f.bin", mirror=mirror)
    assert parts(tmp_path / "out") == ["f.bin.part"]  # never a truncated file under the final name
    assert second.requests == []
    monkeypatch.undo()
    fetch(wanted, tmp_path / "out" / "f.bin", mirror=mirror)
    assert (tmp_path / "out" / "f.bin").read_bytes() == BODY


def test_too_little_room_is_seen_before_a_byte_is_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("a", BODY)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1000))
    with pytest.raises(DiskFull, match="3,000,000 bytes are needed and 1,000 bytes are free"):
        fetch(source(server.url("a"), size=None), tmp_path / "f.bin")


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="cannot be written there; choose a folder that you may write to"):
        fetch(source("http://127.0.0.1:9/f"), tmp_path / "file" / "below" / "f.bin")


def test_two_fetches_of_one_file_download_it_once(server: Server, tmp_path: Path) -> None:
    second_came = threading.Event()
    served = server.add("a", BODY)

    def hold() -> None:  # the first body waits for a second request, which must never come
        if len(served.requests) > 1:
            second_came.set()
        second_came.wait(0.5)

    served.before_body = hold
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fetch, source(server.url("a")), tmp_path / "f.bin") for _ in range(2)]
        assert {got.result().sha256 for got in both} == {SHA}
    assert served.requests == [None]
    assert parts(tmp_path) == ["f.bin"]
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_a_file_that_is_right_is_kept_and_a_wrong_one_replaced(server: Server, tmp_path: Path) -> None:
    served = server.add("a", BODY)
    (tmp_path / "f.bin").write_bytes(BODY)
    assert fetch(source(server.url("a")), tmp_path / "f.bin").address == str(tmp_path / "f.bin")
    assert served.requests == []
    (tmp_path / "f.bin").write_bytes(WRONG)
    fetch(source(server.url("a")), tmp_path / "f.bin")
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert parts(tmp_path) == ["f.bin"]


def test_a_link_into_a_cache_is_replaced_not_written_through(server: Server, tmp_path: Path) -> None:
    server.add("a", BODY)
    (tmp_path / "cache").write_bytes(WRONG)
    (tmp_path / "f.bin").symlink_to(tmp_path / "cache")
    fetch(source(server.url("a")), tmp_path / "f.bin")
    assert (tmp_path / "cache").read_bytes() == WRONG
    assert not (tmp_path / "f.bin").is_symlink()


def test_several_files_side_by_side_and_one_bad_does_not_stop_the_others(server: Server, tmp_path: Path) -> None:
    meeting = threading.Barrier(3, timeout=20)  # three bodies must be under way at once, or the barrier breaks
    for name in "abc":
        server.add(name, BODY, before_body=meeting.wait)
    wanted = {tmp_path / name: source(server.url(name)) for name in ("a", "b", "c", "missing")}
    with pytest.raises(DownloadError) as told:
        fetch_all(wanted, workers=4)
    assert str(told.value).count("\n") == 0
    assert "HTTP 404" in str(told.value)
    assert parts(tmp_path) == ["a", "b", "c"]
    assert set(fetch_all(dict(list(wanted.items())[:3]))) == {tmp_path / "a", tmp_path / "b", tmp_path / "c"}


def test_progress_lines_come_while_the_download_runs(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LINE_SECONDS", 0.01)
    told, lines = threading.Event(), []
    (tmp_path / "f.bin.part").write_bytes(BODY[:1_000_000])

    def say(line: str) -> None:
        lines.append(line)
        told.set()

    came_in_time = []
    server.add("a", BODY, before_body=lambda: came_in_time.append(told.wait(20)))
    fetch(source(server.url("a")), tmp_path / "f.bin", progress=say)
    assert came_in_time == [True]
    assert lines[0] == "f.bin 1.0 of 3.0 MB (33%), 0.0 MB/s"


def test_the_progress_line_tells_share_and_rate() -> None:
    board = ProgressBoard(interval=2.0)
    assert board.line() is None
    board.update("resumed", 40_000_000, 100_000_000)
    board.update("unknown", 1_000_000, None)
    assert board.line() == "resumed 40.0 of 100.0 MB (40%), 0.0 MB/s · unknown 1.0 MB, 0.0 MB/s"
    board.update("resumed", 50_000_000, 100_000_000)
    board.finish("unknown")
    assert board.line() == "resumed 50.0 of 100.0 MB (50%), 5.0 MB/s"  # 10 MB in the board's 2 s
    assert board.line() == "resumed 50.0 of 100.0 MB (50%), 0.0 MB/s"  # stalled


def test_verify_names_a_damaged_copy(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(BODY)
    assert download.verify(source(), tmp_path / "f.bin") == SHA
    (tmp_path / "f.bin").write_bytes(WRONG)
    with pytest.raises(DownloadError, match=r"the copy of f\.bin is damaged .* delete it and run again"):
        download.verify(source(), tmp_path / "f.bin")
