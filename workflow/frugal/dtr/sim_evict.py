"""Locks, evictions and making room, for every heuristic."""

from __future__ import annotations

import numba

from frugal.dtr import sim_classes, sim_regions, sim_search
from frugal.dtr.sim_pool import append, choose, choose_by_cost, choose_random, remove
from frugal.dtr.sim_state import (
    ANCESTORS, BANISH, BUDGET, CACHED, CHECKED, CLASSES, DEFINED, DIRTY_COUNT, E_STAR, EAGER, EVENTS, EVICTIONS, KIND,
    LAZY, LISTED, LOCKS, MAINTAINED, MATERIAL, MEM, MEMBER_LEN, MEMBER_PTR, MODE, NEED, ON_DEMAND, OPTIONS, PARENT_LEN,
    PARENT_PTR, PERIOD, POOL_END, POOL_LIVE, POSITION, RANDOM, REGIONS, SHORT, SIZE, STALE_ALL, STORAGE, UNOPTIMISED,
    WAITING,
)  # fmt: skip

CHOSEN, DROPPED, AGAIN, COMPUTED = range(4)  # kinds of events: evicted by choice, by deallocation; recomputed, computed


@numba.njit(**OPTIONS)
def trace(m, kind, number):
    """Note an event as 4 · number + kind; what does not fit is only counted."""
    if m.n[EVENTS] < len(m.trace):
        m.trace[m.n[EVENTS]] = 4 * number + kind
    m.n[EVENTS] += 1


@numba.njit(**OPTIONS)
def lock(m, s):
    """Keep a storage out of the pool."""
    if m.st[s, LOCKS] == 0:
        remove(m, s)
    m.st[s, LOCKS] += 1


@numba.njit(**OPTIONS)
def unlock(m, s):
    """Undo one lock; the last one puts the storage at the end of the pool."""
    m.st[s, LOCKS] -= 1
    if m.st[s, LOCKS] == 0:
        append(m, s)


@numba.njit(**OPTIONS)
def keeps_regions(m):
    """Whether this run keeps a region of every storage."""
    return m.n[E_STAR] == MAINTAINED and (m.n[KIND] == REGIONS or m.n[KIND] == ANCESTORS)


@numba.njit(**OPTIONS)
def evict(m, s, kind):
    """Give a storage's bytes back; its tensors are undefined."""
    n, st = m.n, m.st
    trace(m, kind, m.member[st[s, MEMBER_PTR]])
    if kind == CHOSEN:
        n[EVICTIONS] += 1
    else:
        n[EAGER] += 1
    remove(m, s)
    st[s, MATERIAL] = 0
    n[MEM] -= st[s, SIZE]
    for i in range(st[s, MEMBER_PTR], st[s, MEMBER_PTR] + st[s, MEMBER_LEN]):
        t = m.member[i]
        m.tt[t, DEFINED] = 0
        if n[MODE] == BANISH:
            for j in range(m.tt[t, PARENT_PTR], m.tt[t, PARENT_PTR] + m.tt[t, PARENT_LEN]):
                set_waiting(m, m.tt[m.parent[j], STORAGE], t, True)
    if n[KIND] == CLASSES:
        sim_classes.evicted(m, s)
    elif keeps_regions(m):
        sim_regions.evicted(m, s)
    elif n[ON_DEMAND] and n[E_STAR] == CACHED:
        sim_search.mark_around(m, s)


@numba.njit(**OPTIONS)
def set_waiting(m, s, t, waiting):
    """Whether the storage `s` waits for its child `t` to be computed; nothing where `t` lives in `s` itself."""
    if m.tt[t, STORAGE] == s:
        return
    place = m.tt[t, PARENT_PTR]
    while m.tt[m.parent_at_first[place], STORAGE] != s:
        place += 1
    if m.waits[place] != waiting:
        m.waits[place] = waiting
        m.st[s, WAITING] += 1 if waiting else -1


@numba.njit(**OPTIONS)
def free(m, need):
    """Evict until `need` bytes fit; False, with the shortfall noted, when there is nothing left to evict."""
    n = m.n
    while n[MEM] + need > n[BUDGET]:
        if n[POOL_LIVE] == 0:
            n[NEED], n[SHORT] = need, n[MEM] + need - n[BUDGET]
            return False
        evict(m, _victim(m), CHOSEN)
    return True


@numba.njit(**OPTIONS)
def _victim(m):
    n = m.n
    if n[KIND] == RANDOM:
        return choose_random(m)
    if n[KIND] == UNOPTIMISED:
        sim_search.fill_costs_unoptimised(m)
        return choose_by_cost(m)
    if n[ON_DEMAND]:
        if n[E_STAR] == LAZY:
            n[STALE_ALL] = 1
            n[PERIOD] += 1
        _refresh(m)
    return choose(m)


@numba.njit(**OPTIONS)
def _refresh(m):
    """Compute the numerators of all candidates that need it."""
    n, st = m.n, m.st
    if n[STALE_ALL]:
        for at in range(n[POOL_END]):
            s = m.pool_id[at]
            if s >= 0 and st[s, CHECKED] != n[PERIOD]:
                _evaluate(m, s)
        n[STALE_ALL] = 0
    for i in range(n[DIRTY_COUNT]):
        s = m.dirty[i]
        st[s, LISTED] = 0
        if st[s, POSITION] >= 0 and st[s, CHECKED] != n[PERIOD]:
            _evaluate(m, s)
    n[DIRTY_COUNT] = 0


@numba.njit(**OPTIONS)
def _evaluate(m, s):
    if m.n[KIND] == CLASSES:
        sim_classes.evaluate(m, s)
    else:
        sim_search.evaluate(m, s)
