"""Cases whose arms go wrong in every way, for sessions in real child processes: y = 2 x of 100 numbers.

Each case is called by the fault of its arm `bad`, and has an arm `good` beside it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

import torch

from frugal.timing import Arm, Case, Prepared, Reference

N = 100
KEPT = []  # outlives every case


def cases(machine, record, say, *, faults, folder):
    """What a Job names. `folder` is where arms leave word."""
    say(f"{len(faults)} cases on {record['device_kind']}, bound to {sorted(os.sched_getaffinity(0))}")
    if "a bug" in faults:
        raise KeyError("odd")
    for fault in faults:
        yield case(fault), [arm("bad", "ours", FAULTS.get(fault, right), machine, folder), arm("good", "baseline")]


def case(fault):
    def inputs(seed, phase):
        return {"x": torch.randn(N, generator=torch.Generator().manual_seed(seed))}

    def reference(given):
        if fault == "wrong reference":
            os._exit(3)
        y = 2 * given["x"].double()
        return Reference(y, y.abs(), 1)

    return Case("cusnn", "layers", {"fault": fault}, inputs, reference, "net", fault, {"n": 1})


def right(x, y, machine=None, folder=None):
    torch.mul(x, 2, out=y)


def arm(name, role, compute=right, machine=None, folder="."):
    def prepare(inputs):
        y = torch.empty(N)

        def run():
            compute(inputs["x"], y, machine, Path(folder))
            return y

        return Prepared(run=run, outputs=(y,))

    return Arm(name=name, role=role, prepare=prepare, source_hash="abc", regimes=("wall",))


def hang(x, y, machine, folder):
    """As a loop in C does: no signal is looked at."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    (folder / "hanging").touch()
    threading.Event().wait()


def crash(x, y, machine, folder):
    ctypes.string_at(0)


def leave(x, y, machine, folder):
    print("the library gives up", flush=True)
    os._exit(3)


def leave_python(x, y, machine, folder):
    sys.exit("this arm ends the interpreter")


def killed_for_memory(x, y, machine, folder):
    """What the kernel's out-of-memory killer does, and what it counts."""
    (folder / "proc/vmstat").write_text("oom_kill 8\n")
    os.kill(os.getpid(), signal.SIGKILL)


def lose_device(x, y, machine, folder):
    def dead():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    machine.synchronize = dead
    dead()


def too_much(x, y, machine, folder):
    torch.empty(1 << 60, dtype=torch.uint8)


def leak(x, y, machine, folder):
    right(x, y)
    KEPT.append(torch.ones(24 << 20, dtype=torch.uint8))


def unwritten(x, y, machine, folder):
    torch.mul(x[1:], 2, out=y[1:])


def change_inputs(x, y, machine, folder):
    right(x, y)
    x.add_(1)


def hold(x, y, machine, folder):
    """Right, but while the file `hold` is there it waits for ever as soon as one case of the session is finished."""
    right(x, y)
    journal = folder / "session-0.parquet.partial"
    if (folder / "hold").exists() and '"rows"' in journal.read_text():
        (folder / "held").write_text(str(os.getpid()))
        threading.Event().wait()


FAULTS = {
    "hangs": hang,
    "crashes": crash,
    "leaves": leave,
    "leaves Python": leave_python,
    "is killed for memory": killed_for_memory,
    "loses the device": lose_device,
    "asks for too much": too_much,
    "leaks": leak,
    "leaves one unwritten": unwritten,
    "changes its inputs": change_inputs,
    "holds 1": hold,
    "holds 2": hold,
    "holds 3": hold,
}
