"""Seconds of single operators while a program runs: what a runtime that decides by cost asks."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def timed(run: Callable[[], object], device: torch.device) -> tuple[object, int]:
    """(What `run()` returns, nanoseconds it took): the clock's on a CPU, between two events on a GPU.

    On a GPU it waits for the operator's end; the caller keeps the answer and does not ask again.
    """
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        result = run()
        end.record()
        end.synchronize()
        return result, max(1, int(begin.elapsed_time(end) * 1e6))
    began = time.perf_counter_ns()
    result = run()
    return result, max(1, time.perf_counter_ns() - began)
