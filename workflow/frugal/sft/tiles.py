"""A segment in tiles of its output: disjoint in the output, overlapping in the input, one at a time in both passes.

The loss depends on the output as a disjoint union of tiles and the vector-Jacobian product is linear, so that the sum
of the tiles' gradients is the gradient: nothing is masked, and nothing is remembered but the segment's inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from frugal.sft import window
from frugal.sft.copies import Copies
from frugal.sft.host import HostImage, Place, windows_of
from frugal.sft.ranges import COLUMNS, ROWS, split
from frugal.sft.sums import Call, Output, Sums
from frugal.sft.surroundings import Surroundings, random_again, random_state
from frugal.sft.window import Span, Work


@dataclass(frozen=True, eq=False)
class Tiles:
    """A segment with its tiles' ranges along both axes. hosted: those of its inputs and output in host memory."""

    work: Work
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    hosted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, work: Work, th: int, tw: int, hosted: frozenset[str] = frozenset()) -> Tiles:
        _, _, height, width = work.shapes[work.part.output]
        rows = tuple(work.span(lo, hi, ROWS) for lo, hi in split(height, th))
        return cls(work, rows, tuple(work.span(lo, hi, COLUMNS) for lo, hi in split(width, tw)), hosted)

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        return ((row, column) for row in self.rows for column in self.columns)

    def __call__(
        self, inputs: Sequence[Tensor | HostImage], vectors: Sequence[Tensor], call: Call | None = None
    ) -> Tensor:
        """The segment's output [N, C, H, W], or its mean [N, C]; autograd's backward pass runs the tiles again.

        call: needed where an input is in host memory; else the first input says where to compute.
        """
        weights, places = self.work.weights()
        call = call or Call(Place.of(inputs[0]))
        return _Tiled.apply(self, places, call, *inputs, *vectors, *weights)

    def windows(self, name: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Rows and columns of a map in each tile."""
        return [(rows.at[name], columns.at[name]) for rows, columns in self]


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tiles: Tiles, places: Mapping[tuple[str, str], int], call: Call, *tensors: Tensor | HostImage
    ) -> Tensor:
        work, device = tiles.work, call.place.device
        around = Surroundings.now(device)
        ctx.tiles, ctx.places, ctx.call, ctx.around, ctx.states = tiles, places, call, around, []
        ctx.image = saved(ctx, tensors)
        inputs, vectors, weights = unpacked(work, tensors)
        own = bound(places, cast_weights(work, places, weights, around))
        with Copies(device) as copies:
            coming = {
                name: windows_of(x, name in tiles.hosted, tiles.windows(name), copies, call.place)
                for name, x in inputs.items()
            }
            output = Output(work, call.place, copies, work.part.output in tiles.hosted)
            for rows, columns in tiles:
                if work.random:
                    ctx.states.append(random_state(device))
                views = {name: next(each) for name, each in coming.items()}
                output.put(window.run(work, rows, columns, views, vectors, own), rows, columns)
                del views
            return output.value()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        tiles, work, around, call = ctx.tiles, ctx.tiles.work, ctx.around, ctx.call
        tensors, needed = restored(ctx, ctx.saved_tensors), ctx.needs_input_grad[3:]
        inputs, _, weights = unpacked(work, tensors)
        count = len(inputs)
        with ExitStack() as stack:
            copies = stack.enter_context(Copies(call.place.device))
            stack.enter_context(around.again())
            cast = leaves(cast_weights(work, ctx.places, weights, around), needed[len(tensors) - len(weights) :])
            beside = leaves(tensors[count : len(tensors) - len(weights)], needed[count:])
            sums = Sums(work, tensors, needed, len(tiles.rows) * len(tiles.columns), call, tiles.hosted, copies)
            coming = {
                name: windows_of(x, name in tiles.hosted, tiles.windows(name), copies, call.place)
                for name, x in inputs.items()
            }
            gradients = gradients_of(work, g, tiles.windows(work.part.output), tiles.hosted, copies, call.place)
            for index, (rows, columns) in enumerate(tiles):
                views = {name: next(each) for name, each in coming.items()}
                with random_again(call.place.device, ctx.states[index] if ctx.states else None):
                    _tile(ctx, sums, rows, columns, views, beside, cast, next(gradients))
                del views
            return (None, None, None, *sums.found())


def _tile(ctx, sums: Sums, rows: Span, columns: Span, views, beside, cast, g: Tensor) -> None:
    """Add one tile's gradients; nothing of it lives afterwards."""
    work, needed = ctx.tiles.work, ctx.needs_input_grad[3:]
    own = leaves(list(views.values()), needed)
    with torch.enable_grad():
        names = dict(zip(views, own, strict=True))
        y = window.run(
            work, rows, columns, names, dict(zip(work.part.vectors, beside, strict=True)), bound(ctx.places, cast)
        )
    asked = [(i, leaf) for i, leaf in enumerate([*own, *beside, *cast]) if leaf.requires_grad]
    found = torch.autograd.grad(y, [leaf for _, leaf in asked], gradient_of(work, g, y), allow_unused=True)
    del y
    for (i, _), grad in zip(asked, found, strict=True):
        if grad is None:
            continue
        at = None
        if i < len(own):
            name = work.part.inputs[i]
            at = rows.at[name], columns.at[name]
        sums.add(i, grad, at)


def saved(ctx: Any, tensors: Sequence[Tensor | HostImage], *more: Tensor) -> HostImage | None:
    """Save tensors for the backward pass; the one that is an image in host memory is given back."""
    ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in tensors), *more)
    return next((x for x in tensors if not isinstance(x, Tensor)), None)


