"""`plan`: the schedule that does least work among those that fit a budget of bytes, known before anything runs.

A search over closed forms (frugal.sft.search, options, estimate) proposes a schedule, a dry run of it on the meta
device (frugal.sft.dryrun) says what it allocates, and where the two differ the search is repeated with the difference.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from frugal.sft import counts, estimate, options, search
from frugal.sft.calibrate import Calibration, calibrated
from frugal.sft.dryrun import Settings, dry_run, on_meta
from frugal.sft.errors import BudgetError, PlanError
from frugal.sft.graph import Graph, Shape, checked_shape, trace
from frugal.sft.options import TYPICAL, Rates, Segments
from frugal.sft.pairs import usable
from frugal.sft.plans import BACKENDS, STRIPS, Plan, segment
from frugal.sft.search import State

ROUNDS = 5  # of search and dry run: the second one is nearly always exact
CUDA_GRANULARITY = 512  # bytes: CUDA's caching allocator rounds to them
ALLOWED = ("store", "tiles", "strips")


def plan(
    model: nn.Module,
    image_shape: Sequence[int],
    budget_bytes: int,
    *,
    dtype: torch.dtype | None = None,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    device: torch.device | str | None = None,
    input_grad: bool = False,
    image_on_device: bool = True,
    resident_bytes: int = 0,
    host_budget_bytes: int = 0,
    allow: Sequence[str] = ALLOWED,
    backend: str = "torch",
    calibrate: bool | None = None,
    safety: float = 0.02,
    allow_dropout: bool = False,
) -> Plan:
    """A schedule for a model in the mode in which it is; without gradients (`torch.no_grad`) of the forward pass alone.

    image_shape: (N, C, H, W) or (C, H, W). budget_bytes: everything on the device at the worst moment of a step:
    parameters, buffers, their gradients, the image (unless not `image_on_device`), kept maps and carries, their
    gradients, windows, the libraries' workspace, and `resident_bytes` of what else lives there, such as the optimiser's
    state. Not the loss's own tensors. `safety` is the part of it that is left free.
    dtype: the image's and the kept maps', by default the parameters'; autocast: the type that convolutions compute in.
    device: by default the model's. input_grad: whether the image's gradient is wanted.
    host_budget_bytes: pinned host memory that kept maps and carries may take. allow: kinds of segments; with `tiles`
    one window for a whole segment is allowed too.
    backend: `kernel` runs pairs of layers in one kernel where no gradient is wanted and the device, the type and the
    layout allow it (`Plan.backend`); the kernels' own copies of those layers' weights are in no prediction.
    calibrate: run the largest window of each segment on the device, for workspace and time (default: on CUDA).

    Raises BudgetError with the smallest budget that works and what needs it, PlanError for arguments that make no
    sense, ShapeError and UnsupportedOp as `trace` does.
    """
    shape = checked_shape(image_shape)
    _check(budget_bytes, host_budget_bytes, resident_bytes, safety, allow, backend)
    tensors = [*model.parameters(), *model.buffers()]
    floating = next((t.dtype for t in model.parameters()), torch.float32)
    where = torch.device(device) if device is not None else tensors[0].device if tensors else torch.device("cpu")
    settings = Settings(
        dtype or floating, autocast, channels_last, input_grad, torch.is_grad_enabled(), image_on_device, allow_dropout,
        CUDA_GRANULARITY if where.type == "cuda" else 1,
    )  # fmt: skip
    if not usable(where, autocast or settings.dtype, channels_last):
        backend = "torch"
    meta = on_meta(model)
    graph = trace(meta, allow_dropout=allow_dropout).sized(shape)
    shapes = graph.shapes(shape)
    rates = TYPICAL.get(where.type, TYPICAL["cpu"])
    job = _Job(
        meta, graph, shapes, settings, tuple(allow), host_budget_bytes, resident_bytes, budget_bytes, safety, backend
    )
    chosen = _choose(job, rates, Calibration(0, None))
    if calibrate if calibrate is not None else where.type == "cuda" and _lives_on(tensors, where):
        found = calibrated(model, chosen.plan, settings, where, rates)
        chosen = _choose(job, found.rates or rates, found)
    macs = counts.step_macs(
        meta, graph, shapes, chosen.plan.segments, training=settings.training, input_grad=input_grad
    )
    return dataclasses.replace(chosen.plan, predicted_macs=macs)


@dataclass(frozen=True, eq=False)
class _Job:
    """What is planned. model, graph: on the meta device."""

    model: nn.Module
    graph: Graph
    shapes: dict[str, Shape]
    settings: Settings
    allow: tuple[str, ...]
    host_budget: int
    resident: int
    budget: int
    safety: float
    backend: str

    @property
    def target(self) -> int:
        return int(self.budget * (1 - self.safety))


@dataclass(frozen=True)
class _Chosen:
    state: State
    plan: Plan
    peak: int


def _choose(job: _Job, rates: Rates, known: Calibration) -> _Chosen:
    """The quickest schedule whose dry run fits. Raises BudgetError."""
    segments = _segments(job, rates)
    names = options.candidates(job.graph, job.shapes)
    forced, host = job.graph.forced, job.host_budget
    there = sum(_constant(job).values()) + known.workspace_bytes

    def quickest(limit: int) -> State | None:
        return search.search(names, forced, segments.open_after, segments.options, limit, host)

    found = _fitting(job, known, there, quickest)
    if found is not None:
        return found
    state = search.smallest(names, forced, segments.open_after, segments.options, host)
    if state is None:
        raise PlanError(f"allow = {job.allow}: no segment can run so; allow tiles, or strips of maps of several rows")
    least = _dry(job, state, known, there)
    if least.peak > job.target:
        raise _too_small(job, least, there)
    found = _fitting(job, known, there, quickest, first=state.peak)
    return found or least


def _fitting(
    job: _Job, known: Calibration, there: int, quickest: Callable[[int], State | None], first: int | None = None
) -> _Chosen | None:
    """Search and run dry in turn: the closed form's limit moves by what the dry run has too much or to spare."""
    limit = job.target - there if first is None else first
    best: _Chosen | None = None
    tried: set[tuple] = set()
    for _ in range(ROUNDS):
        state = quickest(limit) if limit > 0 else None
        if state is None or (state.members, state.options) in tried:
            break
        tried.add((state.members, state.options))
        chosen = _dry(job, state, known, there)
        spare = job.target - chosen.peak
        if spare >= 0 and (best is None or state.seconds < best.state.seconds):
            best = chosen
        if best is not None and spare < 0:
            break
        # What the estimate has too much may be spent; what it lacks must be made up for.
        limit = state.peak + spare if spare < 0 else limit + max(0, state.peak + there - chosen.peak)
    return best


