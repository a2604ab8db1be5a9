"""Neighbourhoods searched when a choice needs them: exact e* without regions, and the function DTRUnopt."""

from __future__ import annotations

import numba
import numpy as np

from frugal.dtr.sim_pool import mark, set_numerator
from frugal.dtr.sim_state import (
    ACCESSES, CHECKED, CLOCK, FWD_LEN, FWD_PTR, KIND, LAST, MATERIAL, OPTIONS, PERIOD, POOL_END, REGIONS, REV_LEN,
    REV_PTR, RUN, SIZE, STAMP, C,
)  # fmt: skip


@numba.njit(**OPTIONS)
def evaluate(m, s):
    """c + E, or c + the evicted ancestors' costs, by new searches that leave out what never ran."""
    n, st = m.n, m.st
    total = st[s, C]
    for d in range(0 if n[KIND] == REGIONS else 1, 2):
        n[STAMP] += 1
        stamp = n[STAMP]
        edges, ptr, count = (m.fwd, FWD_PTR, FWD_LEN) if d == 0 else (m.rev, REV_PTR, REV_LEN)
        m.stack[0], depth = s, 1
        while depth:
            depth -= 1
            at = m.stack[depth]
            n[ACCESSES] += st[at, count]
            for i in range(st[at, ptr], st[at, ptr] + st[at, count]):
                other = edges[i]
                if not st[other, MATERIAL] and st[other, RUN] and m.mark[other] != stamp:
                    m.mark[other] = stamp
                    total += st[other, C]
                    m.stack[depth] = other
                    depth += 1
    st[s, CHECKED] = n[PERIOD]
    set_numerator(m, s, float(total))


@numba.njit(**OPTIONS)
def mark_around(m, s):
    """Have every storage evaluated again whose neighbourhood a change of `s` may touch; the search for them counts."""
    n, st = m.n, m.st
    if st[s, MATERIAL]:
        mark(m, s)
    for d in range(2):
        n[STAMP] += 1
        stamp = n[STAMP]
        edges, ptr, count = (m.fwd, FWD_PTR, FWD_LEN) if d == 0 else (m.rev, REV_PTR, REV_LEN)
        m.stack[0], depth = s, 1
        while depth:
            depth -= 1
            at = m.stack[depth]
            n[ACCESSES] += st[at, count]
            for i in range(st[at, ptr], st[at, ptr] + st[at, count]):
                other = edges[i]
                if m.mark[other] == stamp or not st[other, RUN]:
                    continue
                m.mark[other] = stamp
                if st[other, MATERIAL]:
                    mark(m, other)
                else:
                    m.stack[depth] = other
                    depth += 1


@numba.njit(**OPTIONS)
def fill_costs_unoptimised(m):
    """pool_cost of every candidate: (c + Σ_N c) / (size · (clock - max(last, max_N last))), N: all evicted storages,
    computed yet or not, that a search in either direction finds."""
    n, st = m.n, m.st
    for place in range(n[POOL_END]):
        s = m.pool_id[place]
        if s < 0:
            m.pool_cost[place] = np.inf
            continue
        total, last = st[s, C], st[s, LAST]
        n[STAMP] += 2
        for d in range(2):
            stamp = n[STAMP] - d  # what the second search finds again is searched on, but counted once
            edges, ptr, count = (m.fwd, FWD_PTR, FWD_LEN) if d == 0 else (m.rev, REV_PTR, REV_LEN)
            m.stack[0], depth = s, 1
            while depth:
                depth -= 1
                at = m.stack[depth]
                n[ACCESSES] += st[at, count]
                for i in range(st[at, ptr], st[at, ptr] + st[at, count]):
                    other = edges[i]
                    if st[other, MATERIAL] or m.mark[other] == stamp:
                        continue
                    if m.mark[other] != n[STAMP]:
                        total += st[other, C]
                        last = max(last, st[other, LAST])
                    m.mark[other] = stamp
                    m.stack[depth] = other
                    depth += 1
        below = float(st[s, SIZE]) * float(n[CLOCK] - last)
        m.pool_cost[place] = float(total) / below if below != 0.0 else np.inf
