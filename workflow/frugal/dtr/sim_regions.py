"""e*: the evicted neighbourhood, kept for every storage that is there (ICLR 2021, section 4.1; as in the artifact).

A region of a storage and a direction (0: children, 1: parents) is its interior, the evicted storages that a search
over evicted ones finds; its frontier, the material ones where that search ends; and the summed cost of the interior.
Both are sets of bits, in the words from `region[d, s, 1]` to `region[d, s, 2]`. Regions are what the published updates
make of them, which is not always what a new search would find.
"""

from __future__ import annotations

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from frugal.dtr import sim_state as k
from frugal.dtr.sim_pool import set_numerator

_INTERIOR, _FRONTIER = 0, 1
_COMPUTE, _BEGIN, _END = range(3)  # columns of State.region


@intrinsic
def _lowest_bit(typing_context, word):
    """The place of the lowest bit of a uint64 that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@numba.njit(**k.OPTIONS)
def update_numerator(m, s):
    """c + E, or c + the evicted ancestors' costs."""
    total = m.st[s, k.C] + m.region[1, s, _COMPUTE]
    if m.n[k.KIND] == k.REGIONS:
        total += m.region[0, s, _COMPUTE]
    set_numerator(m, s, float(total))


@numba.njit(**k.OPTIONS)
def _clear(m, d, s):
    for word in range(m.region[d, s, _BEGIN], m.region[d, s, _END]):
        m.bits[d, _INTERIOR, s, word] = 0
        m.bits[d, _FRONTIER, s, word] = 0
    m.region[d, s, _COMPUTE] = 0
    m.region[d, s, _BEGIN] = m.bits.shape[3]
    m.region[d, s, _END] = 0


@numba.njit(**k.OPTIONS)
def rebuild(m, base, d):
    """Search a region anew."""
    n, st, stack = m.n, m.st, m.stack
    _clear(m, d, base)
    interior, frontier = m.bits[d, _INTERIOR, base], m.bits[d, _FRONTIER, base]
    edges, ptr, count = (m.fwd, k.FWD_PTR, k.FWD_LEN) if d == 0 else (m.rev, k.REV_PTR, k.REV_LEN)
    first, last, compute, accesses = m.bits.shape[3], 0, 0, 0
    stack[0], depth = base, 1
    while depth:
        depth -= 1
        s = stack[depth]
        begin, length = st[s, ptr], st[s, count]
        accesses += length
        for i in range(begin, begin + length):
            other = edges[i]
            word, bit = other >> 6, numba.uint64(1) << numba.uint64(other & 63)
            if st[other, k.MATERIAL]:
                if other != base:
                    frontier[word] |= bit
                    first, last = min(first, word), max(last, word + 1)
            elif not interior[word] & bit:
                interior[word] |= bit
                first, last = min(first, word), max(last, word + 1)
                compute += st[other, k.C]
                stack[depth] = other
                depth += 1
    n[k.ACCESSES] += accesses
    m.region[d, base, _COMPUTE], m.region[d, base, _BEGIN], m.region[d, base, _END] = compute, first, last
    update_numerator(m, base)


@numba.njit(**k.OPTIONS)
def materialised(m, fresh):
    """Search anew what an operator changed that made the storages `fresh` material."""
    scratch = m.bits.shape[2] - 1
    for s in fresh:
        rebuild(m, s, 0)
        rebuild(m, s, 1)
    for d in range(2):  # the frontier over parents has the storages whose search over children came by, and vice versa
        union, first, last = m.bits[d, _INTERIOR, scratch], m.bits.shape[3], 0
        for s in fresh:
            begin, end = m.region[1 - d, s, _BEGIN], m.region[1 - d, s, _END]
            if begin < end:
                first, last = min(first, begin), max(last, end)
            for word in range(begin, end):
                union[word] |= m.bits[1 - d, _FRONTIER, s, word]
        for word in range(first, last):
            left = union[word]
            union[word] = 0
            while left:
                rebuild(m, 64 * word + _lowest_bit(left), d)
                left &= left - numba.uint64(1)


@numba.njit(**k.OPTIONS)
def evicted(m, s):
    """Let the regions that end at a storage go on through it, and clear its own."""
    for d in range(2):
        for word in range(m.region[1 - d, s, _BEGIN], m.region[1 - d, s, _END]):
            left = m.bits[1 - d, _FRONTIER, s, word]
            while left:
                _absorb(m, d, 64 * word + _lowest_bit(left), s)
                left &= left - numba.uint64(1)
    _clear(m, 0, s)
    _clear(m, 1, s)


@numba.njit(**k.OPTIONS)
def _absorb(m, d, into, s):
    """Join the region of the evicted storage `s` to that of `into`; what is new there is counted, and `s`."""
    interior, frontier = m.bits[d, _INTERIOR, into], m.bits[d, _FRONTIER, into]
    begin, end = m.region[d, s, _BEGIN], m.region[d, s, _END]
    compute, accesses = m.st[s, k.C], 1
    at, bit = s >> 6, numba.uint64(1) << numba.uint64(s & 63)
    frontier[at] &= ~bit  # before the union, which may have it again where storages are in a circle
    for word in range(begin, end):
        frontier[word] |= m.bits[d, _FRONTIER, s, word]
        left = m.bits[d, _INTERIOR, s, word] & ~interior[word]
        interior[word] |= left
        while left:
            other = 64 * word + _lowest_bit(left)
            left &= left - numba.uint64(1)
            accesses += other != s
            compute += m.st[other, k.C] if other != s else 0
    interior[at] |= bit
    m.n[k.ACCESSES] += accesses
    m.region[d, into, _COMPUTE] += compute
    m.region[d, into, _BEGIN] = min(m.region[d, into, _BEGIN], begin, at)
    m.region[d, into, _END] = max(m.region[d, into, _END], end, at + 1)
    update_numerator(m, into)
