"""What a schedule allocates, byte for byte, found by running it on the meta device, where tensors have no memory.

Of windows that run the same shapes one is enough, and of strips that do, a few: the others would allocate the same. The
carries of strips that are left out are stood in for by one tensor of their size.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from frugal.memory import LiveBytes
from frugal.sft.graph import trace
from frugal.sft.host import HostImage, Place
from frugal.sft.meta import Autocast, FrozenNorm
from frugal.sft.plans import Plan
from frugal.sft.segments import Schedule, Step, schedule
from frugal.sft.stacks import Stack, classes, shape_of
from frugal.sft.strips import Strips
from frugal.sft.sums import Call
from frugal.sft.tiles import Tiles
from frugal.sft.window import Span

ALIKE = 3  # strips of a run of equal ones that are enough: the first, one between equal ones, the last


@dataclass(frozen=True)
class Settings:
    """How a model will run. dtype: of the image. autocast: its type, or None. image_on_device: else in host memory.

    granularity: bytes that the device's allocator rounds to.
    """

    dtype: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    channels_last: bool = False
    input_grad: bool = False
    training: bool = True
    image_on_device: bool = True
    allow_dropout: bool = False
    granularity: int = 1


def on_meta(model: nn.Module) -> nn.Module:
    """A copy of a model without its numbers: parameters and buffers of the meta device, gradients where wanted."""
    empty: dict[int, Any] = {}
    for p in model.parameters():
        empty[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
    for b in model.buffers():
        empty[id(b)] = torch.empty_like(b, device="meta")
    return copy.deepcopy(model, empty)


def dry_run(model: nn.Module, plan: Plan, settings: Settings) -> int:
    """Bytes at the worst moment of one step of a model of the meta device: parameters, buffers, their gradients and the
    image among them. The loss is the caller's: its gradient of the output is counted.
    """
    ready = sampled(schedule(trace(model, allow_dropout=settings.allow_dropout), plan))
    parameters = list(model.parameters())
    format_ = torch.channels_last if settings.channels_last else torch.contiguous_format
    x = torch.empty(plan.image_shape, dtype=settings.dtype, device="meta").to(memory_format=format_)
    x.requires_grad_(settings.input_grad and settings.training)
    n, channels, height, width = plan.image_shape
    pixels = np.broadcast_to(np.uint8(0), (n, height, width, channels))  # no memory either
    image = x if settings.image_on_device else HostImage(pixels, "NHWC")
    place = Place(x.device, settings.dtype, settings.channels_last)
    for p in parameters:
        p.grad = torch.empty_like(p) if p.requires_grad and settings.training else None
    gradients = [p.grad for p in parameters if p.grad is not None]
    with ExitStack() as modes:
        live = modes.enter_context(LiveBytes(settings.granularity, collect=False))
        live.track([*parameters, *model.buffers(), *gradients])
        if settings.image_on_device:
            live.track(x)
        modes.enter_context(FrozenNorm())
        if settings.autocast is not None:
            modes.enter_context(Autocast(settings.autocast))
        modes.enter_context(torch.set_grad_enabled(settings.training))
        y = ready(image, place)
        if settings.training and y.requires_grad:
            y.backward(torch.empty_like(y))
        del y
    for p in parameters:
        p.grad = None
    return live.peak_total


def sampled(ready: Schedule) -> Schedule:
    """The schedule with few windows of each shape."""
    return dataclasses.replace(ready, steps=tuple(_sampled_step(step) for step in ready.steps))


def _sampled_step(step: Step) -> Step:
    if isinstance(step.run, Tiles):
        few = _FewTiles(step.run.work, step.run.rows, step.run.columns, step.run.hosted, step.run.stack)
        return dataclasses.replace(step, run=few)
    if isinstance(step.run, Strips):
        return dataclasses.replace(step, run=_FewStrips(step.run))
    return step


class _FewTiles(Tiles):
    """The first two stacks, between which the sums of gradients come to be, and one of each class of the others."""

    def order(self) -> tuple[Stack, ...]:
        rows, columns = (_kinds(spans, self.hosted) for spans in (self.rows, self.columns))
        kept: dict[tuple, Stack] = {}
        for index, stack in enumerate(super().order()):
            kind = tuple((rows[id(row)], columns[id(column)]) for row, column in stack)
            kept.setdefault((index,) if index < 2 else kind, stack)
        return tuple(kept.values())


def _kinds(spans: Sequence[Span], hosted: Collection[str]) -> dict[int, tuple[int, ...]]:
    """Of each span its class; beside host memory with its neighbours', whose windows are on their way with it."""
    found = classes(spans)
    beside = [found[max(0, i - 1) : i + 2] if hosted else () for i in range(len(found))]
    return {id(span): (kind, *around) for span, kind, around in zip(spans, found, beside, strict=True)}


class _FewStrips:
    """Strips without the inner ones of runs of equal strips, and with a tensor as large as those ones' carries."""

    def __init__(self, strips: Strips) -> None:
        steps = strips.steps
        kinds = [(shape_of(step.rows), tuple(step.kept.items())) for step in steps]
        kept = [
            i
            for i in range(len(steps))
            if not (i >= ALIKE and len(set(kinds[i - ALIKE : i + 1])) == 1 and i + 1 < len(steps))
        ]
        self.few = dataclasses.replace(strips, steps=tuple(steps[i] for i in kept))
        left_out = set(range(len(steps))) - set(kept) if strips.carry == "device" else ()
        self.carried = sum(self._elements(strips, i) for i in left_out)

    def _elements(self, strips: Strips, i: int) -> int:
        shapes = strips.work.shapes
        rows = {name: hi - lo for name, (lo, hi) in strips.steps[i].kept.items()}
        return sum(count * shapes[name][0] * shapes[name][1] * shapes[name][3] for name, count in rows.items())

    def __call__(self, inputs: list[Tensor | HostImage], vectors: list[Tensor], call: Call) -> Tensor:
        dtype = Autocast.now() or call.place.dtype
        carries = [torch.empty(self.carried, dtype=dtype, device="meta")] if torch.is_grad_enabled() else []
        y = self.few(inputs, vectors, call)
        if y.grad_fn is not None:  # they live until the segment's backward pass is done
            y.grad_fn.register_hook(lambda *_: carries.clear())
        return y
