"""The machine under an arm: what a regime needs of it, for a CPU and for a CUDA GPU.

Only what cannot be said in torch's own words the same way for both is here; the order in which a regime calls it is in
frugal.timing.regimes. The tests inject fakes of these protocols.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

import torch

from frugal.errors import FrugalError
from frugal.timing.arms import Unsupported
from frugal.timing.faults import one_line

FLUSH_BYTES_MIN = 64 << 20
LLC_BYTES_UNKNOWN = 32 << 20  # a server's usual last-level cache, where the system does not say


class Event(Protocol):
    """torch.cuda.Event's part that is used: a mark in the device's queue."""

    def record(self) -> None: ...

    def query(self) -> bool:
        """Whether the device has come past it."""

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to `end`, both of them done."""


class Graph(Protocol):
    def replay(self) -> None: ...


class Device(Protocol):
    """What every device has. `cache_bytes` is its last-level cache, `uuid` that of a GPU's board."""

    kind: str
    key: str
    uuid: str | None
    cache_bytes: int
    memory_bytes: int

    def active(self) -> AbstractContextManager:
        """Makes this device, and on a GPU its session's stream, torch's current one."""

    def flush(self, mode: str) -> None:
        """Drives the data of earlier runs out of the last-level cache; `mode` is `write` or `write_read`."""

    def synchronize(self) -> None:
        """Waits for all work of the device."""

    def join(self) -> None:
        """Waits for the current stream alone: work on another stream is not an arm's result."""

    def synchronises(self, run: Callable[[], object]) -> bool:
        """Whether `run` waits for the device in its middle; it is called to find out. On a CPU nothing can."""

    def load(self) -> None:
        """One unit of full load (some milliseconds), and waits for it."""

    def release(self) -> None:
        """Gives cached memory back."""


class QueueDevice(Device, Protocol):
    """A device with a queue of its own: work is enqueued by the host and timed by events in the queue."""

    hz: float

    def sleep(self, cycles: int) -> None:
        """Enqueues a kernel that holds the queue back for `cycles` of the device's clock."""

    def event(self) -> Event: ...

    def capture(self, body: Callable[[], object]) -> Graph:
        """Captures what `body` enqueues; raises Unsupported with the driver's text where it cannot be."""


def device_of(record: Mapping[str, object]) -> CpuDevice | CudaDevice:
    """The device that a device file describes (frugal.provenance.device_record)."""
    if record["device_kind"] == "cuda":
        return CudaDevice(str(record["device_key"]))
    return CpuDevice(str(record["device_key"]), llc_bytes=record.get("llc_bytes"))  # type: ignore[arg-type]


