"""What this machine can do at most, measured: the rates that a roofline is drawn from (docs/methodology.md, controls).

A copy much larger than any cache gives bytes a second (read plus write); a large matrix product gives FLOP a second.
Random data: zeros draw less power and run faster.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from frugal.clock import Clock, SystemClock
from frugal.timing.devices import Device

COPY_FLOATS = {"cuda": 1 << 28, "cpu": 1 << 26}  # 1 GiB and 256 MiB, read once and written once
MATRIX = {"cuda": 8192, "cpu": 1024}
SAMPLES = 7
RUNS = 5


def ceilings(device: Device, clock: Clock | None = None) -> dict[str, float | None]:
    """`copy_bytes_per_s`, `flops_fp32` and `flops_tf32` (None on a CPU) of this machine, columns of `runs`."""
    clock = clock or SystemClock()
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with device.active():
        try:
            copied = _copy(device, clock)
            matmul.allow_tf32 = False
            fp32 = _matmul(device, clock)
            matmul.allow_tf32 = True
            tf32 = _matmul(device, clock) if device.kind == "cuda" else None
        finally:
            matmul.allow_tf32 = before
        device.release()
    return {"copy_bytes_per_s": copied, "flops_fp32": fp32, "flops_tf32": tf32}


def _copy(device: Device, clock: Clock) -> float:
    source = torch.rand(COPY_FLOATS[device.kind], device=device.kind)
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / _seconds(lambda: target.copy_(source), device, clock)


def _matmul(device: Device, clock: Clock) -> float:
    n = MATRIX[device.kind]
    a, b = torch.rand(2, n, n, device=device.kind) - 0.5
    out = torch.empty_like(a)
    return 2 * n**3 / _seconds(lambda: torch.mm(a, b, out=out), device, clock)


def _seconds(run: Callable[[], object], device: Device, clock: Clock) -> float:
    """Seconds of one run: the median over samples of several runs each, so that a launch does not count."""
    run()
    device.synchronize()
    taken = []
    for _ in range(SAMPLES):
        began = clock.ns()
        for _ in range(RUNS):
            run()
        device.synchronize()
        taken.append((clock.ns() - began) * 1e-9 / RUNS)
    return median(taken)
