"""What a segment's windows add up to, on the device or in host memory: its output, and the gradients of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from frugal.sft import window
from frugal.sft.copies import Copies, by_rows, map_room
from frugal.sft.host import HostImage, Place
from frugal.sft.ranges import Range
from frugal.sft.window import Span, Work


class Shared:
    """The gradient of a map that several segments read, added up in one memory: autograd would keep two and make a
    third of them. Readers before the last leave it here, and autograd hears of it from the last one alone.
    """

    def __init__(self, readers: int) -> None:
        self._readers, self._left, self._task = readers, readers, -1
        self._total: Tensor | None = None

    def before(self) -> Tensor | None:
        """What other readers have added up in the backward pass that runs now."""
        task = torch._C._current_graph_task_id()
        if task != self._task:  # another pass, or one after a pass that an exception ended
            self._task, self._left, self._total = task, self._readers, None
        return self._total

    def after(self, total: Tensor) -> Tensor | None:
        """What autograd is to get of one reader, which has added to `before`."""
        self._left -= 1
        if self._left:
            self._total = total
            return None
        self._task, self._total = -1, None
        return total


@dataclass(frozen=True)
class Call:
    """One forward pass. shared: of maps that more than one segment reads."""

    place: Place
    shared: Mapping[str, Shared] = field(default_factory=dict)


class Output:
    """A segment's output, put together of its windows; or its mean, of which only the sum is kept."""

    def __init__(self, work: Work, place: Place, copies: Copies, hosted: bool) -> None:
        self._work, self._place, self._copies, self._hosted = work, place, copies, hosted
        self._result: Tensor | None = None
        self._dtype: torch.dtype | None = None

    def put(self, y: Tensor, windows: Sequence[tuple[Span, Span]]) -> None:
        """Of windows of one shape, one behind the other in the batch."""
        for part, (rows, columns) in zip(y.chunk(len(windows)), windows, strict=True):
            self._put(part, rows, columns)

    def _put(self, y: Tensor, rows: Span, columns: Span) -> None:
        """Of one window. A window that is all of the output is the output."""
        work, shape, self._dtype = self._work, self._work.shapes[self._work.part.output], y.dtype
        if work.mean:
            total = y.sum((2, 3), dtype=torch.promote_types(y.dtype, torch.float32))
            self._result = total if self._result is None else self._result.add_(total)
            return
        at = rows.at[work.part.output], columns.at[work.part.output]
        if self._hosted:
            last = self._place.channels_last
            if self._result is None:
                self._result = map_room(shape, y.dtype, self._place.device, last)
            target = by_rows(window.window_of(self._result, *at), last)
            self._copies.send([target], [by_rows(y, last).contiguous()])
            return
        if y.shape[2:] == shape[2:]:
            self._result = y
            return
        if self._result is None:
            self._result = torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=memory_format(y))
        window.window_of(self._result, *at).copy_(y)

    def value(self) -> Tensor:
        """[N, C, H, W]; of a mean [N, C] in the output's type. What went to host memory has arrived."""
        self._copies.finish()
        if not self._work.mean:
            return self._result
        _, _, height, width = self._work.shapes[self._work.part.output]
        return (self._result / (height * width)).to(self._dtype)


