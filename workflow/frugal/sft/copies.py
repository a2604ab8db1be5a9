"""Copies between a device and host memory that run beside computation, and the host memory that they reach.

Host memory is pinned, so that the device copies by itself, as long as no more than half of the machine's memory is
pinned; beyond that it is a file without a name in the folder for temporary files, mapped into memory, whose bytes pass
through small pinned buffers. Maps lie there row by row, [H, N, C, W] or [H, N, W, C], so that rows of full width are
one run of bytes. On a CPU the same copies are made at once; on the meta device host memory has no bytes at all.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from frugal.files import disk_full

BESIDE = 2  # pinned buffers that copies of unpinned memory pass through
ALIGNED = 256  # bytes: where the tensors of one piece of host memory begin


class Copies:
    """The copies of one pass, on a stream to the device and another one to the host.

    Memory of the device is that of the current stream: a copy waits for what was queued before its memory was taken,
    and what is queued after its memory is given back waits for the copy.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._to_device = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._to_host = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._staged: deque[tuple[torch.cuda.Event, Tensor]] = deque()
        self._leaving: deque[_Leaving] = deque()

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing is copied from or into memory that what comes next may take, also after an exception."""
        if self._to_device is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._to_device)
            torch.cuda.current_stream(self._device).wait_stream(self._to_host)
        self._leaving.clear()

    def fetch(self, sources: Sequence[Tensor | np.ndarray], beside: int = BESIDE) -> Callable[[], list[Tensor]]:
        """Begin to copy; what is returned gives the copies on the device, contiguous, to the current stream.

        beside: the pinned buffers that may be under way at once; where there are more, the oldest is waited for.
        """
        there = [torch.empty(tuple(x.shape), dtype=dtype_of(x), device=self._device) for x in sources]
        if self._to_device is None:
            if self._device.type != "meta":
                for copy, source in zip(there, sources, strict=True):
                    _fill(copy, source)
            return lambda: there
        ready = [self._pinned(source, beside) for source in sources]
        self._to_device.wait_stream(torch.cuda.current_stream(self._device))
        done = torch.cuda.Event()
        with torch.cuda.stream(self._to_device):
            for copy, source in zip(there, ready, strict=True):
                copy.copy_(source, non_blocking=True)
            done.record()
        self._staged += [(done, x) for x, source in zip(ready, sources, strict=True) if x is not source]

        def arrived() -> list[Tensor]:
            torch.cuda.current_stream(self._device).wait_event(done)
            return there

        return arrived

    def send(self, targets: Sequence[Tensor], tensors: Sequence[Tensor], add: bool = False) -> None:
        """Begin to copy contiguous tensors into host memory, or to add them to it; `finish` waits for the end."""
        if self._to_host is None:
            self._leaving.append(_Leaving(list(tensors), [], None))
            if self._device.type != "meta":
                for target, tensor in zip(targets, tensors, strict=True):
                    target.add_(tensor) if add else target.copy_(tensor)
        else:
            self._leaving.append(self._send(targets, tensors, add))
        while len(self._leaving) > 1:
            self._settle()

    def _send(self, targets: Sequence[Tensor], tensors: Sequence[Tensor], add: bool) -> _Leaving:
        later, done = [], torch.cuda.Event()
        self._to_host.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._to_host):
            for target, tensor in zip(targets, tensors, strict=True):
                beside = target
                if add or not target.is_contiguous() or not target.is_pinned():
                    beside = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                    later.append((target.add_ if add else target.copy_, beside))
                beside.copy_(tensor, non_blocking=True)
            done.record()
        return _Leaving(list(tensors), later, done)

    def _settle(self) -> None:
        oldest = self._leaving.popleft()
        if oldest.done is not None:
            torch.cuda.current_stream(self._device).wait_event(oldest.done)
            if oldest.later:
                oldest.done.synchronize()
        for put, beside in oldest.later:
            put(beside)

    def finish(self) -> None:
        """Wait until all that was sent has arrived."""
        while self._leaving:
            self._settle()
        if self._to_host is not None:
            self._to_host.synchronize()

    def _pinned(self, source: Tensor | np.ndarray, beside: int) -> Tensor:
        """The source itself where the device can read it, else a pinned copy."""
        if isinstance(source, Tensor) and source.is_contiguous() and source.is_pinned():
            return source
        while len(self._staged) >= max(1, beside):
            self._staged.popleft()[0].synchronize()
        return _fill(torch.empty(tuple(source.shape), dtype=dtype_of(source), pin_memory=True), source)


class _Leaving:
    """Tensors on their way to the host. later: what is done with pinned copies once the event `done` has come."""

    def __init__(
        self,
        tensors: list[Tensor],
        later: list[tuple[Callable[[Tensor], Tensor], Tensor]],
        done: torch.cuda.Event | None,
    ) -> None:
        self.tensors, self.later, self.done = tensors, later, done


def dtype_of(x: Tensor | np.ndarray) -> torch.dtype:
    """torch's name of an array's type."""
    return x.dtype if isinstance(x, Tensor) else torch.from_numpy(np.empty(0, x.dtype.newbyteorder("="))).dtype


def _fill(target: Tensor, source: Tensor | np.ndarray) -> Tensor:
    """Arrays are copied by NumPy, which takes read-only and mirrored ones."""
    if isinstance(source, Tensor):
        return target.copy_(source)
    np.copyto(target.numpy(), source)
    return target


# ---- host memory -----------------------------------------------------------------------------------------------------


def room(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Host memory for so many elements, with anything in it, near a device. Raises DiskFull where a file has to do."""
    if device.type == "meta":
        return torch.empty_strided((size,), (0,), dtype=dtype, device=device)
    size_bytes, cuda = size * dtype.itemsize, device.type == "cuda"
    if (_after(size_bytes) if cuda else size_bytes) <= memory_bytes() // 2:
        return torch.empty(size, dtype=dtype, pin_memory=cuda)
    return _mapped(size, dtype)


