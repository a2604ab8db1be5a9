"""A segment in strips of full width with line buffers: every row of every map is computed once a pass.

Strip t makes rows [P_{t−1}, P_t) of each map from its new input rows and from a carry: the rows of each map that later
strips still read (frugal.sft.ranges). The forward pass keeps the carries; the backward pass runs from the last strip to
the first, computes a strip again from its carry, and hands the gradient of that carry to the strip before: exactly
un-truncated back-propagation through time (R. Williams and D. Zipser, 1989) with rows in time's place. Carries may wait
for it in host memory: they go there while the next strip is computed, and come back while a later one is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from frugal.sft import ranges, window
from frugal.sft.copies import Copies, flat, rooms_like
from frugal.sft.host import HostImage, Place, windows_of
from frugal.sft.ranges import COLUMNS, ROWS, Range
from frugal.sft.sums import Call, Output, Sums
from frugal.sft.surroundings import Surroundings, random_again, random_state
from frugal.sft.tiles import (
    bound,
    cast_weights,
    gradient_of,
    gradients_of,
    leaves,
    restored,
    saved,
    unpacked,
)
from frugal.sft.window import Span, Work

Carry = dict[str, Tensor]
Layouts = dict[str, tuple[torch.Size, tuple[int, ...]]]


@dataclass(frozen=True, eq=False)
class Strip:
    """One strip. rows: what it computes and reads. kept: of each map the part of what is at hand that is carried on."""

    rows: Span
    kept: Mapping[str, Range]


@dataclass(frozen=True, eq=False)
class Strips:
    """A segment with its strips, from the top. hosted: those of its inputs and output in host memory; carry: where the
    carries wait for the backward pass, `device` or `host`.
    """

    work: Work
    steps: tuple[Strip, ...]
    columns: Span
    hosted: frozenset[str] = frozenset()
    carry: str = "device"

    @classmethod
    def of(
        cls, work: Work, marks: Sequence[int], hosted: frozenset[str] = frozenset(), carry: str = "device"
    ) -> Strips:
        part, sizes = work.part, work.sizes[ROWS]
        last = ranges.produced(part.nodes, part.output, sizes[part.output], sizes)
        rows = [ranges.produced(part.nodes, part.output, mark, sizes) for mark in marks]
        first = [ranges.wanted(part.nodes, part.output, each, last, sizes, work.lazy) for each in rows]
        steps = [
            _strip(work, *pair[0], *pair[1])
            for pair in zip(itertools.pairwise(rows), itertools.pairwise(first), strict=True)
        ]
        columns = work.span(0, work.sizes[COLUMNS][part.output], COLUMNS)
        return cls(work, tuple(steps), columns, hosted, carry)

    def __call__(
        self, inputs: Sequence[Tensor | HostImage], vectors: Sequence[Tensor], call: Call | None = None
    ) -> Tensor:
        """The segment's output [N, C, H, W], or its mean [N, C]; autograd's backward pass runs the strips again.

        call: needed where an input is in host memory; else the first input says where to compute.
        """
        weights, places = self.work.weights()
        call = call or Call(Place.of(inputs[0]))
        return _Stripped.apply(self, places, call, torch.is_grad_enabled(), *inputs, *vectors, *weights)

    def windows(self, name: str) -> list[tuple[Range, Range] | None]:
        """Of each strip the rows and columns of a map that no strip before has read; None where there are none."""
        made = [step.rows.made[name] for step in self.steps]
        return [(rows, self.columns.at[name]) if rows[0] < rows[1] else None for rows in made]


def _strip(work: Work, before: Mapping, after: Mapping, kept_before: Mapping, kept_after: Mapping) -> Strip:
    """From the rows that exist before and after the strip, and the first rows that are wanted before and after it."""
    at = {name: (kept_before[name], after[name]) for name in after}
    # An activation whose input is carried in its place computes its part of the carry again.
    made = {name: at[name] if name in work.lazy else (before[name], after[name]) for name in after}
    at[work.part.output] = made[work.part.output]
    reads = {
        node.name: work.reads(node, at, made[node.name], ROWS)
        for node in work.part.nodes
        if made[node.name][0] < made[node.name][1]
    }
    kept = {
        name: (kept_after[name] - at[name][0], after[name] - at[name][0])
        for name in after
        if name not in work.lazy and kept_after[name] < after[name]
    }
    return Strip(Span(at, made, reads), kept)


class _Stripped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        strips: Strips,
        places: Mapping[tuple[str, str], int],
        call: Call,
        keep: bool,
        *tensors: Tensor | HostImage,
    ) -> Tensor:
        work, place = strips.work, call.place
        around = Surroundings.now(place.device)
        inputs, vectors, weights = unpacked(work, tensors)
        own = bound(places, cast_weights(work, places, weights, around))
        carry: Carry = {}
        kept: list[Carry] = []
        states: list[Tensor] = []
        layouts: list[Layouts] = []
        with Copies(place.device) as copies:
            coming = {
                name: windows_of(x, name in strips.hosted, strips.windows(name), copies, place)
                for name, x in inputs.items()
            }
            output = Output(work, place, copies, work.part.output in strips.hosted)
            for step in strips.steps:
                if work.random:
                    states.append(random_state(place.device))
                if keep:
                    layouts.append({name: (x.shape, x.stride()) for name, x in carry.items()})
                    kept.append(carry if strips.carry == "device" else _on_host(carry, copies))
                y, carry = _run(strips, step, _new(coming), carry, vectors, own)
                output.put(y, [(step.rows, strips.columns)])
                del y
            result = output.value()
        ctx.strips, ctx.places, ctx.call, ctx.around, ctx.states = strips, places, call, around, states
        ctx.layouts, ctx.count = layouts, len(tensors)
        ctx.image = saved(ctx, tensors, *(tensor for each in kept for tensor in each.values()))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        strips, work, around, place = ctx.strips, ctx.strips.work, ctx.around, ctx.call.place
        needed = ctx.needs_input_grad[4:]
        tensors = restored(ctx, ctx.saved_tensors[: ctx.count])
        kept, rest = [], iter(ctx.saved_tensors[ctx.count :])
        for layouts in ctx.layouts:
            kept.append([next(rest) for _ in layouts])
        inputs, _, weights = unpacked(work, tensors)
        alive = _alive(work, ctx.places, needed)
        later: Carry = {}
        with ExitStack() as stack:
            copies = stack.enter_context(Copies(place.device))
            stack.enter_context(around.again())
            first = len(tensors) - len(weights)
            cast = leaves(cast_weights(work, ctx.places, weights, around), needed[first:])
            beside = leaves(tensors[len(work.part.inputs) : first], needed[len(work.part.inputs) : first])
            sums = Sums(work, tensors, needed, len(strips.steps), ctx.call, strips.hosted, copies)
            coming = {
                name: windows_of(x, name in strips.hosted, strips.windows(name)[::-1], copies, place)
                for name, x in inputs.items()
            }
            gradients = gradients_of(work, g, strips.windows(work.part.output)[::-1], strips.hosted, copies, place)
            carries = _carries(ctx, kept, copies)
            for index in reversed(range(len(strips.steps))):
                with random_again(place.device, ctx.states[index] if ctx.states else None):
                    later = _back(
                        ctx, sums, index, _new(coming), next(carries), alive, beside, cast, next(gradients), later
                    )
            return (None, None, None, None, *sums.found())


def _new(coming: Mapping[str, Iterator[Tensor | None]]) -> dict[str, Tensor]:
    """Of each input the rows that no strip before has read; inputs without new rows are left out."""
    found = {name: next(each) for name, each in coming.items()}
    return {name: x for name, x in found.items() if x is not None}


def _on_host(carry: Carry, copies: Copies) -> Carry:
    """A carry's elements in host memory, as soon as the copies are there."""
    there = rooms_like(list(carry.values()))
    copies.send(there, [flat(x) for x in carry.values()])
    return dict(zip(carry, there, strict=True))