class CpuDevice:
    """The CPU that torch runs on. `threads` is set for torch and Numba by the session, not here."""

    kind = "cpu"
    uuid = None

    def __init__(self, key: str = "cpu", llc_bytes: int | None = None, memory_bytes: int | None = None) -> None:
        self.key = key
        self.cache_bytes = llc_bytes or LLC_BYTES_UNKNOWN
        self.memory_bytes = memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._stream: torch.Tensor | None = None
        self._matrices: torch.Tensor | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        yield

    def flush(self, mode: str) -> None:
        """Reads max(64 MB, 2 × LLC) with all threads, which leaves no dirty lines in either mode."""
        if self._stream is None:
            self._stream = torch.ones(max(FLUSH_BYTES_MIN, 2 * self.cache_bytes) // 4, dtype=torch.float32)
        self._stream.sum()

    def synchronize(self) -> None:
        """Nothing: an operation on a CPU has ended when it returns."""

    def join(self) -> None:
        """Nothing: an operation on a CPU has ended when it returns."""

    def synchronises(self, run: Callable[[], object]) -> bool:
        return False

    def load(self) -> None:
        if self._matrices is None:
            self._matrices = torch.rand(512, 512, generator=torch.Generator().manual_seed(0))
        torch.mm(self._matrices, self._matrices)

    def release(self) -> None:
        """Nothing: torch's CPU allocator keeps no cache."""


class CudaDevice:
    """One CUDA GPU, on a side stream of its own: warm-up, capture and replay happen on the same stream."""

    kind = "cuda"

    def __init__(self, key: str = "cuda", index: int = 0) -> None:
        if not torch.cuda.is_available():
            raise FrugalError("no CUDA device is visible to torch: run on a machine with one, or time on the CPU")
        properties = torch.cuda.get_device_properties(index)
        self.key = key
        self.index = index
        self.uuid = str(properties.uuid)
        self.cache_bytes = int(properties.L2_cache_size)
        self.memory_bytes = int(properties.total_memory)
        self.stream = torch.cuda.Stream(index)
        self._hz: float | None = None
        self._written: torch.Tensor | None = None
        self._read: torch.Tensor | None = None
        self._sink: torch.Tensor | None = None
        self._matrices: torch.Tensor | None = None
        self._abandoned: list[torch.cuda.CUDAGraph] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        with torch.cuda.device(self.index):
            outer = torch.cuda.current_stream()
            self.stream.wait_stream(outer)
            with torch.cuda.stream(self.stream):
                yield
            # a context that an arm has killed fails here too; the session finds that out by itself
            with suppress(RuntimeError):
                outer.wait_stream(self.stream)

    def flush(self, mode: str) -> None:
        """Overwrites max(64 MB, 2 × L2), as Triton and nvbench do; `write_read` then reads as much clean memory."""
        if self._written is None:
            self._written = self._flush_buffer()
        self._written.zero_()
        if mode == "write_read":
            if self._read is None or self._sink is None:
                self._read = self._flush_buffer()
                self._sink = torch.empty((), dtype=torch.int32, device=self._read.device)
            torch.amax(self._read, 0, out=self._sink)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.index)

    def join(self) -> None:
        torch.cuda.current_stream(self.index).synchronize()

    def synchronises(self, run: Callable[[], object]) -> bool:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        except RuntimeError as error:
            if "synchronizing CUDA operation" not in str(error):
                raise
            return True
        finally:
            torch.cuda.set_sync_debug_mode(before)
        return False

    def load(self) -> None:
        if self._matrices is None:
            self._matrices = torch.rand(4096, 4096, device=f"cuda:{self.index}")
        torch.mm(self._matrices, self._matrices)
        self.join()

    def release(self) -> None:
        torch.cuda.empty_cache()

    @property
    def hz(self) -> float:
        """The clock that `sleep` counts, in Hz, measured once: the properties name the highest, not the present one."""
        if self._hz is None:
            self._hz = self._measure_hz()
        return self._hz

    def sleep(self, cycles: int) -> None:
        torch.cuda._sleep(cycles)

    def event(self) -> Event:
        return torch.cuda.Event(enable_timing=True)

    def capture(self, body: Callable[[], object]) -> Graph:
        # Not torch.cuda.graph(): it collects garbage and empties the cache before each capture, which would cost more
        # than the measurement. The pool is our own so that it can be handed back when a capture fails.
        graph = torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        self.synchronize()
        try:
            graph.capture_begin(pool=pool)
            body()
        except BaseException as error:
            self._abandon(graph, pool)
            if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
                raise Unsupported(f"capture: {one_line(str(error))}") from error
            raise
        try:
            graph.capture_end()
        except RuntimeError as error:
            self._abandon(graph, pool, ended=True)
            raise Unsupported(f"capture: {one_line(str(error))}") from error
        return graph

    def _abandon(self, graph: torch.cuda.CUDAGraph, pool: tuple[int, int], ended: bool = False) -> None:
        """Ends a broken capture, so that the next one starts from a sane stream and allocator."""
        self._abandoned.append(graph)  # the allocator's filter points into it when capture_end has failed
        if not ended:
            with suppress(RuntimeError):
                graph.capture_end()
        # no effect but an error when capture_end got that far; without it the allocator believes in a capture for ever
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(self.index, pool)
        with suppress(RuntimeError):
            self.synchronize()

    def _flush_buffer(self) -> torch.Tensor:
        size = max(FLUSH_BYTES_MIN, 2 * self.cache_bytes) // 4
        return torch.zeros(size, dtype=torch.int32, device=f"cuda:{self.index}")

    def _measure_hz(self) -> float:
        cycles, start, end = 2_000_000, self.event(), self.event()
        rates = []
        for _ in range(3):
            self.sleep(20_000)  # the first event waits here for the sleep behind it to be enqueued
            start.record()
            self.sleep(cycles)
            end.record()
            self.synchronize()
            rates.append(cycles / (start.elapsed_time(end) * 1e-3))
        return sorted(rates)[1]
