"""Runs a generated kernel as the plain Python text that it is, with all blocks of a thread-block cluster at once.

Numba's simulator runs one block after the other and knows no clusters, so code for capability 9.0 cannot run there.
Here every thread of a cluster is a Python thread; the names that the kernel's module would import are bound to what
they stand for: shared arrays, block and cluster barriers, and mailboxes that count the bytes they receive.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np

TIMEOUT_S = 60  # a barrier that some thread does not reach
THREAD_NAMES = ("thread", "block", "grid")


class Block:
    """Shared memory and barriers of one block."""

    def __init__(self, threads: int, floats: int) -> None:
        self.shared = np.full(floats, np.nan, np.float32)
        self.barrier = threading.Barrier(threads)
        self.warps = [threading.Barrier(32) for _ in range(threads // 32)]
        self.expected = None
        self.received = 0
        self.written: set[int] = set()
        self.mail = threading.Condition()


def run(source, grid: tuple[int, int, int], args: list) -> None:
    """Runs `source` (a KernelSource) on NumPy arrays in place; blocks of equal x and y are one cluster."""
    for x in range(grid[0]):
        for y in range(grid[1]):
            _run_cluster(source, grid, (x, y), args)


def _run_cluster(source, grid, place, args) -> None:
    blocks = [Block(source.threads, source.dynamic_shared_bytes // 4) for _ in range(grid[2])]
    everyone = threading.Barrier(source.threads * grid[2])
    here, failures = threading.local(), []
    entry = _function(source, here, blocks, everyone)

    def thread(z: int, number: int) -> None:
        here.z, here.number = z, number
        here.threadIdx, here.blockIdx = SimpleNamespace(x=number), SimpleNamespace(x=place[0], y=place[1], z=z)
        here.gridDim = SimpleNamespace(x=grid[0], y=grid[1], z=grid[2])
        try:
            with np.errstate(all="ignore"):  # unsigned arithmetic wraps, NaN and infinity are data
                entry(*args)
        except BaseException as error:
            failures.append(error)
            for barrier in (everyone, *(b.barrier for b in blocks), *(w for b in blocks for w in b.warps)):
                barrier.abort()

    threads = [threading.Thread(target=thread, args=(z, n)) for z in range(grid[2]) for n in range(source.threads)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    causes = [error for error in failures if not isinstance(error, threading.BrokenBarrierError)]
    if failures:
        raise (causes or failures)[0]
    for z, block in enumerate(blocks):
        assert block.received == (block.expected or 0), f"block {z} got {block.received} bytes, not {block.expected}"


def _function(source, here: threading.local, blocks: list[Block], everyone: threading.Barrier):
    """The entry of the source, its names bound to this cluster."""

    def block() -> Block:
        return blocks[here.z]

    def expect(array, barrier, count):
        with block().mail:
            block().expected = int(count)

    def send(array, index, rank, barrier, *values):
        to = blocks[int(rank)]
        at = range(int(index), int(index) + 4)
        assert int(index) % 4 == 0
        with to.mail:
            assert to.expected is not None, "sent before the receiver's barrier was there"
            assert not to.written & {*at}, "two blocks sent to one place"
            to.written |= {*at}
            to.shared[at.start : at.stop] = values
            to.received += 16
            to.mail.notify_all()

    def wait(array, barrier):
        with block().mail:
            assert block().mail.wait_for(lambda: block().received >= block().expected, TIMEOUT_S), "bytes did not come"

    def get(width):
        def read(array, index):
            assert int(index) % width == 0
            return tuple(array[int(index) : int(index) + width])

        return read

    def put(width):
        def write(array, index, *values):
            assert int(index) % width == 0
            array[int(index) : int(index) + width] = values

        return write

    names = {
        "cuda": _Cuda(here, block),
        "float32": np.float32, "uint32": np.uint32, "uint64": np.uint64,
        "dynamic_shared": lambda: block().shared,
        "warp_sync": lambda: block().warps[here.number // 32].wait(TIMEOUT_S),
        "load4": get(4), "get2": get(2), "get4": get(4), "put2": put(2), "put4": put(4),
        "misaligned": lambda array: 0,
        "launch_dependents": lambda: None, "wait_for_input": lambda: None,
        "mailbox_expect": expect, "mailbox_send": send, "mailbox_wait": wait,
        "mailbox_enter": lambda: None, "mailbox_entered": lambda: everyone.wait(TIMEOUT_S),
    }  # fmt: skip
    text = source.python_source
    exec(compile(text[text.index(f"def {source.entry}(") :], source.variant, "exec"), names)
    return names[source.entry]


class _Cuda:
    """threadIdx, blockIdx, gridDim and the block's barrier."""

    def __init__(self, here: threading.local, block) -> None:
        self._here, self._block = here, block

    def __getattr__(self, name: str):
        return getattr(self._here, name)

    def syncthreads(self) -> None:
        self._block().barrier.wait(TIMEOUT_S)
