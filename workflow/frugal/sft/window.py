"""One window of a segment: the ranges of its maps along both axes, and its nodes run on them with torch.

Padding exists only where a range leaves the map. An axis that is padded alike on both sides is padded by the operation
itself. Otherwise the input is padded once, and where an activation that keeps zero stands before, before that
activation: what it saves for its backward pass is then what the convolution saves, and no map is kept twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from frugal.sft import nodes, ranges
from frugal.sft.graph import Part, Shape
from frugal.sft.nodes import Node
from frugal.sft.norm import normalise
from frugal.sft.pairs import Fused, Pair, pairs_of
from frugal.sft.ranges import COLUMNS, ROWS, Axis, Range

Pads = tuple[int, int]
NONE: Pads = (0, 0)
ROLES = ("weight", "bias", "running_mean", "running_var")
# Nodes whose result no backward pass reads, so that the activation behind it may overwrite it.
OVERWRITTEN = (nodes.CONV, nodes.CONV_TRANSPOSE, nodes.AFFINE, nodes.NORMALISE, nodes.JOIN)


@dataclass(frozen=True)
class Read:
    """What a node takes of one input along an axis: [start, stop) of the range at hand, and `ranges.need`'s padding."""

    start: int
    stop: int
    pads: Pads


@dataclass(frozen=True)
class Span:
    """A window along one axis. at: the range of each map that is at hand; made: the range that its node computes, which
    is the same in tiles, and in strips less by the carry. reads: of each node, one an input.
    """

    at: Mapping[str, Range]
    made: Mapping[str, Range]
    reads: Mapping[str, tuple[Read, ...]]


