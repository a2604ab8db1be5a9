"""Which rows (or columns) of a node's input a range of its output needs: half-open ranges of Python integers.

Each spatial axis stands alone. For a window with kernel k, stride s, dilation d and low padding p over an input of
length S, output [lo, hi) reads from a = lo·s − p to b = (hi − 1)·s − p + d·(k − 1) + 1, of which [max(0, a), min(S, b))
exists and the rest is padding. A node that several others read has the hull of what they need, and each takes its part.

Nodes are anything with `name`, `inputs` (names) and `axes` (an Axis for rows, one for columns), producers first.
`sizes` maps each name, inputs included, to its length along the axis.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

POINTWISE, WINDOW, TRANSPOSED, UPSAMPLE = "pointwise", "window", "transposed", "upsample"
ROWS, COLUMNS = 0, 1
Range = tuple[int, int]
Need = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Axis:
    """What a node does along one axis.

    kind: `pointwise`; `window` (convolution, pooling); `transposed` (its padding is cropped off the output, `high` less
    by the output padding); `upsample` (each element `stride` times). ceil: PyTorch's ceil_mode.
    """

    kind: str = POINTWISE
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    low: int = 0
    high: int = 0
    ceil: bool = False

    @property
    def extent(self) -> int:
        """Elements from the first to the last that one window touches."""
        return self.dilation * (self.kernel - 1) + 1

    def size(self, size: int) -> int:
        """The output's length for an input of this length; 0 or less where no window fits."""
        if self.kind == POINTWISE:
            return size
        if self.kind == UPSAMPLE:
            return size * self.stride
        if self.kind == TRANSPOSED:
            return (size - 1) * self.stride - self.low - self.high + self.extent
        free = size + self.low + self.high - self.extent
        if not self.ceil:
            return free // self.stride + 1
        windows = -(-free // self.stride) + 1
        # A window that begins beyond the input and its low padding does not exist (PyTorch's rule).
        return windows - 1 if (windows - 1) * self.stride >= size + self.low else windows


def need(axis: Axis, lo: int, hi: int, size: int) -> Need:
    """What output [lo, hi) needs of an input of length `size`: (lo, hi, pad_lo, pad_hi).

    Windows: elements of padding before and after the range. Transposed and upsample: elements to add to the output that
    the range gives. Negative ones are cropped. A window that lies in the padding alone has one element of the input,
    which the negative padding takes away again. ValueError for an empty range.
    """
    if not 0 <= lo < hi:
        raise ValueError(f"range [{lo}, {hi}): it must hold at least one element, from 0 on")
    if axis.kind == POINTWISE:
        return lo, hi, 0, 0
    if axis.kind == WINDOW:
        return _window(lo * axis.stride - axis.low, (hi - 1) * axis.stride - axis.low + axis.extent, size)
    if axis.kind == UPSAMPLE:
        first, last = lo // axis.stride, -(-hi // axis.stride)
        return first, last, first * axis.stride - lo, hi - last * axis.stride
    first = -(-(lo + axis.low - axis.extent + 1) // axis.stride)
    last = (hi - 1 + axis.low) // axis.stride + 1
    last = min(size, last)
    first = min(max(0, first), last - 1)  # between two elements' windows the one before is taken, and cropped
    start, end = first * axis.stride - axis.low, (last - 1) * axis.stride - axis.low + axis.extent
    if end <= lo or hi <= start:  # nothing of it is wanted: all of the output is beside what the element gives
        return first, last, -(end - start), hi - lo
    return first, last, start - lo, hi - end


def _window(a: int, b: int, size: int) -> Need:
    lo, hi = max(0, a), min(size, b)
    if lo < hi:
        return lo, hi, lo - a, b - hi
    lo = 0 if b <= 0 else size - 1
    return lo, lo + 1, -1, b - a


def split(n: int, parts: int) -> list[Range]:
    """[0, n) in `parts` ranges whose lengths differ by at most one: [n·i // parts, n·(i + 1) // parts)."""
    if not 1 <= parts <= n:
        raise ValueError(f"{parts} parts of {n} elements: from 1 to {n} are possible")
    return [(n * i // parts, n * (i + 1) // parts) for i in range(parts)]


class Part(Protocol):
    """What of a node the functions below look at."""

    name: str
    inputs: tuple[str, ...]
    axes: tuple[Axis, Axis]


def walk(nodes: Sequence[Part], output: str, lo: int, hi: int, sizes: Mapping[str, int], axis: int) -> dict[str, Range]:
    """From [lo, hi) of the output back to the inputs: the range of each name that is computed or read."""
    found = {output: (lo, hi)}
    for node in reversed(nodes):
        if node.name not in found:
            continue
        for name in node.inputs:
            first, last, _, _ = need(node.axes[axis], *found[node.name], sizes[name])
            before = found.get(name, (first, last))
            found[name] = min(first, before[0]), max(last, before[1])
    return found


def computed(nodes: Sequence[Part], output: str, parts: int, sizes: Mapping[str, int], axis: int) -> dict[str, int]:
    """For each name the elements that all `parts` tiles together compute or read: Σ over tiles of the range's length.

    Rows and columns multiply: a grid of tiles computes computed(rows)·computed(columns) positions of a node.
    """
    total: dict[str, int] = {}
    for lo, hi in split(sizes[output], parts):
        for name, (first, last) in walk(nodes, output, lo, hi, sizes, axis).items():
            total[name] = total.get(name, 0) + last - first
    return total


def shape_classes(
    nodes: Sequence[Part], output: str, parts: int, sizes: Mapping[str, int], axis: int
) -> dict[tuple, list[int]]:
    """Tiles that run the same shapes: {class: indices of its tiles}. A class holds each node's length, and the place in
    each producer's range and the padding with which it reads it.
    """
    found: dict[tuple, list[int]] = {}
    for index, (lo, hi) in enumerate(split(sizes[output], parts)):
        spans = walk(nodes, output, lo, hi, sizes, axis)
        found.setdefault(_shapes(nodes, spans, sizes, axis), []).append(index)
    return found


def _shapes(nodes: Iterable[Part], spans: Mapping[str, Range], sizes: Mapping[str, int], axis: int) -> tuple:
    shapes = []
    for node in nodes:
        if node.name in spans:
            lo, hi = spans[node.name]
            reads = [need(node.axes[axis], lo, hi, sizes[name]) for name in node.inputs]
            starts = [spans[name][0] for name in node.inputs]
            shapes.append(
                (node.name, hi - lo, *((r[0] - s, r[1] - s, *r[2:]) for r, s in zip(reads, starts, strict=True)))
            )
    return tuple(shapes)


# ---- strips ----------------------------------------------------------------------------------------------------------


def produced(
    nodes: Sequence[Part], output: str, mark: int, sizes: Mapping[str, int], axis: int = ROWS
) -> dict[str, int]:
    """Rows of each name that exist once [0, mark) of the output is computed (P of the line-buffer schedule).

    A transposed window within the segment gives all the rows that its inputs make complete, asked for or not: else the
    next strip would multiply the same inputs again.
    """
    found = dict.fromkeys((output, *(name for node in nodes for name in (node.name, *node.inputs))), 0)
    found[output] = mark
    for node in reversed(nodes):
        if found[node.name] == 0:
            continue
        step, last = node.axes[axis], 0
        for name in node.inputs:
            last = need(step, 0, found[node.name], sizes[name])[1]
            found[name] = max(found[name], last)
        if step.kind == TRANSPOSED and node.name != output:
            found[node.name] = max(found[node.name], min(sizes[node.name], last * step.stride - step.low))
    return found


def wanted(
    nodes: Sequence[Part],
    output: str,
    rows: Mapping[str, int],
    last: Mapping[str, int],
    sizes: Mapping[str, int],
    lazy: Collection[str] = (),
    axis: int = ROWS,
) -> dict[str, int]:
    """First row of each name that later strips still read (K); the carry is [wanted, produced), empty at the output.

    rows: `produced` after this strip; last: `produced` after the last one, where a name is finished. lazy: pointwise
    nodes whose input is carried instead of their output; their carry is computed again.
    """
    found: dict[str, int] = {}
    readers: dict[str, list[Part]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    for name in (output, *(node.name for node in reversed(nodes)), *(name for name in readers)):
        if name in found:
            continue
        first = rows[name]
        for node in readers.get(name, ()) if name != output else ():
            if node.name in lazy:
                first = min(first, found[node.name])
            elif rows[node.name] < last[node.name]:
                at = rows[node.name]
                first = min(first, need(node.axes[axis], at, at + 1, sizes[name])[0])
        found[name] = first
    return found


def carried(
    nodes: Sequence[Part], output: str, mark: int, sizes: Mapping[str, int], lazy: Collection[str] = ()
) -> dict[str, int]:
    """Rows of each name in the carry after [0, mark) of the output; names without any are left out."""
    rows, last = produced(nodes, output, mark, sizes), produced(nodes, output, sizes[output], sizes)
    first = wanted(nodes, output, rows, last, sizes, lazy)
    return {name: rows[name] - first[name] for name in rows if name not in lazy and rows[name] > first[name]}


def marks(
    nodes: Sequence[Part], output: str, parts: int, sizes: Mapping[str, int], row_bytes: Mapping[str, int]
) -> tuple[int, ...]:
    """0 = o_0 < o_1 < … < o_parts = n: cuts of the output's rows whose largest strip has the fewest bytes.

    The first strip also computes the halo, so equal rows would make it the largest. row_bytes: bytes of one row of each
    name; names that are not in it count nothing. ValueError for more parts than rows.
    """
    n = sizes[output]
    split(n, parts)
    total = [0]
    for mark in range(1, n + 1):
        rows = produced(nodes, output, mark, sizes)
        total.append(sum(row_bytes.get(name, 0) * count for name, count in rows.items()))
    least, most = max(b - a for a, b in itertools.pairwise(total)), total[-1]
    while least < most:
        middle = (least + most) // 2
        if len(_greedy(total, middle)) - 1 <= parts:
            most = middle
        else:
            least = middle + 1
    cuts = _greedy(total, most)
    while len(cuts) - 1 < parts:  # fewer strips reach the same bytes: halve the largest, which makes none larger
        at = max(
            (i for i in range(1, len(cuts)) if cuts[i] - cuts[i - 1] > 1),
            key=lambda i: total[cuts[i]] - total[cuts[i - 1]],
        )
        cuts.insert(at, (cuts[at - 1] + cuts[at]) // 2)
    return tuple(cuts)


def _greedy(total: Sequence[int], limit: int) -> list[int]:
    """Cuts with as many rows a strip as the limit allows; each strip has one at least."""
    cuts = [0]
    while cuts[-1] < len(total) - 1:
        cuts.append(max(cuts[-1] + 1, bisect.bisect_right(total, total[cuts[-1]] + limit) - 1))
    return cuts
