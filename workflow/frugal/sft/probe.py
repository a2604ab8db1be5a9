"""One step of training and what it takes: called in a process of its own on a GPU (frugal.memory.in_fresh_process)."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from statistics import median

import torch

from frugal.clock import Clock, SystemClock
from frugal.memory import LiveBytes, MacCounter, peak_cuda
from frugal.sft import methods
from frugal.sft.cases import Training, plan_settings
from frugal.sft.offered import Method, Subject
from frugal.timing.arms import Unsupported

TIMED_STEPS = 3


def subject_of(axes: Mapping[str, object]) -> Subject:
    """A Subject that has been through JSON."""
    return Subject(**{**axes, "more": tuple((key, value) for key, value in axes.get("more", ()))})


def step_peaks(
    subject: Mapping[str, object],
    method: str,
    settings: Mapping[str, object],
    photographs: str,
    device: str,
    seed: int,
    steps: int = TIMED_STEPS,
    clock: Clock | None = None,
) -> dict[str, object]:
    """Peaks, multiply-adds and times of one step of a method, with SGD's state in place before.

    Bytes: peak_live beside base_bytes (parameters, buffers, the optimiser's state, an image on the device); macs; plan:
    what rows say of a plan. On the meta device that is all, and the same as on a CPU. On a GPU also peak_allocated,
    peak_reserved, workspace, which is what the allocator handed out beyond the tensors, and in seconds time_forward and
    time_backward, medians of so many steps after a first one. Where the method does not support the network:
    unsupported, the reason, alone. Running out of memory raises.
    """
    training = Training(subject_of(subject), photographs, device, seed)
    chosen = Method(method, settings)
    model = training.network()
    with training.setup.flags():
        try:
            forward = training.forward(model, chosen)
        except Unsupported as problem:
            return {"unsupported": str(problem)}
        optimiser = methods.sgd(model)
        step = training.step(model, forward, 0, chosen, optimiser)
        step()
        base = [*model.parameters(), *model.buffers(), *_state(optimiser)]
        if training.subject.input == "device":
            base.append(training.image(0))
        live = LiveBytes(collect=device == "cuda")  # on the meta device no cycles of a pass before can die inside
        live.track(base)
        with MacCounter() as count, live:
            step()
        found: dict[str, object] = {"peak_live": live.peak, "base_bytes": live.base, "macs": count.total}
        found["plan"] = plan_settings(forward)
        if device == "cuda":
            times = [_timed(step, clock or SystemClock()) for _ in range(steps)]
            found["time_forward"], found["time_backward"] = (median(each) for each in zip(*times, strict=True))
            allocated, reserved = peak_cuda(step)
            found |= {"peak_allocated": allocated.bytes, "peak_reserved": reserved.bytes}
            found["workspace"] = max(0, allocated.bytes - live.peak_total)
    return found


def step_once(
    size: int,
    subject: Mapping[str, object],
    method: str,
    settings: Mapping[str, object],
    photographs: str,
    device: str,
    seed: int,
) -> int | None:
    """One step on square images of a size; on a GPU the most bytes that the allocator handed out.

    What a method does not support, and no plan, is out of memory's affair or raises.
    """
    training = Training(subject_of({**subject, "h": size, "w": size}), photographs, device, seed)
    chosen = Method(method, settings)
    model = training.network()
    with training.setup.flags():
        forward = training.forward(model, chosen)
        step = training.step(model, forward, 0, chosen, methods.sgd(model))
        step()
        if device != "cuda":
            return None
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())


def context_bytes() -> int:
    """What the CUDA context of a process takes on a device that nobody else uses: all but what torch has reserved."""
    torch.zeros(1, device="cuda")
    gc.collect()
    free, total = torch.cuda.mem_get_info()
    return int(total - free - torch.cuda.memory_reserved())


def _timed(step: methods.Step, clock: Clock) -> tuple[float, float]:
    """Seconds of the forward pass with the loss, and of the backward pass."""

    def now() -> int:
        torch.cuda.synchronize()
        return clock.ns()

    began = now()
    loss = step.forward()
    between = now()
    step.backward(loss)
    done = now()
    step.update()
    return (between - began) * 1e-9, (done - between) * 1e-9


def _state(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [value for state in optimiser.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
