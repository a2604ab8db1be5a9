"""Peaks of memory, each metric in the way that docs/methodology.md says. All sizes in bytes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from frugal.errors import FrugalError
from frugal.memory.fresh import in_fresh_process
from frugal.memory.live import LiveBytes
from frugal.provenance.gpu import ask

POLL_S = 0.02


@dataclass(frozen=True)
class Peak:
    """A row's metric and value, and what was there before (`base_bytes`, a column of its own); None: not known."""

    metric: str
    bytes: int
    base_bytes: int | None = None


def peak_live(run: Callable[[], object], base: object = (), granularity: int = 1) -> Peak:
    """The most bytes of tensors that live at once during `run()`, beside those of `base` (see LiveBytes).

    Deterministic, and the same on every device. What `run` makes and returns counts; buffers that it only writes belong
    in `base`.
    """
    live = LiveBytes(granularity)
    live.track(base)
    base_bytes = live.base
    with live:
        run()
    return Peak("peak_live", live.peak, base_bytes)


def peak_cuda(run: Callable[[], object], device: int | None = None, cuda: Any = torch.cuda) -> tuple[Peak, Peak]:
    """What PyTorch's CUDA allocator handed out at most, and what it held at most, during the second `run()`.

    The first call warms up: it makes what is made once (workspaces, tuned algorithms). Both peaks are absolute, and
    `base_bytes` is what was allocated or held before the second call. Tests give a `cuda` of their own.
    """
    run()
    cuda.synchronize(device)
    gc.collect()
    cuda.empty_cache()
    cuda.reset_peak_memory_stats(device)
    allocated, reserved = cuda.memory_allocated(device), cuda.memory_reserved(device)
    run()
    cuda.synchronize(device)
    return (
        Peak("peak_allocated", int(cuda.max_memory_allocated(device)), int(allocated)),
        Peak("peak_reserved", int(cuda.max_memory_reserved(device)), int(reserved)),
    )


def peak_rss(call: str, arguments: dict[str, object], timeout_s: float = 600.0) -> Peak:
    """The most main memory of a fresh process that calls the function `call` (`package.module:function`).

    From VmHWM of /proc/self/status; `base_bytes` is its resident memory once the function's module was imported. Noisy:
    it holds the allocator's slack and every library. FrugalError when the call fails.
    """
    done = in_fresh_process(call, arguments, timeout_s=timeout_s).expect_ok(call)
    if done.rss_bytes is None:
        raise FrugalError("this system has no /proc/self/status: peak_rss is measured on Linux only")
    return Peak("peak_rss", done.rss_bytes, done.base_rss_bytes)


def peak_device(
    call: str,
    arguments: dict[str, object],
    nvml: Any,
    handle: Any,
    *,
    poll_s: float = POLL_S,
    timeout_s: float = 600.0,
) -> Peak:
    """What a user sees: the most memory of the GPU that a fresh process uses which calls the function `call`.

    NVML is asked every `poll_s` for the memory of that process, its CUDA context included, and where it does not know
    the process (in a container) for the device's, less what was used before. A lower bound, because it is polled.
    `nvml` and `handle` are frugal.provenance.gpu's. FrugalError when the call fails, or when NVML says nothing.
    """
    before = _used(nvml, handle)
    own: list[int] = []
    more: list[int] = []

    def look(pid: int) -> None:
        used = _used_by(nvml, handle, pid)
        if used is not None:
            own.append(used)
        now = _used(nvml, handle)
        if now is not None and before is not None:
            more.append(max(0, now - before))

    in_fresh_process(call, arguments, timeout_s=timeout_s, look=look, look_s=poll_s).expect_ok(call)
    found = own or more
    if not found:
        raise FrugalError("NVML tells neither this process's memory nor the device's: peak_device cannot be measured")
    return Peak("peak_device", max(found), 0 if own else before)


def _used(nvml: Any, handle: Any) -> int | None:
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    return None if memory is None else int(memory.used)


def _used_by(nvml: Any, handle: Any, pid: int) -> int | None:
    processes = ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or ()
    return next((int(p.usedGpuMemory) for p in processes if p.pid == pid and p.usedGpuMemory is not None), None)
