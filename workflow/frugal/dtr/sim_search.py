"""Neighbourhoods searched when a choice needs them: exact e* without regions, and the function DTRUnopt."""

from __future__ import annotations

import numba
import numpy as np

from frugal.dtr import sim_state as k
from frugal.dtr.sim_pool import mark, set_numerator


@numba.njit(**k.OPTIONS)
def evaluate(m, s):
    """c + E, or c + the evicted ancestors' costs, by new searches that leave out what never ran."""
    n, st = m.n, m.st
    total = st[s, k.C]
    for d in range(0 if n[k.KIND] == k.REGIONS else 1, 2):
        n[k.STAMP] += 1
        stamp = n[k.STAMP]
        edges, ptr, count = (m.fwd, k.FWD_PTR, k.FWD_LEN) if d == 0 else (m.rev, k.REV_PTR, k.REV_LEN)
        m.stack[0], depth = s, 1
        while depth:
            depth -= 1
            at = m.stack[depth]
            n[k.ACCESSES] += st[at, count]
            for i in range(st[at, ptr], st[at, ptr] + st[at, count]):
                other = edges[i]
                if not st[other, k.MATERIAL] and st[other, k.RUN] and m.mark[other] != stamp:
                    m.mark[other] = stamp
                    total += st[other, k.C]
                    m.stack[depth] = other
                    depth += 1
    st[s, k.CHECKED] = n[k.PERIOD]
    set_numerator(m, s, float(total))


@numba.njit(**k.OPTIONS)
def mark_around(m, s):
    """Have every storage evaluated again whose neighbourhood a change of `s` may touch; the search for them counts."""
    n, st = m.n, m.st
    if st[s, k.MATERIAL]:
        mark(m, s)
    for d in range(2):
        n[k.STAMP] += 1
        stamp = n[k.STAMP]
        edges, ptr, count = (m.fwd, k.FWD_PTR, k.FWD_LEN) if d == 0 else (m.rev, k.REV_PTR, k.REV_LEN)
        m.stack[0], depth = s, 1
        while depth:
            depth -= 1
            at = m.stack[depth]
            n[k.ACCESSES] += st[at, count]
            for i in range(st[at, ptr], st[at, ptr] + st[at, count]):
                other = edges[i]
                if m.mark[other] == stamp or not st[other, k.RUN]:
                    continue
                m.mark[other] = stamp
                if st[other, k.MATERIAL]:
                    mark(m, other)
                else:
                    m.stack[depth] = other
                    depth += 1


@numba.njit(**k.OPTIONS)
def fill_costs_unoptimised(m):
    """pool_cost of every candidate: (c + Σ_N c) / (size · (clock - max(last, max_N last))), N: all evicted storages,
    computed yet or not, that a search in either direction finds."""
    n, st = m.n, m.st
    stopped = False  # at a cost of 0, as the scan will
    for place in range(n[k.POOL_END]):
        s = m.pool_id[place]
        if s < 0 or stopped:
            m.pool_cost[place] = np.inf
            continue
        total, last = st[s, k.C], st[s, k.LAST]
        n[k.STAMP] += 2
        for d in range(2):
            stamp = n[k.STAMP] - d  # what the second search finds again is searched on, but counted once
            edges, ptr, count = (m.fwd, k.FWD_PTR, k.FWD_LEN) if d == 0 else (m.rev, k.REV_PTR, k.REV_LEN)
            m.stack[0], depth = s, 1
            while depth:
                depth -= 1
                at = m.stack[depth]
                n[k.ACCESSES] += st[at, count]
                for i in range(st[at, ptr], st[at, ptr] + st[at, count]):
                    other = edges[i]
                    if st[other, k.MATERIAL] or m.mark[other] == stamp:
                        continue
                    if m.mark[other] != n[k.STAMP]:
                        total += st[other, k.C]
                        last = max(last, st[other, k.LAST])
                    m.mark[other] = stamp
                    m.stack[depth] = other
                    depth += 1
        below = float(st[s, k.SIZE]) * float(n[k.CLOCK] - last)
        m.pool_cost[place] = float(total) / below if below != 0.0 else np.inf
        stopped = m.pool_cost[place] == 0.0