def _carries(ctx: Any, kept: Sequence[Sequence[Tensor]], copies: Copies) -> Iterator[Carry]:
    """What each strip began with, from the last one on; from host memory each comes while the strip after it runs."""
    if ctx.strips.carry == "device":
        for layouts, carry in zip(reversed(ctx.layouts), reversed(kept), strict=True):
            yield dict(zip(layouts, carry, strict=True))
        return
    coming = [copies.fetch(kept[-1])]
    for index in reversed(range(len(kept))):
        if index:
            coming.append(copies.fetch(kept[index - 1]))
        there = coming.pop(0)()
        layouts = ctx.layouts[index]
        yield {name: x.as_strided(*layout) for (name, layout), x in zip(layouts.items(), there, strict=True)}
        del there


def _back(ctx, sums: Sums, index: int, new: Carry, carry: Carry, alive, beside, cast, g: Tensor, later: Carry) -> Carry:
    """Add one strip's gradients; returns those of the carry that it began with. Nothing else of it lives afterwards."""
    strips, step, work = ctx.strips, ctx.strips.steps[index], ctx.strips.work
    needed = ctx.needs_input_grad[4:]
    rows = leaves(list(new.values()), [needed[work.part.inputs.index(name)] for name in new])
    own = leaves(list(carry.values()), [name in alive for name in carry])
    with torch.enable_grad():
        y, after = _run(
            strips, step, dict(zip(new, rows, strict=True)), dict(zip(carry, own, strict=True)),
            dict(zip(work.part.vectors, beside, strict=True)), bound(ctx.places, cast),
        )  # fmt: skip
    results = [(y, gradient_of(work, g, y))]
    results += [(after[name], grad) for name, grad in later.items() if after[name].requires_grad]
    results = [(value, grad) for value, grad in results if value.requires_grad]
    del y, after
    everything = [*rows, *own, *beside, *cast]
    asked = [i for i, leaf in enumerate(everything) if leaf.requires_grad]
    found: dict[int, Tensor] = {}
    if results and asked:
        grads = torch.autograd.grad(
            [value for value, _ in results],
            [everything[i] for i in asked],
            [grad for _, grad in results],
            allow_unused=True,
        )
        found = {i: grad for i, grad in zip(asked, grads, strict=True) if grad is not None}
    for i, name in enumerate(new):
        if i in found:
            at = step.rows.made[name], strips.columns.at[name]
            sums.add(work.part.inputs.index(name), found[i], at)
    skipped = len(rows) + len(own)
    for i, grad in found.items():
        if i >= skipped:
            sums.add(len(work.part.inputs) + i - skipped, grad)
    # Clones: cat's gradients are views, each of which would keep the whole window's gradient through the next strip.
    return {name: found[len(rows) + i].clone() for i, name in enumerate(carry) if len(rows) + i in found}


