"""A segment in tiles of its output: disjoint in the output, overlapping in the input, one at a time in both passes.

The loss depends on the output as a disjoint union of tiles and the vector-Jacobian product is linear, so that the sum
of the tiles' gradients is the gradient: nothing is masked, and nothing is remembered but the segment's inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from frugal.sft import window
from frugal.sft.ranges import COLUMNS, ROWS, Range, split
from frugal.sft.surroundings import Surroundings, random_again, random_state
from frugal.sft.window import Span, Work


@dataclass(frozen=True, eq=False)
class Tiles:
    """A segment with its tiles' ranges along both axes."""

    work: Work
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @classmethod
    def of(cls, work: Work, th: int, tw: int) -> Tiles:
        _, _, height, width = work.shapes[work.part.output]
        rows = tuple(work.span(lo, hi, ROWS) for lo, hi in split(height, th))
        return cls(work, rows, tuple(work.span(lo, hi, COLUMNS) for lo, hi in split(width, tw)))

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        return ((row, column) for row in self.rows for column in self.columns)

    def __call__(self, inputs: Sequence[Tensor], vectors: Sequence[Tensor]) -> Tensor:
        """The segment's output [N, C, H, W], or its mean [N, C]; autograd's backward pass runs the tiles again."""
        weights, places = self.work.weights()
        return _Tiled.apply(self, places, *inputs, *vectors, *weights)


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tiles: Tiles, places: Mapping[tuple[str, str], int], *tensors: Tensor) -> Tensor:
        work = tiles.work
        around = Surroundings.now(tensors[0].device)
        ctx.tiles, ctx.places, ctx.around, ctx.states = tiles, places, around, []
        ctx.save_for_backward(*tensors)
        inputs, vectors, weights = unpacked(work, tensors)
        own = bound(places, cast_weights(work, places, weights, around))
        result: Tensor | None = None
        for rows, columns in tiles:
            if work.random:
                ctx.states.append(random_state(tensors[0].device))
            y = window.run(work, rows, columns, windows(inputs, rows, columns), vectors, own)
            result, dtype = collect(work, result, y, rows, columns), y.dtype
            del y
        return finished(work, result, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        tiles, work, around = ctx.tiles, ctx.tiles.work, ctx.around
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        inputs, _, weights = unpacked(work, tensors)
        count = len(inputs)
        with around.again():
            cast = leaves(cast_weights(work, ctx.places, weights, around), needed[len(tensors) - len(weights) :])
            beside = leaves(tensors[count : len(tensors) - len(weights)], needed[count:])
            sums = Sums(tensors, needed, len(tiles.rows) * len(tiles.columns))
            for index, (rows, columns) in enumerate(tiles):
                state = ctx.states[index] if ctx.states else None
                with random_again(g.device, state):
                    _tile(ctx, sums, rows, columns, inputs, beside, cast, needed, g)
        return (None, None, *sums.found())


def _tile(ctx, sums: Sums, rows: Span, columns: Span, inputs, beside, cast, needed, g: Tensor) -> None:
    """Add one tile's gradients; nothing of it lives afterwards."""
    work = ctx.tiles.work
    views = windows(inputs, rows, columns)
    own = leaves(list(views.values()), needed)
    with torch.enable_grad():
        names = dict(zip(views, own, strict=True))
        y = window.run(
            work, rows, columns, names, dict(zip(work.part.vectors, beside, strict=True)), bound(ctx.places, cast)
        )
    asked = [(i, leaf) for i, leaf in enumerate([*own, *beside, *cast]) if leaf.requires_grad]
    gradient = gradient_of(work, g, rows, columns, y)
    found = torch.autograd.grad(y, [leaf for _, leaf in asked], gradient, allow_unused=True)
    del y
    for (i, _), grad in zip(asked, found, strict=True):
        if grad is None:
            continue
        at = None
        if i < len(own):
            name = work.part.inputs[i]
            at = rows.at[name], columns.at[name]
        sums.add(i, grad, at)


class Sums:
    """The gradients of a segment's tensors, added up window by window: float32 at least for what is not a map."""

    def __init__(self, tensors: Sequence[Tensor], needed: Sequence[bool], windows: int) -> None:
        self._tensors, self._needed, self._windows = tensors, needed, windows
        self._sums: list[Tensor | None] = [None] * len(tensors)
        self._own: set[int] = set()  # sums that are no gradient of autograd's, which may be another's as well

    def add(self, index: int, grad: Tensor, at: tuple[Range, Range] | None = None) -> None:
        """at: the window of a map that it is the gradient of; None for the whole of a tensor."""
        tensor, total = self._tensors[index], self._sums[index]
        if at is not None and not (self._windows == 1 and grad.shape == tensor.shape):
            if total is None:
                total = self._sums[index] = torch.zeros_like(tensor)
            window.window_of(total, *at).add_(grad)
            return
        grad = grad.to(tensor.dtype if at is not None else torch.promote_types(tensor.dtype, torch.float32))
        if total is None:
            self._sums[index] = grad
        elif index in self._own:
            total.add_(grad)
        else:
            self._sums[index] = total + grad
            self._own.add(index)

    def found(self) -> list[Tensor | None]:
        """In the tensors' own types; zeros where a gradient is wanted and none came."""
        return [
            None if not needed else torch.zeros_like(tensor) if total is None else total.to(tensor.dtype)
            for tensor, total, needed in zip(self._tensors, self._sums, self._needed, strict=True)
        ]


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


def windows(inputs: Mapping[str, Tensor], rows: Span, columns: Span) -> dict[str, Tensor]:
    return {name: window.window_of(x, rows.at[name], columns.at[name]) for name, x in inputs.items()}


def collect(work: Work, result: Tensor | None, y: Tensor, rows: Span, columns: Span) -> Tensor:
    """Put a window's output where it belongs, or add its sum; a window that is all of the output is the result."""
    if work.mean:
        total = y.sum((2, 3), dtype=torch.promote_types(y.dtype, torch.float32))
        return total if result is None else result.add_(total)
    n, channels, height, width = work.shapes[work.part.output]
    if y.shape[2:] == (height, width):
        return y
    if result is None:
        result = torch.empty(
            (n, channels, height, width), dtype=y.dtype, device=y.device, memory_format=memory_format(y)
        )
    window.window_of(result, rows.at[work.part.output], columns.at[work.part.output]).copy_(y)
    return result


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last for what is that and not contiguous as well."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def finished(work: Work, result: Tensor, dtype: torch.dtype) -> Tensor:
    """The output, or from its sum the mean, in the output's type."""
    if not work.mean:
        return result
    _, _, height, width = work.shapes[work.part.output]
    return (result / (height * width)).to(dtype)


def gradient_of(work: Work, g: Tensor, rows: Span, columns: Span, y: Tensor) -> Tensor:
    """The window's part of the output's gradient; of a mean's gradient an expanded view."""
    if not work.mean:
        return window.window_of(g, rows.at[work.part.output], columns.at[work.part.output])
    _, _, height, width = work.shapes[work.part.output]
    return (
        (g.to(torch.promote_types(g.dtype, torch.float32)) / (height * width))
        .to(y.dtype)[:, :, None, None]
        .expand_as(y)
    )
