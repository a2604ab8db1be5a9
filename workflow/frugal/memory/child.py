"""The child of frugal.memory.fresh: `python -P child.py TASK.json ANSWER.json`.

It is run as a file, because importing it as a module would import torch: what the process holds is the call's affair.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from frugal.errors import out_of_memory
from frugal.processes import die_with_parent


def main(task: str, answer: str) -> None:
    """Read the task, call its function, write how that ended; what escapes from here is the parent's `failed`."""
    given = json.loads(Path(task).read_text(encoding="utf-8"))
    die_with_parent(signal.SIGKILL, given["parent"])
    module, _, name = given["call"].partition(":")
    function = getattr(importlib.import_module(module), name)
    if given["cuda_cap_bytes"] is not None:
        _cap_cuda(given["cuda_cap_bytes"])
    base = _resident("VmRSS")
    outcome = _outcome(function, given["arguments"])
    outcome |= {"rss_bytes": _resident("VmHWM"), "base_rss_bytes": base}
    beside = f"{answer}.tmp"
    Path(beside).write_text(json.dumps(outcome), encoding="utf-8")
    os.replace(beside, answer)


def _outcome(function: Callable[..., object], arguments: dict) -> dict:
    try:
        value = function(**arguments)
        json.dumps(value, allow_nan=False)
    except Exception as error:
        if out_of_memory(error):
            return {"status": "oom", "reason": _first_line(error)}
        traceback.print_exc()
        return {"status": "failed", "reason": f"{type(error).__name__}: {_first_line(error)}".removesuffix(": ")}
    return {"status": "ok", "value": value}


def _cap_cuda(cap_bytes: int) -> None:
    """Let PyTorch's allocator have no more than this; the CUDA context comes on top."""
    import torch

    torch.cuda.set_per_process_memory_fraction(min(1.0, cap_bytes / torch.cuda.get_device_properties(0).total_memory))


def _resident(field: str) -> int | None:
    """VmRSS (now) or VmHWM (the highest so far) of this process in bytes; None where there is no such file."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


if __name__ == "__main__":
    main(*sys.argv[1:])
