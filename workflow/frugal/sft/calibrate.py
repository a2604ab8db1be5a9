"""What a dry run cannot know of a device: the libraries' workspace, and the time of a multiply-add and of a copy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from frugal.clock import Clock, SystemClock
from frugal.memory import LiveBytes
from frugal.sft import nodes, window
from frugal.sft.dryrun import Settings
from frugal.sft.estimate import node_macs
from frugal.sft.graph import trace
from frugal.sft.options import Rates
from frugal.sft.plans import STRIPS, Plan, Segment
from frugal.sft.ranges import COLUMNS, ROWS, Range, split
from frugal.sft.window import Span, Work

RUNS = 3  # timed ones of a window, after one that lets libraries choose their algorithms; the quickest counts
COPY_BYTES = 64 * 2**20
PASSES = 3  # forward, and the gradients of data and of weights


@dataclass(frozen=True)
class Calibration:
    """workspace_bytes: the most that any window took beyond its tensors. rates: None before anything was measured."""

    workspace_bytes: int
    rates: Rates | None


def calibrated(
    model: nn.Module, plan: Plan, settings: Settings, device: torch.device, rates: Rates, clock: Clock | None = None
) -> Calibration:
    """Run the largest window of each segment of a plan for real, forward and backward, with random numbers.

    The model lies on the device and stays as it is. rates: what is not measured is taken from there (launches, and on
    a CPU copies). On a CPU the workspace counts 0: torch's allocator there does not tell it.
    """
    clock = clock or SystemClock()
    graph = trace(model, allow_dropout=settings.allow_dropout).sized(plan.image_shape)
    shapes = graph.shapes(plan.image_shape)
    parts = {part.output: part for part in graph.cut([each.output for each in plan.segments])}
    workspace, seconds, macs = 0, 0.0, 0
    for each in plan.segments:
        work = Work(parts[each.output], shapes, mean=False)
        rows, columns = _largest(work, each)
        run = _window(work, rows, columns, settings, device)
        run()
        workspace = max(workspace, _workspace(run, device))
        seconds += min(_seconds(run, device, clock) for _ in range(RUNS))
        macs += PASSES * _macs(work, rows, columns)
    copy_bytes_s = _copy_rate(device, clock) if device.type == "cuda" else rates.copy_bytes_s
    mac_s = seconds / macs if macs else rates.mac_s
    return Calibration(workspace, Rates(mac_s, rates.launch_s, copy_bytes_s))


def _largest(work: Work, segment: Segment) -> tuple[Span, Span]:
    """The spans of the window with most elements along each axis; a strip counts as a tile of its rows."""
    _, _, height, width = work.shapes[work.part.output]
    rows = list(itertools.pairwise(segment.rows)) if segment.kind == STRIPS else split(height, segment.th)
    columns = split(width, 1 if segment.kind == STRIPS else segment.tw)
    return _most(work, rows, ROWS), _most(work, columns, COLUMNS)


def _most(work: Work, ranges: list[Range], axis: int) -> Span:
    spans = [work.span(lo, hi, axis) for lo, hi in ranges]
    return max(spans, key=lambda span: sum(hi - lo for lo, hi in span.at.values()))


def _window(work: Work, rows: Span, columns: Span, settings: Settings, device: torch.device) -> Callable[[], None]:
    """One window, forward and backward where that is wanted, on random numbers."""
    weights, places = work.weights()
    own = {key: weights[index] for key, index in places.items()}
    asked = [w for w in weights if w.requires_grad and settings.training]
    values = {name: _random(work, name, rows, columns, settings, device) for name in work.part.inputs}
    vectors = _vectors(work, device)

    def run() -> None:
        leaves = {name: value.detach().requires_grad_(settings.training) for name, value in values.items()}
        with torch.set_grad_enabled(settings.training), _autocast(settings, device):
            y = window.run(work, rows, columns, dict(leaves), vectors, own)
        if settings.training:
            torch.autograd.grad(y, [*leaves.values(), *asked], torch.ones_like(y), allow_unused=True)

    return run


def _random(work: Work, name: str, rows: Span, columns: Span, settings: Settings, device: torch.device) -> Tensor:
    n, channels, _, _ = work.shapes[name]
    extents = [hi - lo for lo, hi in (rows.at[name], columns.at[name])]
    x = torch.rand((n, channels, *extents), dtype=settings.dtype, device=device)
    return x.to(memory_format=torch.channels_last) if settings.channels_last else x


def _vectors(work: Work, device: torch.device) -> Mapping[str, Tensor]:
    """Ones of the shapes in which statistics and means come."""
    found = {}
    for node in work.part.nodes:
        for name in node.vectors:
            n, channels, _, _ = work.shapes[node.inputs[0]]
            shape = (2, 1, channels) if node.op == nodes.NORMALISE else (n, channels, 1, 1)
            found[name] = torch.ones(shape, device=device)
    return found


def _autocast(settings: Settings, device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, settings.autocast, enabled=settings.autocast is not None)


def _macs(work: Work, rows: Span, columns: Span) -> int:
    found = 0
    for node in work.part.nodes:
        each, place = node_macs(node, work.shapes)
        found += each * prod(hi - lo for lo, hi in (rows.at[place], columns.at[place]))
    return found


def _workspace(run: Callable[[], None], device: torch.device) -> int:
    """Bytes that CUDA's allocator had at its peak beyond the tensors."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    allocated = torch.cuda.max_memory_allocated(device) - before
    with LiveBytes(granularity=512) as live:
        run()
    return max(0, allocated - live.peak)


def _seconds(run: Callable[[], None], device: torch.device, clock: Clock) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock.ns()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock.ns() - start) / 1e9


def _copy_rate(device: torch.device, clock: Clock) -> float:
    """Bytes a second from pinned host memory to the device."""
    host = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty_like(host, device=device)

    def copy() -> None:
        there.copy_(host, non_blocking=True)

    copy()
    return COPY_BYTES / min(_seconds(copy, device, clock) for _ in range(RUNS))
