"""Runs a kernel's source in Numba's CUDA simulator, from a process that may use Numba's compiler as well.

Numba decides when it is imported whether `numba.cuda` is the compiler or the simulator (`NUMBA_ENABLE_CUDASIM`), so the
simulator lives in a child process of its own. The child is started at the first simulation, serves all that follow,
and ends with its parent.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

from frugal.errors import FrugalError
from kernels.build import ELEMENTS, KernelSource


class SimulationError(FrugalError):
    """A kernel that failed in the simulator, with the traceback of the failing thread, or that did not end."""


def simulate(
    source: KernelSource,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    args: Sequence[Any],
    timeout_s: float = 120,
) -> None:
    """Runs `source` on NumPy arrays, in place: args are 1-D arrays of the parameters' dtypes, and numbers.

    The simulator runs a Python thread a CUDA thread: keep shapes tiny. A barrier that not all threads reach would wait
    for ever; after `timeout_s` the child is ended and SimulationError raised, as for any exception in the kernel.
    """
    import numpy as np

    values = []
    for (name, kind), value in zip(source.parameters, args, strict=True):
        dtype = np.dtype(ELEMENTS[kind.rstrip("*")])
        if not kind.endswith("*"):
            values.append(dtype.type(value))
            continue
        if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != 1:
            raise SimulationError(f"kernel {source.variant}: argument {name} must be a 1-D NumPy array of {dtype}.")
        values.append(value)
    process, connection = _child()
    try:
        connection.send((source, grid, block, values))
        results, failure = connection.recv() if connection.poll(timeout_s) else (None, None)
    except (EOFError, BrokenPipeError):
        _child.cache_clear()
        raise SimulationError(
            f"the simulator's process ended with code {process.wait()} at kernel {source.variant}."
        ) from None
    if failure is not None:
        raise SimulationError(f"kernel {source.variant} failed in the simulator:\n{failure}")
    if results is None:
        _end(process, connection)
        _child.cache_clear()
        raise SimulationError(
            f"kernel {source.variant} did not end within {timeout_s} s in the simulator: a barrier that some threads "
            "do not reach, or too large a case."
        )
    for value, result in zip(values, results, strict=True):
        if isinstance(value, np.ndarray):
            value[:] = result


@functools.cache
def _child() -> tuple[subprocess.Popen, Connection]:
    """The process that simulates, and the pipe to it."""
    ours, theirs = Pipe()
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-m", "kernels.simulator", str(theirs.fileno())],
        env=environment,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    atexit.register(_end, process, ours)
    return process, ours


def _end(process: subprocess.Popen, connection: Connection) -> None:
    connection.close()
    process.kill()
    process.wait()


def _serve(connection: Connection) -> None:
    """In the child: simulates what comes through the pipe until the parent closes it."""
    import numpy as np
    from numba import cuda

    np.seterr(over="ignore")  # unsigned index arithmetic wraps on a GPU without a warning
    while True:
        try:
            source, grid, block, values = connection.recv()
        except EOFError:
            return
        try:
            cuda.jit(source.function())[grid, block, 0, source.dynamic_shared_bytes](*values)
            connection.send((values, None))
        except Exception:  # whatever the kernel did wrong is the parent's to report
            connection.send((None, traceback.format_exc()))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
