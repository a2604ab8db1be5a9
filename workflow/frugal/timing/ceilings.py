"""What this machine can do at most, measured in each session: the controls `copy` and `peak` (docs/methodology.md).

A copy much larger than any cache gives bytes a second (read plus write); a large matrix product gives FLOP a second in
each precision that rooflines need. Random data: zeros draw less power and run faster. Beside them stand what a launch
costs the host, and the least that two events can read; neither is ever subtracted from a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from frugal.clock import Clock, SystemClock
from frugal.timing.devices import Device, QueueDevice
from frugal.timing.flags import flags

COPY_FLOATS = {"cuda": 1 << 28, "cpu": 1 << 26}  # 1 GiB and 256 MiB, read once and written once
MATRIX = {"cuda": 8192, "cpu": 1024}
SAMPLES = 7
RUNS = {"cuda": 5, "cpu": 1}  # of a sample: on a GPU so many that a launch does not count
LAUNCHES = 100  # in a row: the launch queue holds about 1024
SPIN_S = 50e-6  # holds two events back until both are enqueued


def ceilings(device: Device, clock: Clock | None = None) -> dict[str, float | None]:
    """Columns of `runs`: copy_bytes_per_s, flops_fp32, and on a GPU flops_tf32, flops_fp16, launch_s, event_floor_s.

    Bytes and FLOP a second, and seconds; those of a GPU are None on a CPU. fp16 products are summed in fp32.
    """
    clock = clock or SystemClock()
    found: dict[str, float | None] = {"copy_bytes_per_s": None, "flops_fp32": None, "flops_tf32": None}
    found |= {"flops_fp16": None, "launch_s": None, "event_floor_s": None}
    with device.active():
        found["copy_bytes_per_s"] = _copy(device, clock)
        found["flops_fp32"] = _matmul(device, clock, torch.float32)
        if device.kind == "cuda":
            found["flops_tf32"] = _matmul(device, clock, torch.float32, tf32=True)
            found["flops_fp16"] = _matmul(device, clock, torch.float16)
            tiny = torch.zeros(1, device=device.kind)
            found["launch_s"] = launch_s(lambda: tiny.add_(1.0), device, clock)
            found["event_floor_s"] = event_floor_s(device)  # type: ignore[arg-type]
        device.release()
    return found


def launch_s(launch: Callable[[], object], device: Device, clock: Clock) -> float:
    """Host seconds that one launch takes to enqueue: the median over samples of 100 in a row without waiting."""
    launch()
    taken = []
    for _ in range(SAMPLES):
        device.synchronize()
        began = clock.ns()
        for _ in range(LAUNCHES):
            launch()
        taken.append((clock.ns() - began) * 1e-9 / LAUNCHES)
    device.synchronize()
    return median(taken)


def event_floor_s(device: QueueDevice) -> float:
    """Seconds that two adjacent events read with nothing between them, behind a spin: the median of some."""
    first, second = device.event(), device.event()
    taken = []
    for _ in range(SAMPLES):
        device.sleep(int(device.hz * SPIN_S))
        first.record()
        second.record()
        device.synchronize()
        taken.append(first.elapsed_time(second) * 1e-3)
    return median(taken)


def _copy(device: Device, clock: Clock) -> float:
    source = torch.rand(COPY_FLOATS[device.kind], device=device.kind)
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / _seconds(lambda: target.copy_(source), device, clock)


def _matmul(device: Device, clock: Clock, dtype: torch.dtype, tf32: bool = False) -> float:
    n = MATRIX[device.kind]
    a, b = (torch.rand(2, n, n, device=device.kind) - 0.5).to(dtype)
    out = torch.empty_like(a)
    with flags(tf32=tf32):
        return 2 * n**3 / _seconds(lambda: torch.mm(a, b, out=out), device, clock)


def _seconds(run: Callable[[], object], device: Device, clock: Clock) -> float:
    """Seconds of one run: the least over samples of RUNS in a row, since whatever else runs here only slows it down."""
    run()
    device.synchronize()
    taken = []
    count = RUNS[device.kind]
    for _ in range(SAMPLES):
        began = clock.ns()
        for _ in range(count):
            run()
        device.synchronize()
        taken.append((clock.ns() - began) * 1e-9 / count)
    return min(taken)
