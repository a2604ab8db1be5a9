"""Multiply-adds of a step by what they are for, without running it at its size."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from frugal.memory import MacCounter
from frugal.sft import nodes
from frugal.sft.estimate import node_macs
from frugal.sft.graph import Graph, Part, Shape
from frugal.sft.plans import STORE, TILES, Segment
from frugal.sft.ranges import COLUMNS, ROWS, computed

PURPOSES = ("forward", "recompute", "dgrad", "wgrad")


def step_macs(
    model: nn.Module,
    graph: Graph,
    shapes: Mapping[str, Shape],
    segments: Sequence[Segment],
    *,
    training: bool = True,
    input_grad: bool = False,
) -> dict[str, int]:
    """{forward, recompute, dgrad, wgrad} of one step, as `frugal.memory.MacCounter` counts them.

    model: of the meta device, the one that `graph` is of. The head, and what runs between segments, is counted by
    running the model there once; a convolution of a segment costs what its windows' ranges say.
    """
    wants = _wants_gradient(graph, input_grad)
    parts = {part.output: part for part in graph.cut([each.output for each in segments])}
    found = _beside(model, graph, shapes, wants, training, input_grad)
    for each in segments:
        part = parts[each.output]
        grid = (each.th, each.tw) if each.kind == TILES else (1, 1)
        _add(found, part, shapes, grid, wants, training, recompute=each.kind != STORE)
    return found


def vanilla_macs(model: nn.Module, image_shape: Shape, *, training: bool = True, input_grad: bool = False):
    """The same of the untiled model, which is run on the meta device; batch norm and dropout cost none."""
    plain = copy.deepcopy(model).eval()
    for p in plain.parameters():
        p.grad = None
    dtype = next((p.dtype for p in plain.parameters()), torch.float32)
    x = torch.empty(image_shape, dtype=dtype, device="meta", requires_grad=input_grad and training)
    with MacCounter() as count, torch.set_grad_enabled(training):
        y = plain(x)
        if training and y.requires_grad:
            y.backward(torch.empty_like(y))
    return {purpose: getattr(count, purpose) for purpose in PURPOSES}


def _beside(model, graph: Graph, shapes, wants, training: bool, input_grad: bool) -> dict[str, int]:
    """What the segments do not do: all of the model less its body's convolutions."""
    found = vanilla_macs(model, shapes[graph.image], training=training, input_grad=input_grad)
    body = dict.fromkeys(PURPOSES, 0)
    whole = Part(tuple(n for n in graph.nodes if not n.whole), (graph.image,), (), graph.output)
    _add(body, whole, shapes, (1, 1), wants, training, recompute=False)
    return {purpose: found[purpose] - body[purpose] for purpose in PURPOSES}


def _add(found: dict[str, int], part: Part, shapes, grid: tuple[int, int], wants, training: bool, recompute: bool):
    rows, columns = (
        _positions(part, parts, {name: shape[2 + axis] for name, shape in shapes.items()}, axis)
        for axis, parts in zip((ROWS, COLUMNS), grid, strict=True)
    )
    for node in part.nodes:
        each, place = node_macs(node, shapes)
        if not each:
            continue
        macs = each * rows[place] * columns[place]
        found["forward"] += macs
        if not training or not wants[node.name]:
            continue
        found["recompute"] += macs * recompute
        found["dgrad"] += macs * wants[node.inputs[0]]
        found["wgrad"] += macs * node.module.weight.requires_grad


def _positions(part: Part, parts: int, sizes: Mapping[str, int], axis: int) -> Mapping[str, int]:
    return sizes if parts == 1 else computed(part.nodes, part.output, parts, sizes, axis)


def _wants_gradient(graph: Graph, input_grad: bool) -> dict[str, bool]:
    """Whether the gradient of each node's value is computed in an untiled step."""
    found = {graph.image: input_grad}
    for node in graph.nodes:
        own = node.module is not None and any(p.requires_grad for p in node.module.parameters())
        vector = node.op == nodes.VECTOR  # its weights are not its node's
        found[node.name] = own or vector or any(found[name] for name in (*node.inputs, *node.vectors))
    return found
