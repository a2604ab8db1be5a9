"""One call in a process of its own: nothing that was allocated, tuned or cached before can be in its way.

The parent sends JSON and gets JSON back through files that only the two of them know; what the child prints goes to the
parent's standard error. `child.py` is the other end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from frugal.clock import Clock, SystemClock
from frugal.errors import FrugalError
from frugal.memory import child
from frugal.processes import python_path
from frugal.records import canonical_json

KILL_AFTER_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """How a call in a fresh process ended.

    `status` is `ok`, `oom`, `timeout` or `failed`; `reason` says why it is not ok, in a line. `value` is what the
    function returned. `rss_bytes` is the process's highest resident memory, `base_rss_bytes` that before the call.
    """

    status: str
    reason: str | None = None
    value: object = None
    rss_bytes: int | None = None
    base_rss_bytes: int | None = None

    def expect_ok(self, call: str) -> Outcome:
        """Itself; FrugalError with the reason where the call did not end well."""
        if self.status != "ok":
            raise FrugalError(f"{call} in a process of its own: {self.status}: {self.reason}")
        return self


def in_fresh_process(
    call: str,
    arguments: Mapping[str, object],
    *,
    cuda_cap_bytes: int | None = None,
    timeout_s: float = 600.0,
    look: Callable[[int], None] | None = None,
    look_s: float = 0.02,
    clock: Clock | None = None,
) -> Outcome:
    """Call the function `call` (`package.module:function`) with JSON-able keyword arguments in a new Python process.

    What it returns must be JSON-able too. `cuda_cap_bytes` limits PyTorch's CUDA allocator in that process
    (`torch.cuda.set_per_process_memory_fraction`). `look(pid)` is called every `look_s` while it runs. Running out of
    memory, by an exception or by the kernel's killer, is status `oom`; a process that takes longer than `timeout_s` is
    ended (SIGTERM, then SIGKILL), status `timeout`. It dies with its parent.
    ValueError for arguments that JSON lacks.
    """
    clock = clock or SystemClock()
    with tempfile.TemporaryDirectory(prefix="frugal-") as folder:
        task, answer = Path(folder, "task.json"), Path(folder, "answer.json")
        given = {"call": call, "arguments": dict(arguments), "cuda_cap_bytes": cuda_cap_bytes, "parent": os.getpid()}
        task.write_text(canonical_json(given), encoding="utf-8")
        command = [sys.executable, "-P", str(child.__file__), str(task), str(answer)]
        environment = {**os.environ, "PYTHONPATH": python_path(filter(None, sys.path))}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, env=environment)
        try:
            late = _wait(process, clock, timeout_s, look, look_s)
        finally:
            _end(process)
        if late:
            return Outcome("timeout", f"took longer than {timeout_s:g} s")
        if answer.exists():
            return Outcome(**json.loads(answer.read_text(encoding="utf-8")))
    code = process.returncode
    if code == -Signals.SIGKILL:
        return Outcome("oom", "killed by SIGKILL, as the kernel does when memory runs out")
    return Outcome("failed", f"died of {Signals(-code).name}" if code < 0 else f"ended with exit status {code}")


def _wait(
    process: subprocess.Popen, clock: Clock, timeout_s: float, look: Callable[[int], None] | None, look_s: float
) -> bool:
    """Wait for the end; True when the time was up first."""
    deadline = clock.ns() + int(timeout_s * 1e9)
    while process.poll() is None:
        if clock.ns() > deadline:
            return True
        if look is not None:
            look(process.pid)
        clock.sleep(look_s)
    return False


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
