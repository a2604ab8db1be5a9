"""A schedule: which maps are kept whole, and how the nodes between them run; data that goes through JSON unchanged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import nn

from frugal.sft import ranges
from frugal.sft.errors import PlanError
from frugal.sft.graph import Graph, Part, Shape, checked_shape, trace

STORE, CHECKPOINT, TILES, STRIPS = "store", "checkpoint", "tiles", "strips"
KINDS = (STORE, CHECKPOINT, TILES, STRIPS)
PLACES = ("device", "host")
BACKENDS = ("torch", "kernel")
SCHEMA_VERSION = 1
MIB = 2**20


@dataclass(frozen=True)
class Segment:
    """The nodes between kept maps.

    inputs: the kept maps that it reads. output: the map that it makes. kind: `store` (plain autograd, nothing is
    computed twice), `checkpoint` (the whole at once, computed again in the backward pass), `tiles` (th × tw tiles of
    the output) or `strips` (th strips of full width with carried rows, cut at `rows`: 0 = o_0 < … < o_th = H).
    boundary, carry: where the output and the carried rows lie between the passes, `device` or `host`.
    stack: so many tiles of one shape run at once, as one batch.
    """

    inputs: tuple[str, ...]
    output: str
    kind: str
    th: int = 1
    tw: int = 1
    rows: tuple[int, ...] = ()
    boundary: str = "device"
    carry: str = "device"
    stack: int = 1


@dataclass(frozen=True)
class Plan:
    """How a network runs on images of one shape.

    image_shape: (N, C, H, W). segments: in the order in which they run. training: whether it has a backward pass.
    backend: `torch`, or `kernel`: pairs of layers that a kernel computes together run so wherever no gradient is
    wanted, in evaluation and in the forward pass of segments that are computed again; all else runs in torch.
    budget_bytes: what it was planned for; None for a plan made by hand, which predicts nothing.
    predicted_peak_bytes: live bytes at the worst moment; composition: {what: bytes} of that moment.
    predicted_macs: multiply-adds of a step by purpose (forward, recompute, dgrad, wgrad). predicted_time_s: of a step.
    host_bytes: of boundaries and carries; h2d_bytes, d2h_bytes: copied a step. workspace_bytes: of the libraries.
    """

    image_shape: Shape
    segments: tuple[Segment, ...]
    training: bool = True
    budget_bytes: int | None = None
    predicted_peak_bytes: int | None = None
    composition: Mapping[str, int] = field(default_factory=dict)
    predicted_macs: Mapping[str, int] = field(default_factory=dict)
    predicted_time_s: float | None = None
    host_bytes: int = 0
    h2d_bytes: int = 0
    d2h_bytes: int = 0
    workspace_bytes: int = 0
    backend: str = "torch"
    torch_version: str = torch.__version__

    @classmethod
    def manual(
        cls,
        model: nn.Module,
        image_shape: Sequence[int],
        *,
        cuts: Sequence[str] = (),
        kinds: Sequence[str] | None = None,
        tiles: Sequence[tuple[int, int]] | None = None,
        stacks: Sequence[int] | None = None,
        training: bool = True,
        allow_dropout: bool = False,
        backend: str = "torch",
    ) -> Plan:
        """A plan by hand. cuts: maps to keep, besides the body's output and those whose statistics are needed.

        kinds, tiles: one a segment, in the order of their outputs; tiles is (th, tw), for strips (number of strips, 1).
        stacks: of each, how many tiles of one shape run at once. Without kinds every segment has `tiles`; without tiles
        1 × 1; without stacks tiles run one by one. Raises PlanError, ShapeError and UnsupportedOp.
        """
        shape = checked_shape(image_shape)
        graph = trace(model, allow_dropout=allow_dropout).sized(shape)
        shapes = graph.shapes(shape)
        parts = graph.cut(cuts)
        kinds = [TILES] * len(parts) if kinds is None else list(kinds)
        tiles = [(1, 1)] * len(parts) if tiles is None else list(tiles)
        stacks = [1] * len(parts) if stacks is None else list(stacks)
        if not len(kinds) == len(tiles) == len(stacks) == len(parts):
            raise PlanError(
                f"{len(kinds)} kinds, {len(tiles)} tiles and {len(stacks)} stacks for {len(parts)} segments: give one "
                f"each for the segments that end in {', '.join(part.output for part in parts)}"
            )
        segments = [
            segment(part, shapes, kind, *grid, stack=stack)
            for part, kind, grid, stack in zip(parts, kinds, tiles, stacks, strict=True)
        ]
        plan = cls(shape, tuple(segments), training, backend=backend)
        check(plan, graph, shapes)
        return plan

    def to_json(self) -> str:
        """All of it; `from_json` gives an equal plan back."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote. Raises PlanError for anything else."""
        try:
            values = json.loads(text)
            version = values.pop("schema_version")
            if version != SCHEMA_VERSION:
                raise PlanError(f"a plan of schema version {version}: this frugal reads {SCHEMA_VERSION}; plan again")
            values["segments"] = tuple(
                Segment(**each | {"inputs": tuple(each["inputs"]), "rows": tuple(each["rows"])})
                for each in values["segments"]
            )
            return cls(**values | {"image_shape": tuple(values["image_shape"])})
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            if isinstance(problem, PlanError):
                raise
            reason = str(problem).splitlines()[0]
            raise PlanError(f"no plan as Plan.to_json writes it ({reason}): write it again") from None

    def table(self) -> str:
        """For people: a line a segment, and what the peak consists of."""
        lines = [f"{'segment':<32} {'kind':<10} {'windows':>9}  place"]
        for each in self.segments:
            windows = f"{each.th} × {each.tw}" if each.kind in (TILES, STRIPS) else "1"
            windows += f" by {each.stack}" if each.stack > 1 else ""
            place = each.boundary + (f", carries on the {each.carry}" if each.kind == STRIPS else "")
            lines.append(f"{each.output:<32} {each.kind:<10} {windows:>9}  {place}")
        if self.predicted_peak_bytes is not None:
            budget = f" of {self.budget_bytes / MIB:,.1f}" if self.budget_bytes is not None else ""
            lines.append(f"peak {self.predicted_peak_bytes / MIB:,.1f}{budget} MiB")
            lines += [f"  {what:<30} {size / MIB:>14,.1f} MiB" for what, size in self.composition.items()]
        if self.predicted_macs:
            lines.append("multiply-adds " + ", ".join(f"{what} {n:,}" for what, n in self.predicted_macs.items()))
        if self.predicted_time_s is not None:
            lines.append(f"time {self.predicted_time_s:.3g} s a step")
        if self.backend != "torch":
            lines.append(f"backend {self.backend}")
        return "\n".join(lines)

    __str__ = table


