"""What a process of ours asks of the system for itself: to die with its parent, to stay on some CPUs, few threads."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Sequence

from frugal.errors import FrugalError
from frugal.files import os_sentence

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
PR_SET_PDEATHSIG = 1


def die_with_parent(number: int = signal.SIGTERM, parent: int | None = None) -> None:
    """Ask the kernel for a signal when the parent dies, so that no ghost measures beside the next run (Linux).

    `parent`: its process number, where it is known; a parent that has died before this call ends the process now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        raise SystemExit(1)


def bind(affinity: Sequence[int] | None) -> None:
    """Bind this thread, and all that it starts from now on, to these CPUs; None: leave it where the system puts it.

    Threads that are there already stay where they are: call it before torch is imported. FrugalError where the machine
    has no such CPU.
    """
    if affinity is None:
        return
    named = ", ".join(map(str, affinity))
    try:
        os.sched_setaffinity(0, affinity)
    except (AttributeError, OSError) as error:
        raise FrugalError(f"timing.affinity = [{named}]: this machine refuses ({error}): use null") from error
    # Linux binds to those that are there, if one is, and says nothing of the others.
    if absent := sorted(set(affinity) - os.sched_getaffinity(0)):
        raise FrugalError(
            f"timing.affinity = [{named}]: CPU {', '.join(map(str, absent))} is not there for this process: "
            "name others, or use null"
        )


def python_path(folders: Iterable[str]) -> str:
    """PYTHONPATH with these folders first, none of them twice."""
    return os.pathsep.join(dict.fromkeys([*folders, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))


def sentence_of(problem: Exception) -> str:
    """The one sentence in which a job ends."""
    if isinstance(problem, FrugalError):
        return str(problem)
    if isinstance(problem, OSError):
        return os_sentence(problem)
    return f"{type(problem).__name__}: {problem} (this is a fault of frugal, not of your input)"
