"""Addresses that managed storages have left: which of them an allocator could hand out again as one piece.

Bytes are not interchangeable on a GPU: an operator needs one free range, and evicting here and there leaves many small
ones (J. Zhang et al., "Coop: Memory is not a Commodity", NeurIPS 2023). What others put into a hole is not known here,
and neither is where an allocator's segments end, so that a hole is at most what is said.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frugal.dtr.policy import Storage


class Holes:
    """Free ranges, in order, none beside another; and where each storage lies that is there."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._places: dict[Storage, tuple[int, int]] = {}

    def take(self, storage: Storage, address: int) -> None:
        """A storage came to lie here."""
        start, end = address, address + storage.size
        if start == end:
            return
        self._places[storage] = (start, end)
        first, last = self._touching(start, end, beside=False)
        if first == last:
            return
        before, after = self._starts[first], self._ends[last - 1]
        left = [(a, b) for a, b in ((before, start), (end, after)) if a < b]
        self._starts[first:last], self._ends[first:last] = [a for a, _ in left], [b for _, b in left]

    def leave(self, storage: Storage) -> None:
        """A storage was given up."""
        place = self._places.pop(storage, None)
        if place is not None:
            first, last = self._touching(*place, beside=True)
            start, end = self._joined(*place)
            self._starts[first:last], self._ends[first:last] = [start], [end]

    def size_without(self, storage: Storage) -> int:
        """Bytes of the hole that there would be without this storage; 0 where it is not known to lie anywhere."""
        place = self._places.get(storage)
        if place is None:
            return 0
        start, end = self._joined(*place)
        return end - start

    def _touching(self, start: int, end: int, beside: bool) -> tuple[int, int]:
        """The holes that share a byte with a range, or lie beside it, as a slice."""
        if beside:
            return bisect.bisect_left(self._ends, start), bisect.bisect_right(self._starts, end)
        return bisect.bisect_right(self._ends, start), bisect.bisect_left(self._starts, end)

    def _joined(self, start: int, end: int) -> tuple[int, int]:
        first, last = self._touching(start, end, beside=True)
        if first == last:
            return start, end
        return min(start, self._starts[first]), max(end, self._ends[last - 1])