class Sums:
    """The gradients of a segment's tensors, added up window by window: float32 at least for what is not a map."""

    def __init__(
        self,
        work: Work,
        tensors: Sequence[Tensor | HostImage],
        needed: Sequence[bool],
        windows: int,
        call: Call,
        hosted: frozenset[str],
        copies: Copies,
    ) -> None:
        self._tensors, self._needed, self._windows = tensors, needed, windows
        self._shared: dict[int, Shared] = {}
        self._hosts: dict[int, HostSum] = {}
        self._sums: list[Tensor | None] = [None] * len(tensors)
        self._own: set[int] = set()  # sums that are no gradient of autograd's, which may be another's as well
        for index, (name, tensor) in enumerate(zip(work.part.inputs, tensors, strict=False)):
            if not needed[index]:
                continue
            before = None
            if name in call.shared:
                self._shared[index] = call.shared[name]
                before = call.shared[name].before()
            if name in hosted:
                self._hosts[index] = HostSum(tensor, before, copies, call.place)
            elif before is not None:
                self._sums[index] = before
                self._own.add(index)

    def add(self, index: int, grad: Tensor, at: tuple[Range, Range] | None = None) -> None:
        """at: the window of a map that it is the gradient of; None for the whole of a tensor."""
        if index in self._hosts:
            self._hosts[index].add(grad, *at)
            return
        tensor, total = self._tensors[index], self._sums[index]
        if at is not None and not (self._windows == 1 and grad.shape == tensor.shape):
            if total is None:
                total = self._sums[index] = torch.zeros_like(tensor)
                self._own.add(index)
            window.window_of(total, *at).add_(grad)
            return
        grad = grad.to(tensor.dtype if at is not None else torch.promote_types(tensor.dtype, torch.float32))
        if total is None:
            self._sums[index] = grad
            if index in self._shared:  # another reader is going to add to it
                self._sums[index] = grad.clone()
                self._own.add(index)
        elif index in self._own:
            total.add_(grad)
        else:
            self._sums[index] = total + grad
            self._own.add(index)

    def found(self) -> list[Tensor | None]:
        """In the tensors' own types; zeros where a gradient is wanted and none came, None for what another reader of a
        shared map hands on."""
        return [self._found(index) if needed else None for index, needed in enumerate(self._needed)]

    def _found(self, index: int) -> Tensor | None:
        tensor, total = self._tensors[index], self._sums[index]
        if index in self._hosts:
            total = self._hosts[index].value()
        total = torch.zeros_like(tensor) if total is None else total.to(tensor.dtype)
        return self._shared[index].after(total) if index in self._shared else total


class HostSum:
    """The gradient of a map in host memory. Rows that a later window may still add to stay on the device, as a band of
    full width; a window with other rows sends those away that it does not have, to which nothing may be added later.
    """

    def __init__(self, like: Tensor, before: Tensor | None, copies: Copies, place: Place) -> None:
        """before: the sum to add to, or None."""
        self._copies, self._place, self._adding = copies, place, before is not None
        self._total = before
        if before is None:
            self._total = map_room(like.shape, like.dtype, place.device, place.channels_last)
        self._band: Tensor | None = None
        self._own = False
        self._rows: Range = (0, 0)
        self._sent: list[Range] = []

    def add(self, grad: Tensor, rows: Range, columns: Range) -> None:
        """The gradient [N, C, rows, columns] of one window."""
        n, channels, _, width = self._total.shape
        grad = grad.to(self._total.dtype)
        if rows != self._rows:
            at, kept = self._leave(rows)
            whole = columns == (0, width) and kept is None
            if whole:
                self._band, self._own, self._rows = grad, False, rows
                return
            shape = n, channels, rows[1] - rows[0], width
            format_ = torch.channels_last if self._place.channels_last else torch.contiguous_format
            self._band = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=format_).zero_()
            self._own, self._rows = True, rows
            if kept is not None:
                self._band[:, :, at[0] - rows[0] : at[1] - rows[0]].copy_(kept)
        elif not self._own:
            self._band, self._own = self._band.clone(), True
        self._band[..., columns[0] : columns[1]].add_(grad)

    def _leave(self, rows: Range) -> tuple[Range, Tensor | None]:
        """Send the band's rows that are not among these; what it has of these, and where."""
        first, last = self._rows
        lo, hi = max(first, rows[0]), min(last, rows[1])
        for start, stop in ((first, min(last, rows[0])), (max(first, rows[1]), last)):
            if start < stop:
                target = by_rows(self._total[:, :, start:stop], self._place.channels_last)
                band = by_rows(self._band[:, :, start - first : stop - first], self._place.channels_last)
                self._copies.send([target], [band.contiguous()], self._adding)
                self._sent.append((start, stop))
        return (lo, hi), self._band[:, :, lo - first : hi - first] if lo < hi else None

    def value(self) -> Tensor:
        """[N, C, H, W] in host memory, when everything has arrived."""
        height = self._total.shape[2]
        self._leave((height, height))
        self._band = None
        self._copies.finish()
        if not self._adding and self._total.device.type != "meta":
            end = 0
            for start, stop in [*sorted(self._sent), (height, height)]:
                self._total[:, :, end:start].zero_()  # rows that no window reads
                end = max(end, stop)
        return self._total


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last for what is that and not contiguous as well."""
    return torch.channels_last if Place.of(x).channels_last else torch.contiguous_format
