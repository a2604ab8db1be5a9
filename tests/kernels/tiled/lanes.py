"""Runs a generated v5 kernel as the plain Python text that it is: a thread a lane, shared memory as bytes.

Numba's simulator has no tensor cores. Here `ldmatrix` and `mma` are written after the PTX ISA's figures of fragments:
what a lane gives and gets is looked up among the 32 lanes of its warp. Loads and stores check that their
address is aligned and within shared memory, which holds NaN in both types before.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np

TIMEOUT_S = 60  # a barrier that some thread does not reach


def numbers(words: list[int], short: bool) -> np.ndarray:
    """The numbers in words: two bf16 each, the lower half first, or one tf32, whose 13 lowest bits must be zero."""
    array = np.array(words, np.uint32)
    if short:
        return np.stack([array << 16, array & 0xFFFF0000], -1).view(np.float32).astype(np.float64)
    assert not (array & 0x1FFF)[np.isfinite(array.view(np.float32))].any(), "not rounded to tf32"
    return array.view(np.float32).astype(np.float64)[..., None]


def round_tf32(value) -> np.uint32:
    """To the nearest, halves away from zero."""
    word = int(np.float32(value).view(np.uint32))
    return np.uint32(word if not np.isfinite(value) else (word + 0x1000) & 0xFFFFE000)


def round_bf16(value) -> int:
    """To the nearest, halves to even; a NaN stays one."""
    word = int(np.float32(value).view(np.uint32))
    return 0x7FFF if np.isnan(value) else (word + 0x7FFF + (word >> 16 & 1)) >> 16


class Warp:
    """Instructions of 32 lanes together: the last lane to give its operands computes every lane's result."""

    def __init__(self) -> None:
        self.given, self.results, self.operation = [None] * 32, [None] * 32, None
        self.barrier = threading.Barrier(32, self._compute)

    def _compute(self) -> None:
        with np.errstate(all="ignore"):
            self.results = self.operation(self.given)

    def together(self, lane: int, operation, operands):
        """This lane's result. No lane gives operands anew before all have theirs: the barrier is one for both."""
        self.given[lane], self.operation = operands, operation
        self.barrier.wait(TIMEOUT_S)
        return self.results[lane]


class Block:
    """Shared memory, the block's barrier, and its warps."""

    def __init__(self, threads: int, size: int) -> None:
        self.memory = np.full(size // 4, 0xFFFFFFFF, np.uint32)  # NaN as float32 and as two bf16
        self.barrier = threading.Barrier(threads)
        self.warps = [Warp() for _ in range(threads // 32)]

    def read(self, address: int, words: int) -> np.ndarray:
        assert address % (4 * words) == 0, "misaligned"
        assert 0 <= address <= 4 * (len(self.memory) - words), "outside shared memory"
        return self.memory[address // 4 : address // 4 + words]


def run(source, grid: tuple[int, int, int], args: list) -> None:
    """Runs `source` (a KernelSource) on NumPy arrays in place, one block after the other."""
    for z in range(grid[2]):
        for y in range(grid[1]):
            for x in range(grid[0]):
                _run_block(source, SimpleNamespace(x=np.uint32(x), y=np.uint32(y), z=np.uint32(z)), args)


def _run_block(source, place, args) -> None:
    block, here, failures = Block(source.threads, source.dynamic_shared_bytes), threading.local(), []
    entry = _function(source, here, block)

    def thread(number: int) -> None:
        here.number, here.threadIdx, here.blockIdx = number, SimpleNamespace(x=np.uint32(number)), place
        try:
            with np.errstate(all="ignore"):  # unsigned arithmetic wraps, NaN and infinity are data
                entry(*args)
        except BaseException as error:
            failures.append(error)
            for barrier in (block.barrier, *(warp.barrier for warp in block.warps)):
                barrier.abort()

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(source.threads)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    causes = [error for error in failures if not isinstance(error, threading.BrokenBarrierError)]
    if failures:
        raise (causes or failures)[0]


def _function(source, here: threading.local, block: Block):
    """The entry of the source, its names bound to this block."""
    each = 2 if "_bf16_" in source.variant else 1  # numbers of a word

    def matrices(addresses: list[int]) -> list[tuple]:
        rows = [[block.read(addresses[8 * matrix + row], 4) for row in range(8)] for matrix in range(4)]
        return [tuple(rows[matrix][lane // 4][lane % 4] for matrix in range(4)) for lane in range(32)]

    def products(given: list[tuple]) -> list[tuple]:
        size = 4 * each  # k's of a half
        a, b, c = np.zeros((16, 2, size)), np.zeros((2, size, 8)), np.zeros((16, 8))
        for lane, (words_a, words_b, sums) in enumerate(given):
            g, t = divmod(lane, 4)
            for word, (row, half) in enumerate([(g, 0), (g + 8, 0), (g, 1), (g + 8, 1)]):
                a[row, half, each * t : each * t + each] = numbers([words_a[word]], each == 2)[0]
            for half in range(2):
                b[half, each * t : each * t + each, g] = numbers([words_b[half]], each == 2)[0]
            c[[g, g, g + 8, g + 8], [2 * t, 2 * t + 1, 2 * t, 2 * t + 1]] = sums
        total = (c + np.einsum("mhk,hkn->mn", a, b)).astype(np.float32)
        places = [(lane // 4, 2 * (lane % 4)) for lane in range(32)]
        return [(total[g, n], total[g, n + 1], total[g + 8, n], total[g + 8, n + 1]) for g, n in places]

    def together(operation, operands):
        return block.warps[here.number // 32].together(here.number % 32, operation, operands)

    def mma(a0, a1, a2, a3, b0, b1, *sums):
        words = [int(np.float32(word).view(np.uint32)) for word in (b0, b1)]
        return together(products, ([int(word) for word in (a0, a1, a2, a3)], words, sums))

    def put(address, *words):
        block.read(int(address), len(words))[:] = [int(word) for word in words]

    def load(width):
        def read(array, index):
            assert int(index) % width == 0
            return tuple(array[int(index) : int(index) + width])

        return read

    names = {
        "cuda": _Cuda(here, block),
        "float32": np.float32, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
        "dynamic_shared": lambda: None, "shared_address": lambda array: np.uint32(0),
        "load2": load(2), "load4": load(4), "mma": mma,
        "ldmatrix4": lambda address: together(matrices, int(address)),
        "load_word": lambda address: np.uint32(block.read(int(address), 1)[0]), "put_word": put, "put_words": put,
        "as_tf32": round_tf32, "as_bf16s": lambda low, high: np.uint32(round_bf16(high) << 16 | round_bf16(low)),
        "larger_of": np.maximum,
    }  # fmt: skip
    text = source.python_source
    exec(compile(text[text.index(f"def {source.entry}(") :], source.variant, "exec"), names)
    return names[source.entry]


class _Cuda:
    """threadIdx, blockIdx and the block's barrier."""

    def __init__(self, here: threading.local, block: Block) -> None:
        self._here, self._block = here, block

    def __getattr__(self, name: str):
        return getattr(self._here, name)

    def syncthreads(self) -> None:
        self._block.barrier.wait(TIMEOUT_S)
