"""What a schedule allocates, byte for byte, found by running it on the meta device, where tensors have no memory.

Of windows that run the same shapes one is enough, and of strips that do, a few: the others would allocate the same. The
carries of strips that are left out are stood in for by one tensor of their size.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
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
        few = _FewTiles(step.run.work, step.run.rows, step.run.columns, step.run.hosted)
        return dataclasses.replace(step, run=few)
    if isinstance(step.run, Strips):
        return dataclasses.replace(step, run=_FewStrips(step.run))
    return step


class _FewTiles(Tiles):
    """The first two tiles, between which the sums of gradients come to be, and one of each class of the others."""

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        seen: set[tuple] = set()
        rows, columns = _classes(self.rows), _classes(self.columns)
        for i, row in enumerate(self.rows):
            for j, column in enumerate(self.columns):
                kind = rows[i], columns[j]
                if self.hosted:  # a tile meets what its neighbours have on their way
                    kind = *kind, rows[max(0, i - 1) : i + 2], columns[max(0, j - 1) : j + 2]
                if i * len(columns) + j < 2:
                    yield row, column
                elif kind not in seen:
                    seen.add(kind)
                    yield row, column


def _classes(spans: Sequence[Span]) -> tuple[int, ...]:
    """Of each span the number of its shape."""
    numbers: dict[tuple, int] = {}
    return tuple(numbers.setdefault(_shape(span), len(numbers)) for span in spans)


def _shape(span: Span) -> tuple:
    """All that decides what a window allocates along an axis."""
    lengths = tuple(hi - lo for lo, hi in span.at.values())
    made = tuple(hi - lo for lo, hi in span.made.values())
    return lengths, made, tuple(span.reads.items())


class _FewStrips:
    """Strips without the inner ones of runs of equal strips, and with a tensor as large as those ones' carries."""

    def __init__(self, strips: Strips) -> None:
        steps = strips.steps
        kinds = [(_shape(step.rows), tuple(step.kept.items())) for step in steps]
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