def _dry(job: _Job, state: State, known: Calibration, there: int) -> _Chosen:
    """The state as a plan, with what its dry run says."""
    made = _plan_of(job, state)
    peak = dry_run(job.model, made, job.settings) + job.resident + known.workspace_bytes
    host, h2d, d2h = _copies(job, made)
    full = dataclasses.replace(
        made,
        budget_bytes=job.budget,
        predicted_peak_bytes=peak,
        composition=_composition(job, state, peak, known),
        predicted_time_s=state.seconds if known.rates is not None else None,
        host_bytes=host,
        h2d_bytes=h2d,
        d2h_bytes=d2h,
        workspace_bytes=known.workspace_bytes,
    )
    return _Chosen(state, full, peak)


def _plan_of(job: _Job, state: State) -> Plan:
    parts = {part.output: part for part in job.graph.cut(state.members)}
    made = [
        segment(
            parts[name], job.shapes, each.kind, each.th, each.tw, boundary=each.boundary, carry=each.carry
        )
        for name, each in zip(state.members, state.options, strict=True)
    ]  # fmt: skip
    return Plan(job.shapes[job.graph.image], tuple(made), job.settings.training, backend=job.backend)


def _composition(job: _Job, state: State, peak: int, known: Calibration) -> dict[str, int]:
    """The peak's parts. What earlier segments keep is exact in the closed form too; the rest is what is at work."""
    found = _constant(job) | {"workspace": known.workspace_bytes}
    rest = peak - sum(found.values())
    found |= {"kept maps": min(state.held, rest), f"at work: {state.binding}": max(0, rest - state.held)}
    return {what: size for what, size in found.items() if size}


