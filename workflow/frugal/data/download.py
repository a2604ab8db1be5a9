"""Fetch files: resumed, checked, then published under their names.

A download goes into ``<name>.part`` beside its destination. What a broken connection or a killed job leaves there is
continued by the next attempt (HTTP Range), from whichever place answers next. Size and SHA-256 are checked on the bytes
that lie on the disk; only then is the file renamed, dated now (never the server's Last-Modified). A place that fails
(no connection, HTTP error, wrong size, wrong sum) is followed by the next one; a full disk ends the download at once,
because no other place would help. Two fetches of one file wait for each other through a lock on the ``.part``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from frugal.data.sources import Place, Source, places, why
from frugal.errors import FrugalError
from frugal.files import disk_full, disk_room, rename_durably

CHUNK = 1 << 16  # bytes; what a broken connection loses at most, since requests drops the chunk that it breaks off in
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
LINE_SECONDS = 2.0  # between two progress lines

Say = Callable[[str], None]


class DownloadError(FrugalError):
    """No place gave the file; the sentence lists each with its reason."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What came, and from where (``address``: a path or URL; the destination where the file was there already)."""

    name: str
    address: str
    bytes: int
    sha256: str


class _Refused(Exception):
    """A place did not give the file; the next one is tried."""


def fetch(source: Source, dest: Path, mirror: str | None = None, progress: Say | None = None) -> Fetched:
    """Bring ``source`` to ``dest`` and return its size and full SHA-256.

    A ``dest`` that is right already is kept. ``mirror`` (folder or URL; default: FRUGAL_MIRROR) is asked first.
    ``progress`` receives a line every two seconds. Raises DownloadError when no place gives the right file and
    DiskFull when there is no room; ``dest`` is then as it was.
    """
    with _lines(progress) as board:
        return _fetch(source, dest, mirror, board)


def fetch_all(
    wanted: Mapping[Path, Source], mirror: str | None = None, progress: Say | None = None, workers: int = 4
) -> dict[Path, Fetched]:
    """Fetch several files, ``workers`` at a time, with one progress line for all of them.

    One that fails does not stop the others; after the last, DownloadError names all that failed.
    """
    done: dict[Path, Fetched] = {}
    failed: list[str] = []
    with _lines(progress) as board, ThreadPoolExecutor(workers) as pool:
        running = {dest: pool.submit(_fetch, source, dest, mirror, board) for dest, source in wanted.items()}
        for dest, download in running.items():
            try:
                done[dest] = download.result()
            except FrugalError as problem:
                failed.append(str(problem))
    if failed:
        raise DownloadError("\n".join(failed))
    return done


def verify(source: Source, path: Path) -> str:
    """Return the file's full SHA-256; raises DownloadError when size or sum differ from the source's."""
    refusal, digest = _check(source, path)
    if refusal:
        raise DownloadError(f"{path}: the copy of {source.name} is damaged ({refusal}): delete it and run again")
    return digest


class ProgressBoard:
    """Bytes of all running downloads, as one line: name, share, rate. Threads add to it; a ticker reads it.

    The rate is bytes since the last line over the ticker's interval, so that a stalled download shows 0.0 MB/s.
    """

    def __init__(self, interval: float = LINE_SECONDS) -> None:
        self._interval = interval
        self._lock = threading.Lock()
        self._running: dict[str, list[int | None]] = {}  # name -> [bytes, bytes at the last line, total or None]

    def update(self, name: str, have: int, total: int | None) -> None:
        """Note that ``have`` of ``total`` bytes of ``name`` are on the disk."""
        with self._lock:
            self._running.setdefault(name, [have, have, total])[0::2] = [have, total]

    def finish(self, name: str) -> None:
        """Take ``name`` off the line."""
        with self._lock:
            self._running.pop(name, None)

    def line(self) -> str | None:
        """The line for now, or None when nothing runs; starts the next interval."""
        with self._lock:
            parts = []
            for name, state in self._running.items():
                have, before, total = state
                of = f" of {total / 1e6:.1f} MB ({have / total:.0%})" if total else " MB"
                parts.append(f"{name} {have / 1e6:.1f}{of}, {max(have - before, 0) / self._interval / 1e6:.1f} MB/s")
                state[1] = have
        return " · ".join(parts) or None


