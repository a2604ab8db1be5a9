"""What every Snakemake job does around its one library call: log, threads, errors, and dying with its parent.

Used by workflow/scripts only; the library below never imports snakemake. A script reads

    from frugal.script import job

    with job(snakemake) as say:
        from frugal.data import download      # heavy imports inside: the threads are set by now
        download.fetch(...)
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from frugal.errors import FrugalError
from frugal.processes import THREAD_VARIABLES, die_with_parent, python_path, sentence_of

FAILED = "error: "  # the first word of a failed job's last log line; `failures` looks for it
BUSY = 0.5  # load for each core
CAMPAIGN = "FRUGAL_CAMPAIGN_ID"


@contextlib.contextmanager
def job(snakemake: Any) -> Iterator[Callable[[str], None]]:
    """Run one job: output goes to its log file, progress also to the terminal, a FrugalError ends in one sentence.

    Yields ``say(line)``, which writes a line of progress to the log and to the terminal.
    """
    die_with_parent()
    for name in THREAD_VARIABLES:
        os.environ[name] = str(snakemake.threads)
    if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
        # OpenMP threads that spin while they wait make each other 10 to 100 times slower on a contested core.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with (
        os.fdopen(os.dup(2), "w", buffering=1) as terminal,
        open(snakemake.log[0], "w", buffering=1) as log,
        _redirected(log),
    ):

        def say(line: str) -> None:
            print(line, flush=True)
            print(f"{snakemake.rule}: {line}", file=terminal, flush=True)

        try:
            yield say
        except Exception as problem:
            if not isinstance(problem, FrugalError | OSError):
                traceback.print_exc()
            print(FAILED + sentence_of(problem), flush=True)
            raise SystemExit(1) from None


def hand_down(library: Sequence[str], campaign_id: str) -> None:
    """Let the jobs of this call find the library and know to which call they belong (their environment is this one's).

    A job on another node parses the workflow again there, which does the same for it.
    """
    os.environ["PYTHONPATH"] = python_path(library)
    os.environ.setdefault(CAMPAIGN, campaign_id)


def campaign_id() -> str | None:
    """The call of the workflow that this job belongs to; None outside of one."""
    return os.environ.get(CAMPAIGN)


def failures(folder: Path, since: float) -> list[tuple[Path, str]]:
    """The logs below ``folder`` written after ``since`` (epoch seconds) that end in a failure, oldest first."""
    found = []
    for log in folder.rglob("*.log"):
        if log.stat().st_mtime < since:
            continue
        lines = log.read_text(errors="replace").rstrip().rsplit(f"\n{FAILED}", 1)
        if lines[-1].startswith(FAILED) or len(lines) == 2:
            found.append((log.stat().st_mtime, log, lines[-1].removeprefix(FAILED).splitlines()[0]))
    return [(log, cause) for _, log, cause in sorted(found)]


@contextlib.contextmanager
def _redirected(log: TextIO) -> Iterator[None]:
    """Send file descriptors 1 and 2 to the log, so that libraries and child processes write there too."""
    saved = os.dup(1), os.dup(2)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)
