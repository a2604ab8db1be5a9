"""The largest size that fits below a cap of memory, by bisection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from frugal.errors import FrugalError, out_of_memory
from frugal.memory.fresh import in_fresh_process
from frugal.memory.live import LiveBytes


@dataclass(frozen=True)
class Fit:
    """Whether a size fitted, why not, and the most bytes that it used (of those that the cap counts; None: unknown)."""

    fits: bool
    reason: str | None = None
    peak_bytes: int | None = None


class Probe(Protocol):
    """Does the whole work of one size once, from nothing. What goes wrong for other reasons than memory raises."""

    def __call__(self, size: int) -> Fit: ...


@dataclass(frozen=True)
class MaxSize:
    """The largest size that fitted (None: not even the smallest), and every probe in the order of the search.

    `at_limit`: the largest size that was allowed fitted, so that the true one may be larger.
    """

    size: int | None
    at_limit: bool
    probes: Mapping[int, Fit] = field(default_factory=dict)


def max_size(probe: Probe, low: int, high: int, step: int = 1) -> MaxSize:
    """The largest of `low, low + step, …` up to `high` that fits, by bisection: about log2((high − low)/step) probes.

    It takes for granted that with a size each smaller one fits; the probes that were made are returned. ValueError
    unless 1 <= low <= high and step >= 1.
    """
    if not (1 <= low <= high and step >= 1):
        raise ValueError(f"low, high, step = {low}, {high}, {step}: it must be 1 <= low <= high and step >= 1")
    probes: dict[int, Fit] = {}

    def fits(index: int) -> bool:
        size = low + index * step
        probes[size] = probe(size)
        return probes[size].fits

    last = (high - low) // step
    if not fits(0):
        return MaxSize(None, False, probes)
    if last == 0 or fits(last):
        return MaxSize(low + last * step, True, probes)
    good, bad = 0, last
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return MaxSize(low + good * step, False, probes)


def live_probe(work: Callable[[int, LiveBytes], object], cap_bytes: int, granularity: int = 1) -> Probe:
    """Probes of a CPU: `work(size, live)` runs under `LiveBytes(granularity, limit=cap_bytes)`, in this process.

    It makes its tensors inside, so that they all count; what exists already it hands to `live.track`. Exact and
    repeatable: it counts tensors, not what an allocator or a library takes beside them.
    """

    def probe(size: int) -> Fit:
        live = LiveBytes(granularity, limit=cap_bytes)
        try:
            with live:
                work(size, live)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return Fit(False, str(error), live.peak_total)
        return Fit(True, None, live.peak_total)

    return probe


def cuda_probe(
    call: str,
    arguments: Mapping[str, object],
    cap_bytes: int | None = None,
    size_argument: str = "size",
    timeout_s: float = 600.0,
) -> Probe:
    """Probes of a GPU: the function `call` (`package.module:function`) in a fresh process for each size.

    It gets `arguments` and the size as `size_argument`, under an allocator that may hand out `cap_bytes` (None: all of
    the device), the CUDA context apart; the peak is what it returns, where that is an integer. FrugalError when it
    fails otherwise.
    """

    def probe(size: int) -> Fit:
        done = in_fresh_process(call, {**arguments, size_argument: size}, cuda_cap_bytes=cap_bytes, timeout_s=timeout_s)
        if done.status == "oom":
            return Fit(False, done.reason)
        if done.status != "ok":
            raise FrugalError(f"{call} at {size_argument} = {size}: {done.status}: {done.reason}")
        return Fit(True, None, done.value if isinstance(done.value, int) else None)

    return probe
