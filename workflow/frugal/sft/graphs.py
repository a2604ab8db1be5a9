"""Windows of a segment as CUDA graphs: each class of them is recorded once and replayed from step to step.

A graph is bound to addresses, so it has buffers of its own: windows, the segment's vectors and weights (in the type in
which they are multiplied) and the output's gradient are copied into them before a replay; gradients of vectors and
weights are added up in float32 within the graph, those of inputs are read from it. All graphs of a network share one
pool, since nothing but their results lives from one replay to the next, and those keep their places. The pool and the
buffers stay taken between steps, beside what a plan predicts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from frugal.sft import nodes, tiles
from frugal.sft.host import Place
from frugal.sft.pairs import Fused
from frugal.sft.stacks import Stack, shape_of
from frugal.sft.sums import Sums
from frugal.sft.surroundings import Surroundings
from frugal.sft.window import Work

log = logging.getLogger(__name__)

WARM_UPS = 2  # runs before a recording, in which libraries choose algorithms and make their handles
Run = Callable[[], None]


class CannotRecord(RuntimeError):
    """A window that does not become a CUDA graph; the message says why."""


class Pool:
    """The memory that a network's graphs share."""

    @cached_property
    def handle(self) -> Any:
        return torch.cuda.graph_pool_handle()


def record(run: Run, device: torch.device, pool: Pool) -> Run:
    """What replays `run` on the current stream, to which it leaves no work. Raises CannotRecord."""
    if device.type != "cuda":
        raise CannotRecord(f"there are no CUDA graphs on {device.type}")
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    beside = torch.cuda.Stream(device)
    try:
        beside.wait_stream(before)
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                run()
        before.wait_stream(beside)
        # Only what this thread does can spoil the recording: another one may be loading the next image.
        with torch.cuda.graph(graph, pool=pool.handle, capture_error_mode="thread_local"):
            run()
    except RuntimeError as problem:  # out of memory is one too
        raise CannotRecord(str(problem).splitlines()[0]) from None
    finally:
        torch.cuda.set_stream(before)  # a recording that fails leaves its own behind
    return graph.replay


@dataclass(frozen=True, eq=False)
class Recorded:
    """One class of windows. views, g: what a replay reads; results: what it writes, the same tensors every time."""

    replay: Run
    views: Mapping[str, Tensor]
    g: Tensor | None
    results: list[Tensor | None]


