"""Write beside, flush, rename: a file under its final name is always whole, and dated now."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from frugal.errors import FrugalError


class DiskFull(FrugalError):
    """The file system has no room for a file; the sentence says where, how much is needed and how much is free."""


@contextlib.contextmanager
def publishing(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes ``path`` when the block ends well, and vanishes when it does not.

    An existing file, or a symbolic link into a cache, is replaced and never written through.
    """
    with publishing_path(path) as beside, open(beside, "xb") as file:
        yield file


@contextlib.contextmanager
def publishing_path(path: str | Path) -> Iterator[Path]:
    """Yield the name of a file to write that becomes ``path`` when the block ends well: for libraries that want one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_room(path):
        beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            yield beside
            rename_durably(beside, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                beside.unlink()
            raise


def rename_durably(beside: Path, path: Path) -> None:
    """Flush ``beside`` to the disk, date it now and rename it to ``path``, in one folder.

    The date is this machine's: Snakemake refuses an output that is older than its inputs.
    """
    with open(beside, "rb") as file:
        os.fsync(file.fileno())
    os.utime(beside)
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def disk_room(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn a full disk (ENOSPC, EDQUOT) into DiskFull, with the bytes ``needed`` where they are known."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(path, needed) from problem


def disk_full(path: Path, needed: int | None) -> DiskFull:
    """The sentence for a file that does not fit: folder, bytes needed, bytes free."""
    free = shutil.disk_usage(path.parent).free
    need = f"{needed:,} bytes are needed and " if needed is not None else ""
    return DiskFull(
        f"{path.parent}: no room for {path.name}: {need}{free:,} bytes are free; "
        "make room (or raise the quota) and run the same command again"
    )


def os_sentence(problem: OSError) -> str:
    """What the system refused, where, and what to do about it."""
    where = problem.filename or "a file"
    advice = {
        errno.ENOSPC: "the disk is full: make room and run the same command again, finished work is kept",
        errno.EROFS: "the file system is read-only: run in a folder that you may write to",
        errno.EACCES: "permission denied: run in a folder that you may write to",
    }.get(problem.errno or 0, "")
    return f"{where}: {problem.strerror or problem}" + (f" ({advice})" if advice else "")
