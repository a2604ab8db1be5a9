"""`SegmentedSequential`: a model that runs segment by segment, as a plan says, and gives the model's own gradients."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from frugal.sft import nodes
from frugal.sft.errors import PlanError, ShapeError, UnsupportedOp
from frugal.sft.graph import Graph, Part, Shape, trace
from frugal.sft.graphs import Graphs, Pool
from frugal.sft.host import HostImage, Place
from frugal.sft.nodes import Node
from frugal.sft.norm import spatial_mean, statistics
from frugal.sft.plans import STORE, STRIPS, Plan, Segment, check
from frugal.sft.stored import Stored
from frugal.sft.strips import Strips
from frugal.sft.sums import Call, Shared
from frugal.sft.surroundings import Surroundings
from frugal.sft.tiles import Tiles
from frugal.sft.window import Work

__all__ = ["Segment", "SegmentedSequential", "schedule"]

Runner = Callable[[Sequence[Tensor | HostImage], Sequence[Tensor], Call], Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """What makes one value: a segment (`part` and `run`), or a node that runs on whole maps or vectors.

    dropped: values that nothing reads after it.
    """

    output: str
    part: Part | None
    run: Runner | None
    node: Node | None
    dropped: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A plan made ready for one network: graph and shapes are those of its images.

    readers: of each map that several segments read in windows, or whose mean or statistics are read too, how many do.
    """

    graph: Graph
    shapes: Mapping[str, Shape]
    steps: tuple[Step, ...]
    readers: Mapping[str, int]

    def __call__(self, x: Tensor | HostImage, place: Place | None = None) -> Tensor:
        """The model's output. place: where and how to compute, by default as a tensor x lies there."""
        call = Call(place or Place.of(x), {name: Shared(count) for name, count in self.readers.items()})
        values: dict[str, Tensor | HostImage] = {self.graph.image: x}
        for step in self.steps:
            values[step.output] = self._value(step, values, call)
            for name in step.dropped:
                del values[name]
        return self.graph.head(values.pop(self.graph.output))

    def _value(self, step: Step, values: Mapping[str, Tensor | HostImage], call: Call) -> Tensor:
        if step.part is not None and step.run is not None:
            inputs = [values[name] for name in step.part.inputs]
            return step.run(inputs, [values[name] for name in step.part.vectors], call)
        return _whole(step.node, values, self.shapes, call)


class SegmentedSequential(nn.Module):
    """A model that runs in segments: images [N, C, H, W] → what the model gives, with the same gradients.

    Images are a tensor on the model's device, or a HostImage, whose windows go there as they are wanted.

    It shares the model's parameters, buffers and submodules under their own names: state_dict, named_parameters,
    train, to and requires_grad_ are the model's. Any model that torch.fx traces into supported nodes will do.

    plan: how to run, for one shape of images; another shape raises ShapeError. Without it, `frugal.sft.plan` makes one
    for each new shape under `budget_bytes`, which may put maps into `host_budget_bytes` of host memory and run pairs of
    layers by the `backend` kernel. Without either, one segment runs as `checkpoint` does.
    allow_dropout: dropout in the body draws another mask than the model's. A second derivative raises RuntimeError.
    graphs: with a plan on a GPU, tiles are recorded as CUDA graphs, one a shape, and replayed from then on, which
    spares the launches of small ones. It takes memory beside the plan's: the segments' weights again, and the largest
    tile's bytes between steps too. `unrecorded` says which segments have tiles that run without, and why.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan | None = None,
        *,
        budget_bytes: int | None = None,
        host_budget_bytes: int = 0,
        allow_dropout: bool = False,
        graphs: bool = False,
        backend: str = "torch",
    ) -> None:
        super().__init__()
        if plan is not None and budget_bytes is not None:
            raise PlanError("plan and budget_bytes together: give the plan, or the budget to plan under")
        if plan is not None and backend != "torch":
            raise PlanError("plan and backend together: a plan has its own; give it to Plan.manual or to plan")
        if graphs and plan is None:
            raise PlanError("graphs without a plan: their memory is in no budget; plan first, then give the plan")
        # Not as a submodule, which would put "model." before every name.
        self.__dict__["model"] = model
        for shared in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[shared] = model.__dict__[shared]
        self.training = model.training
        self.plan, self.budget_bytes, self.allow_dropout = plan, budget_bytes, allow_dropout
        self.host_budget_bytes, self.graphs, self.backend = host_budget_bytes, graphs, backend
        self._graph: Graph | None = None
        self._schedules: dict[Any, Schedule] = {}
        if plan is not None:
            self._schedule(plan.image_shape)

    def train(self, mode: bool = True) -> SegmentedSequential:
        """As the model's; the network is traced again on the next call."""
        self.model.train(mode)
        self.training = mode
        return self

    def forward(self, x: Tensor | HostImage) -> Tensor:
        if isinstance(x, HostImage):
            return self._schedule(x.shape, x)(x, Place.of_model(self.model))
        if not isinstance(x, Tensor) or x.dim() != 4 or not x.is_floating_point():
            what = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ShapeError(f"the image is {what}: give a floating-point tensor [N, C, H, W], or a HostImage")
        return self._schedule(tuple(x.shape), x)(x)

    def _schedule(self, shape: Shape, x: Tensor | HostImage | None = None) -> Schedule:
        """The schedule for images of a shape; x: such an image, where a plan may have to be made for it."""
        if self.plan is not None and shape != self.plan.image_shape:
            raise ShapeError(
                f"images {shape}: the plan is for {self.plan.image_shape}; plan for this shape, or give "
                "budget_bytes instead"
            )
        if self._graph is None or not self._graph.current:
            self._graph = trace(self.model, allow_dropout=self.allow_dropout)
            self._schedules.clear()
        settings = {} if self.plan is not None or self.budget_bytes is None else _settings(self.model, x)
        key = shape, torch.is_grad_enabled(), *settings.values()
        if key not in self._schedules:
            made = self.plan or self._planned(shape, settings)
            self._schedules[key] = schedule(self._graph, made, graphs=self.graphs)
        return self._schedules[key]

    @property
    def unrecorded(self) -> dict[str, str]:
        """{segment: why some of its tiles ran without a CUDA graph}, of those that have run with `graphs`."""
        steps = [step for ready in self._schedules.values() for step in ready.steps]
        graphs = {step.output: step.run.graphs for step in steps if isinstance(step.run, Tiles) and step.run.graphs}
        return {name: next(iter(each.refused.values())) for name, each in graphs.items() if each.refused}

    def _planned(self, shape: Shape, settings: Mapping[str, Any]) -> Plan:
        if self.budget_bytes is None:
            return Plan.manual(self.model, shape, allow_dropout=self.allow_dropout, backend=self.backend)
        from frugal.sft.planner import plan

        settings = {**settings, "host_budget_bytes": self.host_budget_bytes, "backend": self.backend}
        return plan(self.model, shape, self.budget_bytes, allow_dropout=self.allow_dropout, **settings)