class Graphs:
    """The graphs of one segment. refused: of each class of windows that runs without one, why."""

    def __init__(self, work: Work, pool: Pool) -> None:
        self.work, self.pool = work, pool
        self.refused: dict[tuple, str] = {}
        self._recorded: dict[tuple, Recorded] = {}
        self._values: dict[tuple, list[Tensor]] = {}
        self._sums: dict[tuple, list[Tensor | None]] = {}
        self._numbers: dict[tuple, int] = {}
        self._classes: dict[int, int] = {}

    def forward(
        self,
        around: Surroundings,
        places: Mapping,
        beside: Sequence[Tensor],
        cast: Sequence[Tensor],
        lasting: bool,
        place: Place,
    ) -> Pass:
        """To be called with a stack of windows, instead of `tiles.forward`, within one forward pass."""
        return self._begin(around, places, None, beside, cast, lasting, place)

    def backward(
        self,
        around: Surroundings,
        places: Mapping,
        needed: Sequence[bool],
        beside: Sequence[Tensor],
        cast: Sequence[Tensor],
        lasting: bool,
    ) -> Pass:
        """To be called instead of `tiles.gradients` within one backward pass; what it adds up comes with `finish`."""
        return self._begin(around, places, tuple(needed), beside, cast, lasting)

    def _begin(self, around, places, needed: tuple[bool, ...] | None, beside, cast, lasting: bool, place=None) -> Pass:
        both = [*beside, *cast]
        key = around, tuple((x.shape, x.dtype) for x in both)
        if key not in self._values:
            self._values[key] = [torch.empty_like(x).detach() for x in both]
        for into, x in zip(self._values[key], both, strict=True):
            into.copy_(x.detach())
        wanted = tuple(x.requires_grad and needed is not None for x in both)
        if (key, wanted) not in self._sums:
            self._sums[key, wanted] = [
                torch.zeros_like(x.detach(), dtype=torch.promote_types(x.dtype, torch.float32)) if want else None
                for x, want in zip(both, wanted, strict=True)
            ]
        for total in self._sums[key, wanted]:
            if total is not None:
                total.zero_()
        buffers = self._values[key], self._sums[key, wanted]
        return Pass(
            self, self._number((*key, wanted, needed)), places, needed, beside, cast, *buffers, lasting, around, place
        )

    def _number(self, key: tuple) -> int:
        """A number for a key: what tells passes and windows apart is long, and would be hashed for every window."""
        return self._numbers.setdefault(key, len(self._numbers))

    def class_of(self, stack: Stack) -> int:
        """The number of a stack's class: of windows of one shape and as many."""
        if id(stack) not in self._classes:  # stacks live as long as their segment, whose graphs these are
            rows, columns = stack[0]
            self._classes[id(stack)] = self._number((shape_of(rows), shape_of(columns), len(stack)))
        return self._classes[id(stack)]

    def recorded(self, key: tuple, make: Callable[[], Recorded]) -> Recorded | None:
        """The graph of a class of windows; None where there is none."""
        if key in self.refused:
            return None
        if key not in self._recorded:
            reason = refusal(self.work)
            try:
                if reason is not None:
                    raise CannotRecord(reason)
                self._recorded[key] = make()
            except CannotRecord as problem:
                if not self.refused:
                    log.warning("segment %s runs without CUDA graphs: %s", self.work.part.output, problem)
                self.refused[key] = str(problem)
                return None
        return self._recorded[key]


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over a segment's windows. number: what passes of other types, weights or needs have another of.

    needed: inputs whose gradient is wanted, None in a forward pass. beside, cast: vectors and weights; values: where
    recordings read them; sums: where they add up their gradients. lasting: results outlive a replay. around, place: in
    a forward pass, where it runs and how.
    """

    graphs: Graphs
    number: int
    places: Mapping
    needed: Sequence[bool] | None
    beside: Sequence[Tensor]
    cast: Sequence[Tensor]
    values: Sequence[Tensor]
    sums: Sequence[Tensor | None]
    lasting: bool
    around: Surroundings
    place: Place | None

    def __call__(self, stack: Stack, views: tiles.Views, *g: Tensor) -> Any:
        """As `tiles.forward`, or with the output's gradient as `tiles.gradients`, whose vectors' and weights' part is
        left out: it is in the sums."""
        layouts = tuple((x.shape, x.dtype, torch.empty_like(x, device="meta").stride()) for x in (*views.values(), *g))
        key = self.number, self.graphs.class_of(stack), layouts
        found = self.graphs.recorded(key, lambda: self._record(stack, views, g))
        if found is None:
            if not g:
                return self._forward(self.beside, self.cast, stack, views)
            return tiles.gradients(
                self.graphs.work, self.places, self.needed, self.beside, self.cast, stack, views, *g
            )  # fmt: skip
        for name, x in found.views.items():
            x.copy_(views.pop(name))
        if g:
            found.g.copy_(*g)
        found.replay()
        results = [x.clone() if self.lasting and x is not None else x for x in found.results]
        return results if g else results[0]

    def finish(self, sums: Sums) -> None:
        """Hand on the gradients of vectors and weights."""
        first = len(self.graphs.work.part.inputs)
        for index, total in enumerate(self.sums):
            if total is not None:
                sums.add(first + index, total.clone())

    def _forward(self, beside: Sequence[Tensor], cast: Sequence[Tensor], stack: Stack, views: tiles.Views) -> Tensor:
        work = self.graphs.work
        # Made within a recording, so that a replay lays out the weights that there are then.
        fused = Fused.begin(work.pairs, tiles.bound(self.places, cast), self.around, self.place)
        return tiles.forward(work, self.places, beside, cast, fused, stack, views)

    def _record(self, stack: Stack, views: tiles.Views, g: Sequence[Tensor]) -> Recorded:
        own = {name: torch.empty_like(x).copy_(x) for name, x in views.items()}
        of_output = torch.empty_like(g[0]).copy_(g[0]) if g else None
        weights = [
            x.detach().requires_grad_(total is not None) for x, total in zip(self.values, self.sums, strict=True)
        ]
        beside, cast = weights[: len(self.beside)], weights[len(self.beside) :]
        results: list[Tensor | None] = []

        def run() -> None:
            if of_output is None:
                results[:] = [self._forward(beside, cast, stack, dict(own))]
                return
            found = tiles.gradients(
                self.graphs.work, self.places, self.needed, beside, cast, stack, own, of_output
            )  # fmt: skip
            results[:] = found[: len(own)]
            for total, grad in zip(self.sums, found[len(own) :], strict=True):
                if grad is not None:
                    total.add_(grad)

        before = [None if total is None else total.clone() for total in self.sums]
        try:
            return Recorded(record(run, next(iter(own.values())).device, self.graphs.pool), own, of_output, results)
        finally:
            for total, value in zip(self.sums, before, strict=True):
                if total is not None:
                    total.copy_(value)  # without what the runs before the recording have added


def refusal(work: Work) -> str | None:
    """Why a segment's windows cannot be recorded, as far as that is known of its operations."""
    for node in work.part.nodes:
        if node.op == nodes.DROPOUT:
            return f"{node.name} draws random numbers, which are drawn again from a state that a graph does not take"
        counted = node.op == nodes.AVG_POOL and any(axis.low or axis.high or axis.ceil for axis in node.axes)
        if counted or (node.op == nodes.JOIN and "scalar" in node.attrs and node.attrs["swapped"]):
            return f"{node.name} ({node.op}) takes numbers from the host while it runs"
    return None