def _copies(job: _Job, made: Plan) -> tuple[int, int, int]:
    """Host bytes of boundaries, their gradients and carries; bytes copied to the device and from it in a step."""
    segments = _segments(job, TYPICAL["cpu"])
    host = h2d = d2h = 0
    parts = {part.output: part for part in job.graph.cut([each.output for each in made.segments])}
    for each in made.segments:
        y = segments.bytes_of(each.output)
        if each.boundary == "host":
            # The map is written once and read by its readers twice; its gradient is written once and read twice.
            host, h2d, d2h = host + 2 * y, h2d + 4 * y, d2h + 2 * y
        if each.kind == STRIPS and each.carry == "host":
            carry = estimate.carry_bytes(parts[each.output], job.shapes, segments.itemsize) * (each.th - 1)
            host, h2d, d2h = host + carry, h2d + carry, d2h + carry
    return host, h2d, d2h


def _segments(job: _Job, rates: Rates) -> Segments:
    dtype = job.settings.autocast or job.settings.dtype
    return Segments(
        job.graph, job.shapes, dtype.itemsize, job.allow, rates, job.settings.training, job.settings.input_grad,
        job.host_budget > 0, {},
    )  # fmt: skip


def _constant(job: _Job) -> dict[str, int]:
    """Bytes that no schedule changes."""
    parameters = list(job.model.parameters())
    image = prod(job.shapes[job.graph.image]) * job.settings.dtype.itemsize
    return {
        "parameters and buffers": sum(t.nbytes for t in (*parameters, *job.model.buffers())),
        "gradients of parameters": sum(p.nbytes for p in parameters if p.requires_grad) * job.settings.training,
        "image": image * job.settings.image_on_device,
        "resident": job.resident,
    }


def _too_small(job: _Job, least: _Chosen, there: int) -> BudgetError:
    smallest = math.ceil(least.peak / (1 - job.safety))
    while int(smallest * (1 - job.safety)) < least.peak:
        smallest += 1
    binds = least.state.binding
    if least.peak <= 2 * there:
        binds = "parameters, their gradients and the image"
    elif least.state.held > least.peak / 2:
        binds = f"{len(least.state.members)} kept maps"
        if job.graph.forced:
            binds += f", {len(job.graph.forced)} of them read for their statistics or means, which eval() may spare"
    host = "" if job.host_budget else ", or give host_budget_bytes"
    return BudgetError(
        f"budget_bytes = {job.budget}: {smallest - job.budget} bytes short; the smallest that works is {smallest}, and "
        f"what needs it is {binds}; take a larger budget, a smaller image or batch{host}",
        smallest_bytes=smallest,
        binds=binds,
    )


def _lives_on(tensors: Sequence[torch.Tensor], where: torch.device) -> bool:
    return bool(tensors) and tensors[0].device.type == where.type


def _check(budget: int, host: int, resident: int, safety: float, allow: Sequence[str], backend: str) -> None:
    for name, value, least in (
        ("budget_bytes", budget, 1),
        ("host_budget_bytes", host, 0),
        ("resident_bytes", resident, 0),
    ):
        if not isinstance(value, int) or value < least:
            raise PlanError(f"{name} = {value!r}: give a whole number of bytes, {least} at least")
    if not 0 <= safety < 1:
        raise PlanError(f"safety = {safety}: give the part of the budget to leave free, from 0 to below 1")
    if backend not in BACKENDS:
        raise PlanError(f"backend {backend!r} is none: take one of {', '.join(BACKENDS)}")
    wrong = [kind for kind in allow if kind not in ALLOWED]
    if wrong or not allow:
        raise PlanError(f"allow = {tuple(allow)}: give some of {', '.join(ALLOWED)}")
