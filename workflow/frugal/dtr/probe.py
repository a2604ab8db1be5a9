"""One step of an arm and what it takes: called in a process of its own on a GPU (frugal.memory.in_fresh_process)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from statistics import median

import torch
from torch import Tensor

from frugal.clock import Clock, SystemClock
from frugal.dtr import captures
from frugal.dtr.captures import Capture
from frugal.dtr.cases import Step, outputs, report_values, step
from frugal.dtr.errors import ThrashError
from frugal.dtr.offered import COMPILED, Method
from frugal.dtr.programs import Program, program
from frugal.dtr.sim import simulate
from frugal.errors import out_of_memory
from frugal.memory import LiveBytes, peak_cuda
from frugal.timing.arms import Unsupported
from frugal.timing.flags import flags

WARM_STEPS = 7  # a key of `dtr` is timed in its first six runs
TIMED_STEPS = 3


def step_peaks(
    network: str,
    sizes: Mapping[str, int],
    method: str,
    settings: Mapping[str, object],
    logs: str,
    device: str,
    seed: int,
    heuristic: str,
) -> dict[str, object]:
    """{metric: value} of one step of a method, as experiment `memory` has them.

    Kernels are deterministic, so that results can be compared bit for bit: with those of plain PyTorch, where that has
    the memory. Where the step cannot be had: `unsupported` or `thrash`, the reason, alone. Out of memory raises.
    """
    capture, chosen = captures.read(network, logs), Method(method, settings)
    with _deterministic():
        right = _plain(network, tuple(sizes.items()), device, seed)
        made = program(network, sizes, device, seed)
        try:
            arm = step(made, chosen, capture, heuristic)
            own = _result(made, arm)
            found = _measured(made, arm, device, compiled=method in COMPILED)
        except Unsupported as problem:
            return {"unsupported": str(problem)}
        except ThrashError as problem:
            return {"thrash": str(problem)}
        if right is not None:
            found["differing"] = sum(not torch.equal(a, b) for a, b in zip(own, right, strict=True))
    if arm.budget is not None:
        found |= _predicted(capture, arm.budget.budget_bytes, heuristic)
    return found


def grown_step(
    size: int,
    network: str,
    sizes: Mapping[str, int],
    grows: str,
    method: str,
    settings: Mapping[str, object],
    device: str,
    seed: int,
    heuristic: str,
    steps: int = 0,
    clock: Clock | None = None,
) -> float | None:
    """Steps at a size of what grows; with `steps` the median of their seconds, after those in which costs are learnt.

    A step that recomputes more than its limit counts as one that does not fit: MemoryError.
    """
    made = program(network, {**sizes, grows: size}, device, seed)
    arm = step(made, Method(method, settings), None, heuristic)
    clock, times = clock or SystemClock(), []
    with flags(tf32=False, autotune=False):
        for number in range(WARM_STEPS + steps if steps else 1):
            began = _now(clock, device)
            try:
                arm.run(0)
            except ThrashError as problem:
                raise MemoryError(str(problem)) from None
            if number >= WARM_STEPS:
                times.append((_now(clock, device) - began) * 1e-9)
    return median(times) if times else None


def counted_step(live: LiveBytes, made: Program, arm: Step) -> None:
    """A step on the meta device under the limit of `live`; of `dtr` its own budget is the limit."""
    try:
        if arm.budget is not None:
            arm.run(0)
            return
        live.track(made.resident())
        with live:
            arm.run(0)
    except ThrashError as problem:
        raise MemoryError(str(problem)) from None


def _now(clock: Clock, device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
    return clock.ns()


@contextmanager
def _deterministic() -> Iterator[None]:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    with ExitStack() as after:
        after.callback(torch.use_deterministic_algorithms, before[0], warn_only=before[1])
        after.enter_context(flags(tf32=False, autotune=False))
        after.callback(setattr, torch.backends.cudnn, "deterministic", torch.backends.cudnn.deterministic)
        torch.backends.cudnn.deterministic = True
        yield


@lru_cache(maxsize=1)
def _plain(network: str, sizes: tuple[tuple[str, int], ...], device: str, seed: int) -> list[Tensor] | None:
    """What one step of plain PyTorch gives, in main memory; None where that does not fit."""
    made = program(network, dict(sizes), device, seed)
    try:
        return _result(made, step(made, Method("plain"), None, ""))
    except Exception as problem:
        if not out_of_memory(problem):
            raise
        return None


def _result(made: Program, arm: Step) -> list[Tensor]:
    """Loss, gradients and buffers of one step, in main memory."""
    loss = arm.run(0)
    found = [value.detach().cpu().clone() for value in (*outputs(made, loss), *made.model.buffers())]
    made.begin()
    return found


def _measured(made: Program, arm: Step, device: str, *, compiled: bool) -> dict[str, object]:
    """Peaks of a second step, and of `dtr` its report."""
    found: dict[str, object] = {}
    if arm.budget is not None:
        arm.run(0)
        found |= report_values(arm.budget)
        found["peak_total"] = found["peak_managed"]
    elif not compiled:  # whose tensors torch does not announce
        live = LiveBytes(collect=device == "cuda")
        live.track(made.resident())
        with live:
            arm.run(0)
        found["peak_total"] = live.peak_total
    if device == "cuda":
        allocated, reserved = peak_cuda(lambda: arm.run(0))
        found |= {"peak_allocated": allocated.bytes, "peak_reserved": reserved.bytes}
    return found


def _predicted(capture: Capture, budget_bytes: int | None, heuristic: str) -> dict[str, object]:
    """What the simulator says of the captured log under the same budget; nothing where it says that it fails."""
    found = simulate(capture.log, heuristic, budget_bytes)
    if found.status != "ok":
        return {}
    return {
        "overhead_predicted": found.overhead,
        "peak_predicted": found.max_memory,
        "remats_predicted": found.remats,
        "evictions_predicted": found.evictions,
    }


# ---- a GPU's allocator -----------------------------------------------------------------------------------------------


def allocator_moments(
    network: str,
    sizes: Mapping[str, int],
    method: str,
    settings: Mapping[str, object],
    logs: str,
    seed: int,
    heuristic: str,
    moments: int,
) -> dict[str, object]:
    """`moments`: so many times [bytes allocated, reserved, largest hole] over one step on a GPU."""
    made = program(network, sizes, "cuda", seed)
    arm = step(made, Method(method, settings), captures.read(network, logs), heuristic)
    counting = _Watch(0)
    with flags(tf32=False, autotune=False):
        arm.run(0)
        with counting:
            arm.run(0)
        watch = _Watch(max(1, counting.operators // moments))
        with watch:
            arm.run(0)
    return {"moments": watch.seen[:moments]}


class _Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """Looks at CUDA's allocator at every so many operators; 0: counts alone."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.operators = every, 0
        self.seen: list[Sequence[int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operators += 1
        if self.every and self.operators % self.every == 0:
            holes = [
                block["size"]
                for segment in torch.cuda.memory_snapshot()
                for block in segment["blocks"]
                if block["state"] == "inactive"
            ]
            self.seen.append([torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), max(holes, default=0)])
        return result
