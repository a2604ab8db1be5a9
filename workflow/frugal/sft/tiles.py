"""A segment in tiles of its output: disjoint in the output, overlapping in the input, one at a time in both passes.

The loss depends on the output as a disjoint union of tiles and the vector-Jacobian product is linear, so that the sum
of the tiles' gradients is the gradient: nothing is masked, and nothing is remembered but the segment's inputs. Small
tiles of one shape may run as one batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from frugal.sft import window
from frugal.sft.copies import Copies
from frugal.sft.host import HostImage, Place, windows_of
from frugal.sft.pairs import Fused
from frugal.sft.ranges import COLUMNS, ROWS, Range, split
from frugal.sft.stacks import Stack, stacked, together
from frugal.sft.sums import Call, Output, Sums
from frugal.sft.surroundings import Surroundings, random_again, random_state
from frugal.sft.window import Span, Work

if TYPE_CHECKING:
    from frugal.sft.graphs import Graphs  # which records what is here

Views = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Tiles:
    """A segment with its tiles' ranges along both axes. hosted: those of its inputs and output in host memory.

    stack: so many tiles of one shape run at once, side by side in the batch. graphs: windows that are recorded as CUDA
    graphs, or None.
    """

    work: Work
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    hosted: frozenset[str] = frozenset()
    stack: int = 1
    graphs: Graphs | None = None

    @classmethod
    def of(
        cls,
        work: Work,
        th: int,
        tw: int,
        hosted: frozenset[str] = frozenset(),
        stack: int = 1,
        graphs: Graphs | None = None,
    ) -> Tiles:
        _, _, height, width = work.shapes[work.part.output]
        rows = tuple(work.span(lo, hi, ROWS) for lo, hi in split(height, th))
        columns = tuple(work.span(lo, hi, COLUMNS) for lo, hi in split(width, tw))
        return cls(work, rows, columns, hosted, stack, graphs)

    @cached_property
    def stacks(self) -> tuple[Stack, ...]:
        """The tiles in the order in which they run, those that run at once together."""
        return self.order()

    def order(self) -> tuple[Stack, ...]:
        return stacked(self.rows, self.columns, self.stack, in_rows=bool(self.hosted))

    def __call__(
        self, inputs: Sequence[Tensor | HostImage], vectors: Sequence[Tensor], call: Call | None = None
    ) -> Tensor:
        """The segment's output [N, C, H, W], or its mean [N, C]; autograd's backward pass runs the tiles again.

        call: needed where an input is in host memory; else the first input says where to compute.
        """
        weights, places = self.work.weights()
        call = call or Call(Place.of(inputs[0]))
        return _Tiled.apply(self, places, call, *inputs, *vectors, *weights)

    def windows(self, name: str) -> list[tuple[Range, Range]]:
        """Rows and columns of a map in each tile."""
        return [(rows.at[name], columns.at[name]) for stack in self.stacks for rows, columns in stack]

    def coming(self, inputs: Mapping[str, Tensor | HostImage], copies: Copies, place: Place) -> Iterator[Views]:
        """The inputs' windows, stack by stack."""
        each = {
            name: windows_of(x, name in self.hosted, self.windows(name), copies, place) for name, x in inputs.items()
        }
        for stack in self.stacks:
            yield {name: together(found, len(stack)) for name, found in each.items()}

    @property
    def lasting(self) -> bool:
        """Whether a window's result is kept or on its way when the next one runs, and not copied at once."""
        return bool(self.hosted) or len(self.rows) * len(self.columns) == 1


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
        beside, cast = list(vectors.values()), cast_weights(work, places, weights, around)
        fused = Fused.begin(work.pairs, bound(places, cast), around, call.place)
        run = functools.partial(forward, work, places, beside, cast, fused)
        if tiles.graphs is not None:
            run = tiles.graphs.forward(around, places, beside, cast, tiles.lasting, call.place)
        with Copies(device) as copies:
            output = Output(work, call.place, copies, work.part.output in tiles.hosted)
            coming = tiles.coming(inputs, copies, call.place)
            for stack in tiles.stacks:
                if work.random:
                    ctx.states.append(random_state(device))
                output.put(run(stack, next(coming)), stack)
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
            run = functools.partial(gradients, work, ctx.places, needed[:count], beside, cast)
            if tiles.graphs is not None:
                run = tiles.graphs.backward(around, ctx.places, needed[:count], beside, cast, tiles.lasting)
            coming = tiles.coming(inputs, copies, call.place)
            of_output = gradients_of(work, g, tiles.windows(work.part.output), tiles.hosted, copies, call.place)
            for index, each in enumerate(tiles.stacks):
                with random_again(call.place.device, ctx.states[index] if ctx.states else None):
                    _add(sums, work, each, run(each, next(coming), _gradient(work, of_output, len(each))))
            if tiles.graphs is not None:
                run.finish(sums)
            return (None, None, None, *sums.found())


def forward(
    work: Work,
    places: Mapping,
    beside: Sequence[Tensor],
    cast: Sequence[Tensor],
    fused: Fused | None,
    stack: Stack,
    views: Views,
) -> Tensor:
    """The output of a stack of windows [stack · N, C, h, w]. views: the inputs' windows, which are used up."""
    vectors = dict(zip(work.part.vectors, beside, strict=True))
    return window.run(work, *stack[0], views, vectors, bound(places, cast), fused)


def gradients(
    work: Work,
    places: Mapping,
    needed: Sequence[bool],
    beside: Sequence[Tensor],
    cast: Sequence[Tensor],
    stack: Stack,
    views: Views,
    g: Tensor,
) -> list[Tensor | None]:
    """What a stack of windows adds to the gradients of inputs (those that are `needed`), vectors and weights.

    beside, cast: leaves. views: the inputs' windows. g: the gradient of the stack's output, or of its mean. Nothing of
    the windows lives afterwards but what is returned.
    """
    own = leaves(list(views.values()), needed)
    with torch.enable_grad():
        y = forward(work, places, beside, cast, None, stack, dict(zip(views, own, strict=True)))
    everything = [*own, *beside, *cast]
    asked = [i for i, leaf in enumerate(everything) if leaf.requires_grad]
    grads = torch.autograd.grad(y, [everything[i] for i in asked], gradient_of(work, g, y), allow_unused=True)
    found: list[Tensor | None] = [None] * len(everything)
    for i, grad in zip(asked, grads, strict=True):
        found[i] = grad
    return found


def _add(sums: Sums, work: Work, stack: Stack, found: Sequence[Tensor | None]) -> None:
    """Add what `gradients` found."""
    for i, grad in enumerate(found):
        if grad is None:
            continue
        if i >= len(work.part.inputs):
            sums.add(i, grad)
            continue
        name = work.part.inputs[i]
        for part, (rows, columns) in zip(grad.chunk(len(stack)), stack, strict=True):
            sums.add(i, part, (rows.at[name], columns.at[name]))


def _gradient(work: Work, coming: Iterator[Tensor], count: int) -> Tensor:
    """The gradients of a stack's outputs, one behind the other; that of a mean is the same for all."""
    if not work.mean:
        return together(coming, count)
    same, *_ = (next(coming) for _ in range(count))
    return same


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
    g = g.repeat(y.shape[0] // g.shape[0], 1)  # of each window of a stack
    return (
        (g.to(torch.promote_types(g.dtype, torch.float32)) / (height * width))
        .to(y.dtype)[:, :, None, None]
        .expand_as(y)
    )