def map_room(shape: Sequence[int], dtype: torch.dtype, device: torch.device, channels_last: bool) -> Tensor:
    """Host memory for a map [N, C, H, W], row by row; channels_last: with a position's channels side by side."""
    n, channels, height, width = shape
    if device.type == "meta":
        return torch.empty_strided(tuple(shape), (0, 0, 0, 0), dtype=dtype, device=device)
    flat = room(prod(shape), dtype, device)
    if channels_last:
        return flat.view(height, n, width, channels).permute(1, 3, 0, 2)
    return flat.view(height, n, channels, width).permute(1, 2, 0, 3)


def by_rows(x: Tensor, channels_last: bool) -> Tensor:
    """A view of a map [N, C, H, W] in the order in which host memory has it."""
    return x.permute(2, 0, 3, 1) if channels_last else x.permute(2, 0, 1, 3)


def from_rows(x: Tensor, channels_last: bool) -> Tensor:
    """The map [N, C, H, W] of what `by_rows` gives, in the memory format that is wanted; no copy where it has it."""
    if channels_last:
        return x.permute(1, 3, 0, 2).contiguous(memory_format=torch.channels_last)
    return x.permute(1, 2, 0, 3).contiguous()


def rooms_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Host memory for dense tensors, all in one piece, each as a flat view of it."""
    if not tensors or tensors[0].device.type == "meta":
        return [room(x.numel(), x.dtype, x.device) for x in tensors]
    starts = [0]
    for x in tensors:
        starts.append(starts[-1] + -(-x.nbytes // ALIGNED) * ALIGNED)
    piece = room(starts[-1], torch.uint8, tensors[0].device)
    return [piece[start : start + x.nbytes].view(x.dtype) for start, x in zip(starts, tensors, strict=False)]


def flat(x: Tensor) -> Tensor:
    """A dense tensor's elements as they lie in memory."""
    return x.as_strided((x.numel(),), (1,))


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _after(size_bytes: int) -> int:
    """Bytes that would be pinned with so many more: torch takes powers of two and keeps what it has got."""
    stats = torch.cuda.host_memory_stats()
    taken = stats.get("active_bytes.current", stats.get("allocated_bytes.current", 0))
    return taken + (1 << max(0, size_bytes - 1).bit_length())


def _mapped(size: int, dtype: torch.dtype) -> Tensor:
    """A tensor in a file that vanishes with it. All of the file's room is taken now: later nobody could be told."""
    with tempfile.NamedTemporaryFile(prefix="frugal-") as file:
        needed = size * dtype.itemsize
        try:
            os.posix_fallocate(file.fileno(), 0, needed)
        except OSError:
            raise disk_full(Path(file.name), needed) from None
        return torch.from_file(file.name, shared=True, size=size, dtype=dtype)
