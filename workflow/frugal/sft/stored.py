"""A segment that runs whole under plain autograd, which keeps all that its backward pass reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from frugal.sft import window
from frugal.sft.copies import Copies, by_rows, map_room
from frugal.sft.host import HostImage, Place, windows_of
from frugal.sft.pairs import Fused
from frugal.sft.ranges import COLUMNS, ROWS
from frugal.sft.sums import Call
from frugal.sft.surroundings import Surroundings
from frugal.sft.window import Work


@dataclass(frozen=True, eq=False)
class Stored:
    """A segment with nothing computed twice. hosted: those of its inputs in host memory."""

    work: Work
    hosted: frozenset[str] = frozenset()

    def __call__(
        self, inputs: Sequence[Tensor | HostImage], vectors: Sequence[Tensor], call: Call | None = None
    ) -> Tensor:
        """The segment's output [N, C, H, W], or its mean [N, C]. call: needed where an input is in host memory."""
        work = self.work
        place = call.place if call else Place.of(inputs[0])
        _, _, height, width = work.shapes[work.part.output]
        rows, columns = work.span(0, height, ROWS), work.span(0, width, COLUMNS)
        weights, places = work.weights()
        values = {}
        for name, x in zip(work.part.inputs, inputs, strict=True):
            if name in self.hosted or isinstance(x, HostImage):
                x = _Brought.apply(x, place)
            values[name] = window.window_of(x, rows.at[name], columns.at[name])
        own = {key: weights[index] for key, index in places.items()}
        fused = None
        if not torch.is_grad_enabled():
            fused = Fused.begin(work.pairs, own, Surroundings.now(place.device), place)
        y = window.run(work, rows, columns, values, dict(zip(work.part.vectors, vectors, strict=True)), own, fused)
        return y.mean((2, 3)) if work.mean else y


class _Brought(torch.autograd.Function):
    """A map of host memory on the device, whole; its gradient goes back there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor | HostImage, place: Place) -> Tensor:
        ctx.place = place
        with Copies(place.device) as copies:
            return next(windows_of(x, True, [((0, x.shape[2]), (0, x.shape[3]))], copies, place))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None]:
        place = ctx.place
        found = map_room(g.shape, g.dtype, place.device, place.channels_last)
        with Copies(place.device) as copies:
            rows = (by_rows(x, place.channels_last) for x in (found, g))
            copies.send([next(rows)], [next(rows).contiguous()])
            copies.finish()
        return found, None