def _run(
    strips: Strips,
    step: Strip,
    new: Mapping[str, Tensor],
    carry: Carry,
    vectors: Mapping[str, Tensor],
    weights: Mapping[tuple[str, str], Tensor],
) -> tuple[Tensor, Carry]:
    """One strip: its output rows, and the carry after it."""
    work, values, after = strips.work, {}, {}
    overwritten = {node.inputs[0] for node in work.part.nodes if node.name in work.lazy}

    def at_hand(name: str, made: Tensor | None) -> None:
        parts = [part for part in (carry.get(name), made) if part is not None]
        if not parts:
            return
        if made is None and name in overwritten:
            parts = [parts[0].clone()]
        values[name] = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        if name in step.kept:
            lo, hi = step.kept[name]
            after[name] = values[name][:, :, lo:hi].clone()  # a view would keep the whole strip, and be overwritten

    for name in work.part.inputs:
        at_hand(name, new.get(name))
    for node in work.part.nodes:
        made = None
        if node.name in step.rows.reads:
            made = window.step(work, node, step.rows, strips.columns, values, vectors, weights)
        at_hand(node.name, made)
        del made
        for name in work.dropped[node.name]:
            values.pop(name, None)
    return values.pop(work.part.output), after


def _alive(work: Work, places: Mapping[tuple[str, str], int], needed: Sequence[bool]) -> set[str]:
    """Maps that depend on anything whose gradient is wanted."""
    part = work.part
    wanted = {name for name, need in zip((*part.inputs, *part.vectors), needed, strict=False) if need}
    offset = len(part.inputs) + len(part.vectors)
    for node in part.nodes:
        own = any(needed[offset + index] for (name, _), index in places.items() if name == node.name)
        if own or wanted.intersection((*node.inputs, *node.vectors)):
            wanted.add(node.name)
    return wanted
