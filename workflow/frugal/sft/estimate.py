"""Bytes and multiply-adds of every way to run a segment, in closed form: what the planner's search compares.

Output [lo, hi) of a segment reads rows [A·lo − C, A·hi + B) of each of its maps, as long as the image's border is far:
A is the product of the strides between, B and C are the halo. So h rows of output need min(S, A·h + B + C) rows of a
map of S, and T tiles compute S + (T − 1)·(B + C) of them. A window's memory follows from those sizes by going through
its operations once forward and once backward, keeping what PyTorch's autograd keeps. All of it is computed for many
tilings at once.

The search needs only that the order be right: the schedule that it finds is run on the meta device, which is exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from frugal.sft import nodes, ranges
from frugal.sft.graph import Part, Shape
from frugal.sft.nodes import Node
from frugal.sft.window import Work

INDEX_BYTES = 8  # torch's max pooling keeps int64 indices
SAVES_OUTPUT = (nn.ReLU, nn.Sigmoid)  # the activations whose backward reads what they gave, not what they got
MOST_TILES = 256  # along one axis; more tiles than that are all halo


@dataclass(frozen=True)
class Reach:
    """Along one axis: output [lo, hi) of a segment reads [scale·lo − before, scale·hi + after) of a map."""

    scale: float
    before: float
    after: float

    @property
    def halo(self) -> float:
        """What two neighbouring tiles both read."""
        return max(0.0, self.before + self.after)

    def extent(self, rows: np.ndarray, size: int) -> np.ndarray:
        """Elements of a map of this size that so many of output need."""
        return np.minimum(size, np.ceil(self.scale * rows + self.halo))

    def together(self, parts: np.ndarray, size: int) -> np.ndarray:
        """Elements of a map of this size that so many tiles compute together."""
        return np.minimum(size * parts, size + (parts - 1) * self.halo)


def reaches(part: Part, axis: int) -> dict[str, Reach]:
    """Of each map of a segment, its inputs included."""
    found = {part.output: Reach(1.0, 0.0, 0.0)}
    for node in reversed(part.nodes):
        here = found[node.name]
        for name in node.inputs:
            below = _below(node.axes[axis], here)
            seen = found.get(name, below)
            found[name] = Reach(below.scale, max(below.before, seen.before), max(below.after, seen.after))
    return found


def _below(axis: ranges.Axis, here: Reach) -> Reach:
    if axis.kind == ranges.WINDOW:
        after = here.after * axis.stride - axis.stride - axis.low + axis.extent
        return Reach(here.scale * axis.stride, here.before * axis.stride + axis.low, after)
    if axis.kind == ranges.UPSAMPLE:
        return Reach(here.scale / axis.stride, here.before / axis.stride, (here.after + axis.stride - 1) / axis.stride)
    if axis.kind == ranges.TRANSPOSED:
        before = (here.before - axis.low + axis.extent - 1) / axis.stride
        return Reach(here.scale / axis.stride, before, (here.after - 1 + axis.low) / axis.stride + 1)
    return here


@dataclass(frozen=True)
class Tilings:
    """Ways to run one segment, an element of each array a way; bytes beyond the segment's inputs and output.

    th, tw: output tiles (strips: th strips). macs: of one forward pass over all windows. windows: how many there are.
    forward, backward: the worst moment of a window without and with recomputation and gradients.
    saved: what a plain forward pass keeps for its backward pass.
    """

    th: np.ndarray
    tw: np.ndarray
    windows: np.ndarray
    macs: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    saved: np.ndarray


def grids(part: Part, shapes: Mapping[str, Shape], itemsize: int) -> Tilings:
    """Tiles th × tw with tw ≤ th: images are stored row by row, and wide tiles have the least halo for their bytes."""
    _, _, height, width = shapes[part.output]
    pairs = [(th, tw) for th in _counts(height) for tw in _counts(width) if tw <= max(th, 1)]
    th, tw = (np.array(values, dtype=np.float64) for values in zip(*pairs, strict=True))
    rows, columns = reaches(part, ranges.ROWS), reaches(part, ranges.COLUMNS)
    tile_rows, tile_columns = np.ceil(height / th), np.ceil(width / tw)
    areas = {
        name: rows[name].extent(tile_rows, shapes[name][2]) * columns[name].extent(tile_columns, shapes[name][3])
        for name in rows
    }
    computed = {
        name: rows[name].together(th, shapes[name][2]) * columns[name].together(tw, shapes[name][3]) for name in rows
    }
    forward, backward, saved = window_bytes(part, areas, shapes, itemsize)
    return Tilings(th, tw, th * tw, macs(part, computed, shapes), forward, backward, saved)


def strips(part: Part, shapes: Mapping[str, Shape], itemsize: int) -> tuple[Tilings, np.ndarray]:
    """Strips of the full width, and the bytes of all their carries together: nothing is computed twice."""
    height = shapes[part.output][2]
    th = np.array(_counts(height), dtype=np.float64)
    rows = reaches(part, ranges.ROWS)
    carry = carried_rows(part, rows)
    areas = {}
    for name, reach in rows.items():
        _, _, size, width = shapes[name]
        # A first strip of one row computes the halo as well, however many strips there are.
        new = np.maximum(reach.scale * np.ceil(height / th), reach.scale + reach.after)
        areas[name] = np.minimum(size, np.ceil(new + carry.get(name, 0.0))) * width
    forward, backward, saved = window_bytes(part, areas, shapes, itemsize, carry)
    full = {name: np.full_like(th, shapes[name][2] * shapes[name][3]) for name in rows}
    return Tilings(th, np.ones_like(th), th, macs(part, full, shapes), forward, backward, saved), (
        th - 1
    ) * carry_bytes(part, shapes, itemsize)


def beside_hosted(
    part: Part, hosted: Collection[str], shapes: Mapping[str, Shape], itemsize: int, t: Tilings, strips: bool
) -> Tilings:
    """The same ways where those inputs lie in host memory: with the windows and gradients that are on their way.

    Of each input the next window comes while one is computed. Gradients of rows that a later window may add to stay on
    the device, a band of full width; rows that none adds to leave as copies, of which the last ones may still be under
    way when others follow (frugal.sft.sums.HostSum).
    """
    _, _, height, width = shapes[part.output]
    rows, columns = reaches(part, ranges.ROWS), reaches(part, ranges.COLUMNS)
    coming = bands = leaving = np.zeros_like(t.th)
    for name in hosted:
        n, channels, size, wide = shapes[name]
        new = np.minimum(size, np.ceil(rows[name].scale * np.ceil(height / t.th)))
        read = new if strips else rows[name].extent(np.ceil(height / t.th), size)
        across = wide if strips else columns[name].extent(np.ceil(width / t.tw), wide)
        coming = coming + read * across * (n * channels * itemsize)
        bands = bands + read * wide * (n * channels * itemsize)
        leaving = leaving + new * wide * (n * channels * itemsize)
    several, parts = t.windows > 1, t.th > 1
    ahead = coming * several
    # A window that is as wide as the map is a band itself.
    during = t.backward + ahead + np.where(parts, bands + leaving, bands * (t.tw > 1))
    between = ahead + np.where(parts, coming + 2 * bands + 2 * leaving, 2 * bands)
    return dataclasses.replace(t, forward=t.forward + ahead, backward=np.maximum(during, between))


def carry_bytes(part: Part, shapes: Mapping[str, Shape], itemsize: int) -> int:
    """Bytes of one carry far from the borders: rows of each map times its width, channels and images."""
    rows = carried_rows(part, reaches(part, ranges.ROWS))
    return sum(int(rows[name] * shapes[name][3] * shapes[name][0] * shapes[name][1] * itemsize) for name in rows)


def carried_rows(part: Part, rows: Mapping[str, Reach]) -> dict[str, float]:
    """Rows of each map that the next strip still reads, far from the borders."""
    first: dict[str, float] = {}
    for node in part.nodes:
        axis = node.axes[ranges.ROWS]
        if axis.kind != ranges.WINDOW:
            continue
        for name in node.inputs:
            kept = rows[name].after - (rows[node.name].after * axis.stride - axis.low)
            first[name] = max(first.get(name, 0.0), kept)
    return {name: kept for name, kept in first.items() if kept > 0}


def node_macs(node: Node, shapes: Mapping[str, Shape]) -> tuple[int, str]:
    """Multiply-adds of one position, over all channels of all images, and the map whose positions count."""
    if node.op not in (nodes.CONV, nodes.CONV_TRANSPOSE):
        return 0, node.name
    place = node.name if node.op == nodes.CONV else node.inputs[0]
    return shapes[place][0] * node.module.weight.numel(), place


def macs(part: Part, computed: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> np.ndarray:
    """Multiply-adds of one forward pass that computes so many positions of each map."""
    found = 0.0
    for node in part.nodes:
        each, place = node_macs(node, shapes)
        if each:
            found = found + each * computed[place]
    return found + np.zeros_like(next(iter(computed.values())))


def in_place(part: Part) -> dict[str, str]:
    """Activations that overwrite what nobody else reads and no backward pass needs: → that map."""
    work = Work(part, {})
    return {
        node.name: node.inputs[0]
        for node in part.nodes
        if isinstance(node.module, nn.ReLU | nn.LeakyReLU) and node.op == nodes.ACTIVATION and work.alone(node)
    }


def window_bytes(
    part: Part,
    areas: Mapping[str, np.ndarray],
    shapes: Mapping[str, Shape],
    itemsize: int,
    carried: Collection[str] = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a window with these positions of each map: bytes of (forward, forward and backward, what is saved between).

    carried: maps whose last rows the next strip reads too. Their gradient comes from there and from here: both and the
    sum, each as large as the window, are there at once.
    """
    size = {name: area * (shapes[name][0] * shapes[name][1] * itemsize) for name, area in areas.items()}
    zero = np.zeros_like(next(iter(size.values())))
    same = in_place(part)
    root = {name: same.get(name, name) for name in size}
    last = {root[name]: node for node in part.nodes for name in node.inputs}
    saver, extra = _saved(part, root, size, itemsize)
    plain = recorded = sum((size[name] for name in part.inputs), zero)
    forward = peak = plain
    for node in part.nodes:
        made = zero if node.name in same else size[node.name]
        plain, recorded = plain + made, recorded + made + extra.get(node.name, zero)
        forward, peak = np.maximum(forward, plain), np.maximum(peak, recorded)
        for name in {root[name] for name in node.inputs}:
            if last[name] is node:
                plain = plain - size[name]
                if name not in saver:
                    recorded = recorded - size[name]
    gradients = {part.output: size[part.output]}
    live = recorded + size[part.output]
    for node in reversed(part.nodes):
        mine = gradients.pop(node.name)
        if node.name in carried:
            peak = np.maximum(peak, live + 2 * mine)
        for name in node.inputs:
            again = size[name] if name in gradients else zero
            peak = np.maximum(peak, live + size[name] + again)
            if name not in gradients:
                live = live + size[name]
                gradients[name] = size[name]
        peak = np.maximum(peak, live)
        live = live - mine - extra.get(node.name, zero)
        for name in {root[name] for name in (*node.inputs, node.name)}:
            if saver.get(name) is node and name not in part.inputs:
                live = live - size[name]
    beside = {*part.inputs, root[part.output]}
    kept = sum((size[name] for name in saver if name not in beside), zero) + sum(extra.values(), zero)
    return forward, peak, kept