@dataclass(frozen=True, eq=False)
class Work:
    """A segment on one image shape. mean: its output's mean over all positions is wanted instead of the output.

    backend: `torch`, or `kernel`: pairs of layers in one kernel where no gradient is wanted.
    """

    part: Part
    shapes: Mapping[str, Shape]
    mean: bool = False
    backend: str = "torch"

    @cached_property
    def sizes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Lengths of all maps along rows, along columns."""
        return tuple({name: shape[2 + axis] for name, shape in self.shapes.items()} for axis in (ROWS, COLUMNS))

    @cached_property
    def readers(self) -> dict[str, list[Node]]:
        """The nodes within the segment that read a map."""
        found: dict[str, list[Node]] = {}
        for node in self.part.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def dropped(self) -> dict[str, tuple[str, ...]]:
        """Of each node the maps that nobody reads after it."""
        last = {name: found[-1].name for name, found in self.readers.items()}
        return {
            node.name: tuple(n for n in dict.fromkeys(node.inputs) if last[n] == node.name) for node in self.part.nodes
        }

    @cached_property
    def ops(self) -> dict[str, str]:
        return {node.name: node.op for node in self.part.nodes}

    @cached_property
    def lazy(self) -> frozenset[str]:
        """Activations of a convolution's (or sum's) only reader: in strips the carry holds what they read."""
        return frozenset(node.name for node in self.part.nodes if node.op == nodes.ACTIVATION and self.alone(node))

    def alone(self, node: Node) -> bool:
        """Whether it is the only reader of a result that nobody needs unchanged."""
        source = node.inputs[0]
        return self.ops.get(source) in OVERWRITTEN and len(self.readers[source]) == 1

    @cached_property
    def padding_for(self) -> dict[str, Node]:
        """Activations that cut and pad what they read as their one reader wants it, and that reader."""
        found = {}
        for node in self.part.nodes:
            readers = self.readers.get(node.name, ())
            single = len(readers) == 1 and readers[0].op in (nodes.CONV, nodes.AVG_POOL)
            if single and node.name in self.lazy and isinstance(node.module, nodes.ZERO_KEEPING):
                found[node.name] = readers[0]
        return found

    @cached_property
    def padded_before(self) -> frozenset[str]:
        return frozenset(node.name for node in self.padding_for.values())

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        return pairs_of(self.part, self.padded_before) if self.backend == "kernel" else ()

    @property
    def random(self) -> bool:
        return nodes.DROPOUT in self.ops.values()

    def span(self, lo: int, hi: int, axis: int) -> Span:
        """The window that makes [lo, hi) of the output."""
        at = ranges.walk(self.part.nodes, self.part.output, lo, hi, self.sizes[axis], axis)
        return Span(at, at, {node.name: self.reads(node, at, at[node.name], axis) for node in self.part.nodes})

    def reads(self, node: Node, at: Mapping[str, Range], made: Range, axis: int) -> tuple[Read, ...]:
        """What a node takes of each input, of which `at` says what is at hand, to make a range."""
        found = []
        for name in node.inputs:
            lo, hi, low, high = ranges.need(node.axes[axis], *made, self.sizes[axis][name])
            found.append(Read(lo - at[name][0], hi - at[name][0], (low, high)))
        return tuple(found)

    def weights(self) -> tuple[list[Tensor], dict[tuple[str, str], int]]:
        """The parameters and buffers of the segment, each once, and where each node finds its own."""
        found: list[Tensor] = []
        places: dict[tuple[str, str], int] = {}
        known: dict[int, int] = {}
        for node in self.part.nodes:
            for role in ROLES if node.op != nodes.NORMALISE else ROLES[:2]:
                tensor = getattr(node.module, role, None)
                if isinstance(tensor, Tensor):
                    if id(tensor) not in known:
                        known[id(tensor)] = len(found)
                        found.append(tensor)
                    places[node.name, role] = known[id(tensor)]
        return found, places

    def cast_weights(self) -> frozenset[tuple[str, str]]:
        """Those that autocast casts: of convolutions."""
        convolutions = [node.name for node in self.part.nodes if node.op in (nodes.CONV, nodes.CONV_TRANSPOSE)]
        return frozenset((name, role) for name in convolutions for role in ROLES[:2])


def run(
    work: Work,
    rows: Span,
    columns: Span,
    values: dict[str, Tensor],
    vectors: Mapping[str, Tensor],
    weights: Mapping[tuple[str, str], Tensor],
    fused: Fused | None = None,
) -> Tensor:
    """The segment's output [N, C, rows, columns] for a window. values: the windows of its inputs, which are used up.

    fused: what runs pairs of layers in one kernel.
    """
    done: set[str] = set()
    for node in work.part.nodes:
        pair = fused.at.get(node.name) if fused is not None else None
        y = None if pair is None else _pair(work, fused, pair, rows, columns, values)
        if y is not None:
            values[pair.names[-1]] = y
            done |= set(pair.names)
        if node.name not in done:
            values[node.name] = step(work, node, rows, columns, values, vectors, weights)
        for name in work.dropped[node.name]:
            values.pop(name, None)
    return values.pop(work.part.output)


def _pair(work: Work, fused: Fused, pair: Pair, rows: Span, columns: Span, values: Mapping[str, Tensor]):
    """Two layers at once as the nodes behind them expect it; None where no kernel computes them."""
    (name,), output = pair.first.inputs, pair.last
    (row,), (column,) = rows.reads[pair.first.name], columns.reads[pair.first.name]
    x = cropped(values[name], row, column)
    first = rows.at[name][0] + row.start, columns.at[name][0] + column.start
    y = fused(pair, x, first, (rows.made[output.name], columns.made[output.name]))
    return None if y is None else _for_reader(work, output, y, rows, columns)[0]


def step(
    work: Work,
    node: Node,
    rows: Span,
    columns: Span,
    values: Mapping[str, Tensor],
    vectors: Mapping[str, Tensor],
    weights: Mapping[tuple[str, str], Tensor],
) -> Tensor:
    """One node on a window."""
    reads = list(zip(rows.reads[node.name], columns.reads[node.name], strict=True))
    x = [values[name] for name in node.inputs]
    if node.name not in work.padded_before:
        x = [cropped(each, *read) for each, read in zip(x, reads, strict=True)]
    own = {role: weights.get((node.name, role)) for role in ROLES}
    module = node.module
    if node.op == nodes.ACTIVATION:
        return _activation(work, node, x.pop(), rows, columns)
    if node.op == nodes.CONV:
        y, padding = _padded(work, node, x.pop(), reads[0], 0.0)
        return functional.conv2d(y, own["weight"], own["bias"], module.stride, padding, module.dilation, module.groups)
    if node.op == nodes.CONV_TRANSPOSE:
        return _transposed(module, x.pop(), reads[0], own)
    if node.op == nodes.MAX_POOL:
        y, padding = _padded(work, node, x.pop(), reads[0], float("-inf"))
        return functional.max_pool2d(y, module.kernel_size, module.stride, padding, module.dilation)
    if node.op == nodes.AVG_POOL:
        y, padding = _padded(work, node, x.pop(), reads[0], 0.0)
        return _average(work, node, y, padding, rows, columns)
    if node.op == nodes.AFFINE:
        statistics = own["running_mean"], own["running_var"]
        return functional.batch_norm(x.pop(), *statistics, own["weight"], own["bias"], False, 0.0, module.eps)
    if node.op == nodes.NORMALISE:
        return normalise(x.pop(), vectors[node.vectors[0]], own["weight"], own["bias"])
    if node.op == nodes.CAT:
        return torch.cat(x, 1)
    if node.op == nodes.UPSAMPLING:
        y = functional.interpolate(
            x.pop(), scale_factor=tuple(float(axis.stride) for axis in node.axes), mode="nearest"
        )
        return functional.pad(y, (*reads[0][1].pads, *reads[0][0].pads)) if _any(reads[0]) else y
    if node.op == nodes.DROPOUT:
        drop = functional.dropout2d if isinstance(module, nn.Dropout2d) else functional.dropout
        return drop(x.pop(), module.p, True)
    operands = [*x, *(vectors[name] for name in node.vectors)]
    if "scalar" in node.attrs:
        operands.append(node.attrs["scalar"])
    if node.attrs.get("swapped"):
        operands.reverse()
    if not isinstance(operands[0], Tensor):
        operands[0] = operands[1].new_tensor(operands[0])
    return node.call(*operands)


def cropped(x: Tensor, row: Read, column: Read) -> Tensor:
    """What a node takes of a map's window, before padding."""
    if (row.start, row.stop) != (0, x.shape[2]):
        x = x[:, :, row.start : row.stop]
    return x if (column.start, column.stop) == (0, x.shape[3]) else x[..., column.start : column.stop]