def restored(ctx: Any, tensors: Sequence[Tensor | None]) -> list[Tensor | HostImage]:
    """What `saved` was given."""
    return [ctx.image if x is None else x for x in tensors]


def unpacked(work: Work, tensors: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], Sequence[Tensor]]:
    """{input: map}, {name: vector}, weights."""
    maps, beside = len(work.part.inputs), len(work.part.vectors)
    inputs = dict(zip(work.part.inputs, tensors[:maps], strict=True))
    return inputs, dict(zip(work.part.vectors, tensors[maps : maps + beside], strict=True)), tensors[maps + beside :]


def cast_weights(work: Work, places: Mapping, weights: Sequence[Tensor], around: Surroundings) -> list[Tensor]:
    convolutions = {places[key] for key in work.cast_weights() if key in places}
    return [around.cast(weight) if i in convolutions else weight for i, weight in enumerate(weights)]


def bound(places: Mapping[tuple[str, str], int], weights: Sequence[Tensor]) -> dict[tuple[str, str], Tensor]:
    """The weights by node and role."""
    return {key: weights[index] for key, index in places.items()}


def leaves(tensors: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor]:
    """The same storages as leaves of a graph of their own."""
    return [
        tensor.detach().requires_grad_(wanted) for tensor, wanted in zip(tensors, needed[: len(tensors)], strict=True)
    ]


def gradients_of(
    work: Work, g: Tensor, windows: Sequence, hosted: frozenset[str], copies: Copies, place: Place
) -> Iterator[Tensor]:
    """The windows' parts of the output's gradient; of a mean's gradient, all of it each time."""
    if work.mean:
        return iter([g] * len(windows))
    return windows_of(g, work.part.output in hosted, windows, copies, place)


def gradient_of(work: Work, g: Tensor, y: Tensor) -> Tensor:
    """The gradient of a window's output y; from a mean's an expanded view."""
    if not work.mean:
        return g
    _, _, height, width = work.shapes[work.part.output]
    return (
        (g.to(torch.promote_types(g.dtype, torch.float32)) / (height * width))
        .to(y.dtype)[:, :, None, None]
        .expand_as(y)
    )