def _saved(part: Part, root: Mapping[str, str], size: Mapping[str, np.ndarray], itemsize: int):
    """What autograd keeps: (of each map the first node that keeps it, the last to need it; bytes beside the maps)."""
    saver: dict[str, Node] = {}
    extra: dict[str, np.ndarray] = {}
    for node in part.nodes:
        names: Sequence[str] = ()
        if node.op in (nodes.CONV, nodes.CONV_TRANSPOSE, nodes.MAX_POOL, nodes.AVG_POOL, nodes.AFFINE, nodes.NORMALISE):
            names = node.inputs
        elif node.op == nodes.ACTIVATION:
            keeps_result = isinstance(node.module, SAVES_OUTPUT) or root[node.name] != node.name
            names = (node.name,) if keeps_result else node.inputs
        elif node.op == nodes.JOIN and getattr(node.call, "__name__", "") in ("mul", "div"):
            names = node.inputs if "scalar" not in node.attrs else ()
        elif node.op == nodes.DROPOUT:
            extra[node.name] = size[node.name]  # the mask with its factor
        if node.op == nodes.MAX_POOL:
            extra[node.name] = size[node.name] * (INDEX_BYTES / itemsize)
        for name in names:
            saver.setdefault(root[name], node)
    return saver, extra


def _counts(size: int) -> list[int]:
    """Numbers of parts that are worth trying: 1, 2, 3, 4, 6, 8, 12, … and one element a part."""
    found = {1, size} | {2**power for power in range(1, 9)} | {3 * 2**power for power in range(7)}
    return sorted(count for count in found if count <= min(size, MOST_TILES))