def _any(reads: tuple[Read, Read]) -> bool:
    return any(read.pads != NONE for read in reads)


def _explicit(axis: Axis, pads: Pads, pool: bool) -> bool:
    """Whether an axis' padding cannot be left to the operation."""
    return pads[0] != pads[1] or pads[0] < 0 or (pool and 2 * pads[0] > axis.kernel)


def _beside(node: Node, reads: tuple[Read, Read]) -> tuple[Pads, Pads]:
    """The padding of rows and columns that has to be added to the input."""
    pool = node.op in (nodes.MAX_POOL, nodes.AVG_POOL)
    return tuple(
        read.pads if _explicit(axis, read.pads, pool) else NONE for axis, read in zip(node.axes, reads, strict=True)
    )


def _padded(work: Work, node: Node, x: Tensor, reads: tuple[Read, Read], value: float) -> tuple[Tensor, Pads]:
    """The input with the padding that the operation cannot add, and the padding that is left to it."""
    beside = _beside(node, reads)
    left = tuple(0 if pads != NONE else read.pads[0] for pads, read in zip(beside, reads, strict=True))
    if beside != (NONE, NONE) and node.name not in work.padded_before:
        x = functional.pad(x, (*beside[1], *beside[0]), value=value)
    return x, left


def _activation(work: Work, node: Node, x: Tensor, rows: Span, columns: Span) -> Tensor:
    x, padded = _for_reader(work, node, x, rows, columns)
    module, free = node.module, padded or work.alone(node)
    if free and isinstance(module, nn.ReLU):
        return functional.relu_(x)
    if free and isinstance(module, nn.LeakyReLU) and module.negative_slope > 0:
        return functional.leaky_relu_(x, module.negative_slope)
    return _function(module, x)


