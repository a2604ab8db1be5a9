"""Tiles of one shape that run at once, side by side in the batch: fewer and larger operations for small tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from frugal.sft.window import Span

Stack = tuple[tuple[Span, Span], ...]


def stacked(rows: Sequence[Span], columns: Sequence[Span], most: int, *, in_rows: bool = False) -> tuple[Stack, ...]:
    """The tiles of a grid, at most so many of one shape together, in an order that is always the same.

    in_rows: the order stays row-major, which gradients of maps in host memory need; together are then neighbours alone.
    """
    kinds = classes(rows), classes(columns)
    found: list[list[tuple[Span, Span]]] = []
    filling: dict[tuple[int, int], list[tuple[Span, Span]]] = {}
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            kind = kinds[0][i], kinds[1][j]
            if in_rows:
                filling = {kind: filling[kind]} if kind in filling else {}
            if kind not in filling or len(filling[kind]) == most:
                filling[kind] = []
                found.append(filling[kind])
            filling[kind].append((row, column))
    return tuple(tuple(each) for each in found)


def classes(spans: Sequence[Span]) -> tuple[int, ...]:
    """Of each span the number of its shape."""
    numbers: dict[tuple, int] = {}
    return tuple(numbers.setdefault(shape_of(span), len(numbers)) for span in spans)


def shape_of(span: Span) -> tuple:
    """All that decides along an axis what a window computes and allocates, but for where in the image it lies."""
    lengths = tuple(hi - lo for lo, hi in span.at.values())
    made = tuple(hi - lo for lo, hi in span.made.values())
    return lengths, made, tuple(span.reads.items())


def together(coming: Iterator[Tensor], count: int) -> Tensor:
    """The next windows of a map as one batch; one alone as it is."""
    windows = [next(coming) for _ in range(count)]
    return windows[0] if count == 1 else torch.cat(windows)