def _settings(model: nn.Module, x: Tensor | HostImage) -> dict[str, Any]:
    """How an image is going to run, in the planner's words."""
    place = Place.of_model(model) if isinstance(x, HostImage) else Place.of(x)
    return {
        "dtype": place.dtype,
        "autocast": Surroundings.now(place.device).autocast,
        "channels_last": place.channels_last,
        "device": place.device,
        "input_grad": x.requires_grad,
        "image_on_device": isinstance(x, Tensor),
    }


def schedule(graph: Graph, plan: Plan, *, graphs: bool = False) -> Schedule:
    """Make a plan ready; graphs: to record its tiles. Raises PlanError for another network's."""
    graph = graph.sized(plan.image_shape)
    shapes = graph.shapes(plan.image_shape)
    check(plan, graph, shapes)
    segments = {each.output: each for each in plan.segments}
    parts = {part.output: part for part in graph.cut(segments)}
    hosted = frozenset(each.output for each in plan.segments if each.boundary == "host")
    pool = Pool() if graphs else None
    made: list[Step] = []
    for node in graph.nodes:
        if node.name in parts:
            part = parts[node.name]
            mean = graph.head.mean is not None and node.name == graph.output
            run = _runner(Work(part, shapes, mean, plan.backend), segments[node.name], hosted, pool)
            made.append(Step(node.name, part, run, None, ()))
        elif node.whole:
            made.append(Step(node.name, None, None, node, ()))
    read: set[str] = {graph.output}
    steps: list[Step] = []
    for step in reversed(made):
        names = {*step.part.inputs, *step.part.vectors} if step.part else {*step.node.inputs, *step.node.vectors}
        steps.append(dataclasses.replace(step, dropped=tuple(sorted(names - read))))
        read |= names
    windowed = [name for step in made if isinstance(step.run, Tiles | Strips) for name in step.part.inputs]
    windowed += [name for step in made if step.node for name in step.node.inputs]
    readers = {name: count for name, count in Counter(windowed).items() if count > 1}
    return Schedule(graph, shapes, tuple(reversed(steps)), readers)


def _runner(work: Work, segment: Segment, hosted: frozenset[str], pool: Pool | None) -> Runner:
    beside = hosted.intersection((*work.part.inputs, work.part.output))
    if segment.kind == STORE:
        return Stored(work, beside)
    if segment.kind == STRIPS:
        return Strips.of(work, segment.rows, beside, segment.carry)
    graphs = None if pool is None else Graphs(work, pool)
    return Tiles.of(work, segment.th, segment.tw, beside, segment.stack, graphs)


def _whole(node: Node, values: Mapping[str, Tensor | HostImage], shapes: Mapping[str, Shape], call: Call) -> Tensor:
    """A node that runs on whole maps or on vectors."""
    if node.op == nodes.VECTOR:
        return node.call(values, shapes)
    (name,) = node.inputs
    if isinstance(values[name], HostImage):
        raise UnsupportedOp(node.name, "the mean of an image in host memory", "give the image as a tensor")
    shared = call.shared.get(name)
    if node.op == nodes.MEAN:
        return spatial_mean(values[name], node.attrs["keepdim"], shared)
    return statistics(node.name.removesuffix("_statistics"), node.module, values[name], shared)