def _for_reader(work: Work, node: Node, x: Tensor, rows: Span, columns: Span) -> tuple[Tensor, bool]:
    """What an activation reads or gives, cut and padded where its reader leaves that to it; whether it is padded."""
    reader = work.padding_for.get(node.name)
    if reader is None or reader.name not in rows.reads:  # a strip may bring it nothing to do
        return x, False
    (row,), (column,) = rows.reads[reader.name], columns.reads[reader.name]
    x = cropped(x, row, column)
    top, side = _beside(reader, (row, column))
    padded = (top, side) != (NONE, NONE)
    return functional.pad(x, (*side, *top)) if padded else x, padded


def _function(module: nn.Module, x: Tensor) -> Tensor:
    """The activation, never in place."""
    if isinstance(module, nn.ReLU6):
        return functional.relu6(x)
    if isinstance(module, nn.ReLU):
        return functional.relu(x)
    if isinstance(module, nn.LeakyReLU):
        return functional.leaky_relu(x, module.negative_slope)
    if isinstance(module, nn.GELU):
        return functional.gelu(x, approximate=module.approximate)
    if isinstance(module, nn.SiLU):
        return functional.silu(x)
    if isinstance(module, nn.Hardswish):
        return functional.hardswish(x)
    return torch.sigmoid(x)


def _transposed(
    module: nn.ConvTranspose2d, x: Tensor, reads: tuple[Read, Read], own: Mapping[str, Tensor | None]
) -> Tensor:
    """Rows and columns beside the result are cropped by the operation where both sides agree, else behind it."""
    inside = tuple(max(0, -max(read.pads)) for read in reads)
    rest = [(low + p, high + p) for (low, high), p in zip((read.pads for read in reads), inside, strict=True)]
    later = any(extra > 0 for pads in rest for extra in pads)  # beside all windows stands the bias alone
    bias = own["bias"]
    y = functional.conv_transpose2d(
        x, own["weight"], None if later else bias, module.stride, inside, 0, module.groups, module.dilation
    )
    if rest != [NONE, NONE]:
        y = functional.pad(y, (*rest[1], *rest[0]))
    return y + bias[:, None, None] if later and bias is not None else y


def _average(work: Work, node: Node, x: Tensor, padding: Pads, rows: Span, columns: Span) -> Tensor:
    module, (kh, kw) = node.module, (axis.kernel for axis in node.axes)
    divisor = module.divisor_override or kh * kw
    y = functional.avg_pool2d(x, (kh, kw), module.stride, padding, divisor_override=divisor)
    if module.divisor_override:
        return y
    counts = [
        _counts(axis, span.made[node.name], size[node.inputs[0]], module.count_include_pad)
        for axis, span, size in zip(node.axes, (rows, columns), work.sizes, strict=True)
    ]
    if all(count == axis.kernel for axis, found in zip(node.axes, counts, strict=True) for count in found):
        return y
    down, across = (
        torch.tensor([axis.kernel / max(count, 1) for count in found], dtype=y.dtype, device=y.device)
        for axis, found in zip(node.axes, counts, strict=True)
    )
    return y * (down[:, None] * across)


def _counts(axis: Axis, made: Range, size: int, padding_too: bool) -> list[int]:
    """Of each window along an axis the elements that its mean divides by: PyTorch's avg_pool2d."""
    found = []
    for index in range(*made):
        first = index * axis.stride - axis.low
        last = min(first + axis.kernel, size + axis.high)
        found.append(last - first if padding_too else min(last, size) - max(first, 0))
    return found


def window_of(x: Tensor, rows: Range, columns: Range) -> Tensor:
    """A view of a map."""
    return x[:, :, rows[0] : rows[1], columns[0] : columns[1]]