@contextlib.contextmanager
def _lines(say: Say | None) -> Iterator[ProgressBoard]:
    """A board whose line is given to ``say`` every LINE_SECONDS while the block runs."""
    board, stop = ProgressBoard(), threading.Event()

    def tick() -> None:
        while not stop.wait(LINE_SECONDS):
            if (line := board.line()) is not None:
                say(line)

    ticker = threading.Thread(target=tick, daemon=True)
    if say is not None:
        ticker.start()
    try:
        yield board
    finally:
        stop.set()
        if say is not None:
            ticker.join()


def _fetch(source: Source, dest: Path, mirror: str | None, board: ProgressBoard) -> Fetched:
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with disk_room(dest, source.bytes), _locked(dest.with_name(dest.name + ".part")) as part:
            return _right_already(source, dest, Path(part.name)) or _from_places(source, dest, mirror, part, board)
    except OSError as problem:
        raise DownloadError(
            f"{problem.filename or dest}: {problem.strerror or problem}: {source.name} cannot be written there; "
            "choose a folder that you may write to"
        ) from problem
    finally:
        board.finish(source.name)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """Open ``part`` for appending, alone: a second fetch of the same file waits here until the first is done.

    The first renames its file away (or leaves it, cut), so the lock may have been won on a file that is no longer
    ``part``: then the name is opened again.
    """
    while True:
        with open(part, "ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
                    yield file
                    return


def _right_already(source: Source, dest: Path, part: Path) -> Fetched | None:
    if not dest.is_file():
        return None
    refusal, digest = _check(source, dest)
    if refusal:
        return None
    part.unlink()
    os.utime(dest, follow_symlinks=False)  # a link into a cache is dated, not the entry that others share
    return Fetched(name=source.name, address=str(dest), bytes=dest.stat().st_size, sha256=digest)


def _from_places(source: Source, dest: Path, mirror: str | None, part: BinaryIO, board: ProgressBoard) -> Fetched:
    """Try every place in turn; the first whose bytes are right is published."""
    reasons = []
    for place in places(source, mirror):
        try:
            digest = _take(source, place, part, board)
        except _Refused as refusal:
            reasons.append(f"{place.address}: {refusal}")
            continue
        size = _size(part)
        rename_durably(Path(part.name), dest)
        return Fetched(name=source.name, address=place.address, bytes=size, sha256=digest)
    if _size(part) == 0:
        os.unlink(part.name)
    tried = "; ".join(reasons) or "it has no URL and no mirror is set"
    raise DownloadError(
        f"{source.name}: no place gave it ({tried}); connect this machine, or set `mirror:` (or FRUGAL_MIRROR) "
        "to a folder or URL that holds the file"
    )


def _take(source: Source, place: Place, part: BinaryIO, board: ProgressBoard) -> str:
    """Complete ``part`` from one place and return its SHA-256; raises _Refused, with nothing wrong left in ``part``."""
    resumed = _size(part) > 0
    if place.where == "mirror_folder":
        _copy(source, Path(place.address), part, board)
        resumed = False
    else:
        _stream(source, place.address, part, board)
    refusal, digest = _check(source, Path(part.name))
    if refusal is None:
        return digest
    part.truncate(0)
    if not resumed:
        raise _Refused(refusal)
    # The fault may lie in what an earlier attempt had left: once more, from the first byte.
    return _take(source, place, part, board)


def _copy(source: Source, path: Path, part: BinaryIO, board: ProgressBoard) -> None:
    """Copy the mirror's file over whatever ``part`` holds."""
    try:
        origin = open(path, "rb")  # noqa: SIM115 (its errors mean "next place", those of the copy do not)
    except OSError as problem:
        raise _Refused(f"{problem.strerror}".lower()) from None
    with origin:
        total = os.fstat(origin.fileno()).st_size
        _refuse_size(source, total)
        part.truncate(0)
        _refuse_full_disk(part, total)
        while chunk := origin.read(CHUNK):
            part.write(chunk)
            board.update(source.name, part.tell(), total)
        part.flush()


def _stream(source: Source, url: str, part: BinaryIO, board: ProgressBoard) -> None:
    """Download the rest of ``part``; go on after a break for as long as every attempt gets further than the last."""
    with _session() as session:
        while True:
            reached = _size(part)
            if reached == source.bytes:
                return
            try:
                if _request(session, source, url, part, board):
                    return
                broke = "the connection broke off"
            except requests.RequestException as problem:
                broke = why(problem)
            part.flush()
            if _size(part) <= reached:
                raise _Refused(broke)


def _request(session: requests.Session, source: Source, url: str, part: BinaryIO, board: ProgressBoard) -> bool:
    """One GET from the end of ``part`` on; whether the file is complete, as far as the server tells."""
    have = _size(part)
    # identity: a Range counts the bytes that are sent, so they must be the file's own
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with session.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as answer:
        start, total = _extent(answer, have)
        if answer.status_code == 416 and have:  # nothing follows: the part is whole, or it is not this file's
            if have != total:
                part.truncate(0)
                return _request(session, source, url, part, board)
            return True
        if answer.status_code not in (200, 206):
            raise _Refused(f"HTTP {answer.status_code}")
        if total is not None:
            _refuse_size(source, total)
        part.truncate(start)  # to 0 where the server does not know Range and sends the whole file again
        if total is not None:
            _refuse_full_disk(part, total - start)
        _append(answer, source, part, total, board)
        whole = total or source.bytes
        return whole is None or _size(part) == whole


def _append(answer: requests.Response, source: Source, part: BinaryIO, total: int | None, board: ProgressBoard) -> None:
    """Write the answer's body behind ``part``, and no more than the file can have."""
    have, most = _size(part), source.bytes or total
    board.update(source.name, have, most)
    for chunk in answer.iter_content(CHUNK):
        have += len(chunk)
        if most is not None and have > most:
            part.truncate(0)
            raise _Refused(f"more than the expected {most:,} bytes came")
        part.write(chunk)
        part.flush()
        board.update(source.name, have, most)


def _extent(answer: requests.Response, have: int) -> tuple[int, int | None]:
    """The first byte that an answer brings, and the whole file's size where the server tells it."""
    if answer.status_code in (206, 416):
        span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        if answer.status_code == 206 and first != str(have):
            raise _Refused("the server answers another range than it was asked for")
        return have, int(total) if total.isdigit() else None
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _session() -> requests.Session:
    """Two more tries for an answer that says "busy"; an unreachable host is not asked again (offline must be quick)."""
    retry = Retry(
        total=2, connect=0, read=0, status=2, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504),
        raise_on_status=False, respect_retry_after_header=False,
    )  # fmt: skip
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    return session


def _check(source: Source, path: Path) -> tuple[str | None, str]:
    """What is wrong with the bytes on the disk (None: nothing), and their SHA-256."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if source.bytes is not None and size != source.bytes:
        return f"{size:,} bytes, expected {source.bytes:,}", digest
    if not digest.startswith(source.expected):
        return f"sha256 {digest[: len(source.expected)]}, expected {source.expected}", digest
    return None, digest


def _refuse_size(source: Source, total: int) -> None:
    if source.bytes is not None and total != source.bytes:
        raise _Refused(f"it has {total:,} bytes there, expected {source.bytes:,}")


def _refuse_full_disk(part: BinaryIO, missing: int) -> None:
    path = Path(part.name)
    if shutil.disk_usage(path.parent).free < missing:
        raise disk_full(path, missing)


def _size(part: BinaryIO) -> int:
    return os.fstat(part.fileno()).st_size