def segment(part: Part, shapes: Mapping[str, Shape], kind: str, th: int = 1, tw: int = 1, **more: str | int) -> Segment:
    """A segment of so many windows; strips are cut where the largest is as small as can be. Raises PlanError."""
    rows: tuple[int, ...] = ()
    if kind == STRIPS and 1 <= th <= shapes[part.output][2]:
        sizes = {name: shape[2] for name, shape in shapes.items()}
        row_bytes = {name: prod(shapes[name]) // shapes[name][2] for name in map_names(part)}
        rows = ranges.marks(part.nodes, part.output, th, sizes, row_bytes)
    return Segment(part.inputs, part.output, kind, th, tw, rows, **more)


def map_names(part: Part) -> tuple[str, ...]:
    """Of a segment: its inputs, then its nodes."""
    return (*part.inputs, *(node.name for node in part.nodes))


def check(plan: Plan, graph: Graph, shapes: Mapping[str, Shape]) -> None:
    """Raises PlanError unless the plan is one of this network on this image shape."""
    if plan.backend not in BACKENDS:
        raise PlanError(f"backend {plan.backend!r} is none: take one of {', '.join(BACKENDS)}")
    parts = {part.output: part for part in graph.cut([each.output for each in plan.segments])}
    missing = [name for name in parts if name not in {each.output for each in plan.segments}]
    if missing:
        raise PlanError(f"the plan has no segment that ends in {missing[0]}, which must be kept whole: plan again")
    for each in plan.segments:
        _, _, height, width = shapes[each.output]
        _check_one_of("kind", each, each.kind, KINDS)
        _check_one_of("boundary", each, each.boundary, PLACES)
        _check_one_of("carry", each, each.carry, PLACES)
        if not (1 <= each.th <= height and 1 <= each.tw <= width):
            raise PlanError(
                f"{each.output}: {each.th} × {each.tw} windows of {height} × {width} positions: take from one to "
                "as many"
            )
        forced = {*graph.forced, graph.output}
        if each.boundary == "host" and (each.kind == STORE or each.output in forced):
            why = "autograd keeps what a stored segment made" if each.kind == STORE else "it is read as a whole"
            raise PlanError(f"{each.output}: its boundary cannot be on the host, for {why}: put it on the device")
        single = {STORE: (1, 1), CHECKPOINT: (1, 1), STRIPS: (each.th, 1)}.get(each.kind, (each.th, each.tw))
        if (each.th, each.tw) != single:
            raise PlanError(
                f"{each.output}: {each.kind} in {each.th} × {each.tw} windows: {single[0]} × {single[1]} it is"
            )
        _check_stack(each, parts[each.output], shapes)
        if each.kind == STRIPS:
            cuts = list(each.rows)
            if len(cuts) != each.th + 1 or cuts[0] != 0 or cuts[-1] != height or cuts != sorted(set(cuts)):
                raise PlanError(
                    f"{each.output}: strips cut at {each.rows}: {each.th + 1} rising rows from 0 to {height} are needed"
                )


def _check_stack(each: Segment, part: Part, shapes: Mapping[str, Shape]) -> None:
    most = each.th * each.tw if each.kind == TILES else 1
    if not 1 <= each.stack <= most:
        raise PlanError(f"{each.output}: {each.stack} of {most} windows at once: take from 1 to {most}")
    if each.stack > 1 and part.vectors and shapes[each.output][0] > 1:
        raise PlanError(
            f"{each.output}: {each.stack} windows at once of {shapes[each.output][0]} images, each with its own "
            f"{part.vectors[0]}: run them one by one, or train on one image at a time"
        )


def _check_one_of(what: str, each: Segment, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise PlanError(f"{each.output}: {what} {value!r} is none: take one of {', '.join(allowed)}")
