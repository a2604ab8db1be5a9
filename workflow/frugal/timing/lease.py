"""One timing session on a GPU at a time: a file lock by the GPU's uuid, held as long as the process times."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frugal.energy import gauge_of


@contextmanager
def lease(uuid: str | None, say: Callable[[str], None], folder: Path | None = None) -> Iterator[None]:
    """Wait for the GPU with this uuid (None: a CPU, which the workflow's resources keep to one job).

    The lock is `frugal-gpu-<uuid>.lock` in `folder`, else in the user's cache folder; the kernel releases it when the
    process ends, however it ends.
    """
    if uuid is None:
        yield
        return
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"frugal-gpu-{uuid}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another session is timing on this GPU: waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def neighbours(uuid: str | None, nvml: Any | None = None) -> int | None:
    """How many other processes compute on the GPU with this uuid (as torch gives it); None where nobody can tell.

    This process has a context there (frugal.timing.CudaDevice makes one). `nvml` is for tests.
    """
    gauge = gauge_of(uuid, nvml)
    return None if gauge is None else gauge.neighbours()
