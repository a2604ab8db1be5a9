"""Bytes of tensors that live at once: exact, the same on every device, and blind to what torch does not allocate.

A tensor's bytes belong to its storage, which views share. PyTorch keeps the Python object of a storage alive as long as
the storage itself, so that a weak reference to it tells when the memory goes. Library workspaces, the allocator's slack
and what other libraries allocate are not seen; `peak_allocated` of a GPU has the first two.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from frugal.errors import FrugalError


class LiveBytesExceeded(FrugalError, MemoryError):
    """An operation's result did not fit below the limit. All in bytes: `asked` for, `live` (base included), `limit`."""

    def __init__(self, asked: int, live: int, limit: int) -> None:
        super().__init__(f"tried to allocate {asked} bytes with {live} of {limit} bytes live")
        self.asked = asked
        self.live = live
        self.limit = limit


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made while it is entered; backward passes included.

    A storage counts once, from the operation that returns it first until it is freed, its size rounded up to
    `granularity` bytes (512 is what CUDA's allocator hands out; 1 counts exactly). A storage that is first met as an
    operation's input existed before and counts 0; so does memory that torch only borrows (`torch.from_numpy`). After a
    `resize_` the new size counts.

    All in bytes:
    `live`: counted tensors alive now. It falls further after the block, when they are freed.
    `peak`: the greatest `live` so far.
    `base`: alive tensors that were there before and were given to `track`: parameters, inputs, an optimiser's state.
    `peak_total`: the greatest `base + live` so far.

    With a `limit` (bytes of base and live together) the first operation whose result would exceed it raises
    LiveBytesExceeded after it ran, which is how a machine of that much memory is emulated; its result does not count.
    Reference cycles are collected before and after, so that nothing of earlier work dies inside and `live` ends true;
    without `collect`, which spares some tenths of a second, only `peak` and `peak_total` of work without cycles are.
    It costs some microseconds an operation: never time under it. ValueError for granularity or limit below 1.
    """

    def __init__(self, granularity: int = 1, limit: int | None = None, collect: bool = True) -> None:
        super().__init__()
        for name, value in (("granularity", granularity), ("limit", limit)):
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: it must be at least 1 byte")
        self.granularity = granularity
        self.limit = limit
        self._collect = collect
        self._known: dict[int, _Storage] = {}
        # Storages die in whatever thread drops the last reference, also in the midst of our own bookkeeping: they only
        # queue up here (an append is atomic) and are settled by whoever looks next.
        self._dead: deque[_Storage] = deque()
        self._lock = threading.Lock()  # autograd runs a device's backward in a thread of its own
        self._live = self._base = self._peak = self._peak_total = 0

    @property
    def live(self) -> int:
        with self._lock:
            self._settle()
            return self._live

    @property
    def base(self) -> int:
        with self._lock:
            self._settle()
            return self._base

    @property
    def peak(self) -> int:
        return self._peak

    @property
    def peak_total(self) -> int:
        return self._peak_total

    def track(self, tensors: object) -> None:
        """Count tensors that exist already as `base`: a tensor, a module, or any nesting of mappings and iterables.

        What holds no tensor is passed over (the step count in an optimiser's state). Storages count once, and not again
        where they are counted as live. LiveBytesExceeded when the limit is exceeded with them.
        """
        storages = list(_storages(tensors))  # outside the lock: parts of a sparse tensor are operations themselves
        with self._lock:
            self._settle()
            before = self._base + self._live
            for storage in storages:
                known = self._known.get(storage._cdata)
                if known is None:
                    known = self._note(storage, foreign=0)
                elif known.foreign == 0:
                    continue
                known.tracked = True
                known.foreign = 0
                known.bytes = self._rounded(storage.nbytes())
                self._base += known.bytes
            if self.limit is not None and self._base + self._live > self.limit:
                raise LiveBytesExceeded(self._base + self._live - before, before, self.limit)
            self._peak_total = max(self._peak_total, self._base + self._live)

    def __enter__(self) -> LiveBytes:
        if self._collect:
            gc.collect()  # tensors in reference cycles of earlier work must not seem to die inside
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._collect:
            gc.collect()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # torch.tensor() makes its storage unseen, and this operation announces it.
        fresh = func is torch.ops.aten.lift_fresh.default
        with self._lock:
            self._settle()
            for storage in _storages((args, kwargs)):
                if storage._cdata not in self._known:
                    made = fresh and storage.resizable()  # else torch only borrows it
                    self._note(storage, foreign=0 if made else self._rounded(storage.nbytes()))
        result = func(*args, **kwargs)
        with self._lock:
            self._settle()
            # Only what writes its arguments can resize their storages.
            touched = (args, kwargs, result) if fresh or func._schema.is_mutable else result
            if not self._count(touched):
                asked, live = self._growth(touched), self._base + self._live
                # The frames of the exception must not keep the refused tensors alive.
                del touched, result
                raise LiveBytesExceeded(asked, live, self.limit or 0)
        return result

    def _settle(self) -> None:
        """Take off what has been freed; holding the lock."""
        while self._dead:
            storage = self._dead.popleft()
            if self._known.get(storage.key) is storage:
                del self._known[storage.key]
            self._add(storage, -storage.bytes)

    def _note(self, storage: torch.UntypedStorage, foreign: int) -> _Storage:
        known = _Storage(storage, self._dead.append)
        known.key, known.bytes, known.foreign, known.tracked = storage._cdata, 0, foreign, False
        self._known[known.key] = known
        return known

    def _count(self, touched: object) -> bool:
        """Bring the sizes of the storages up to date; False, and nothing is done, where they would exceed the limit."""
        if self.limit is not None and self._base + self._live + self._growth(touched) > self.limit:
            return False
        for storage in _storages(touched):
            known = self._known.get(storage._cdata) or self._note(storage, foreign=0)
            size = self._size(storage, known)
            self._add(known, size - known.bytes)
            known.bytes = size
        self._peak = max(self._peak, self._live)
        self._peak_total = max(self._peak_total, self._base + self._live)
        return True

    def _growth(self, touched: object) -> int:
        """Bytes that the storages have more than is counted for them."""
        grown = {}
        for storage in _storages(touched):
            known = self._known.get(storage._cdata)
            size = self._size(storage, known)
            grown[storage._cdata] = size if known is None else size - known.bytes
        return sum(grown.values())

    def _size(self, storage: torch.UntypedStorage, known: _Storage | None) -> int:
        size = self._rounded(storage.nbytes())
        return size if known is None else max(0, size - known.foreign)

    def _add(self, known: _Storage, size: int) -> None:
        if known.tracked:
            self._base += size
        else:
            self._live += size

    def _rounded(self, size: int) -> int:
        return -(-size // self.granularity) * self.granularity


class _Storage(weakref.ref):
    """A storage under watch: its address, the bytes counted for it, those that existed before, and where it counts."""

    __slots__ = ("bytes", "foreign", "key", "tracked")


def _storages(tree: object) -> Iterator[torch.UntypedStorage]:
    """The storages of all tensors in modules and in nested mappings and iterables, shared ones more than once."""
    if isinstance(tree, torch.Tensor):
        yield from _of_tensor(tree)
    elif isinstance(tree, (tuple, list)):
        for part in tree:
            yield from _storages(part)
    elif tree is None or isinstance(tree, (int, float, str, bytes)):
        return  # most arguments of operations: the questions below are slow
    elif isinstance(tree, torch.UntypedStorage):
        yield tree
    elif isinstance(tree, torch.nn.Module):
        yield from _storages((tree.parameters(), tree.buffers()))
    elif isinstance(tree, Mapping):
        yield from _storages(tuple(tree.values()))
    elif isinstance(tree, Iterable):
        yield from _storages(tuple(tree))


def _of_tensor(tensor: torch.Tensor) -> Iterator[torch.UntypedStorage]:
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _of_tensor(getattr(tensor, name))
    elif tensor.layout is torch.strided:
        yield tensor.untyped_storage()
    elif tensor.layout is torch.sparse_coo:
        yield tensor._indices().untyped_storage()
        yield tensor._values().untyped_storage()
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        for part in (tensor.crow_indices(), tensor.col_indices(), tensor.values()):
            yield part.untyped_storage()
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        for part in (tensor.ccol_indices(), tensor.row_indices(), tensor.values()):
            yield part.untyped_storage()
    else:
        raise FrugalError(f"LiveBytes cannot see the bytes of a tensor in layout {tensor.layout}: make it dense first")
