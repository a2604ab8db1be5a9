"""Locks, evictions and making room, for every heuristic."""

from __future__ import annotations

import numba

from frugal.dtr import sim_classes, sim_regions, sim_search
from frugal.dtr import sim_state as k
from frugal.dtr.sim_pool import append, choose, choose_by_cost, choose_random, remove

CHOSEN, DROPPED, AGAIN, COMPUTED = range(4)  # kinds of events: evicted by choice, by deallocation; recomputed, computed


@numba.njit(**k.OPTIONS)
def trace(m, kind, number):
    """Note an event as 4 · number + kind; what does not fit is only counted."""
    if m.n[k.EVENTS] < len(m.trace):
        m.trace[m.n[k.EVENTS]] = 4 * number + kind
    m.n[k.EVENTS] += 1


@numba.njit(**k.OPTIONS)
def lock(m, s):
    """Keep a storage out of the pool."""
    if m.st[s, k.LOCKS] == 0:
        remove(m, s)
    m.st[s, k.LOCKS] += 1


@numba.njit(**k.OPTIONS)
def unlock(m, s):
    """Undo one lock; the last one puts the storage at the end of the pool."""
    m.st[s, k.LOCKS] -= 1
    if m.st[s, k.LOCKS] == 0:
        append(m, s)


@numba.njit(**k.OPTIONS)
def keeps_regions(m):
    """Whether this run keeps a region of every storage."""
    return m.n[k.E_STAR] == k.MAINTAINED and (m.n[k.KIND] == k.REGIONS or m.n[k.KIND] == k.ANCESTORS)


@numba.njit(**k.OPTIONS)
def evict(m, s, kind):
    """Give a storage's bytes back; its tensors are undefined."""
    n, st = m.n, m.st
    trace(m, kind, m.member[st[s, k.MEMBER_PTR]])
    if kind == CHOSEN:
        n[k.EVICTIONS] += 1
    else:
        n[k.EAGER] += 1
    remove(m, s)
    st[s, k.MATERIAL] = 0
    n[k.MEM] -= st[s, k.SIZE]
    for i in range(st[s, k.MEMBER_PTR], st[s, k.MEMBER_PTR] + st[s, k.MEMBER_LEN]):
        t = m.member[i]
        m.tt[t, k.DEFINED] = 0
        if n[k.MODE] == k.BANISH:
            for j in range(m.tt[t, k.PARENT_PTR], m.tt[t, k.PARENT_PTR] + m.tt[t, k.PARENT_LEN]):
                set_waiting(m, m.tt[m.parent[j], k.STORAGE], t, True)
    if n[k.KIND] == k.CLASSES:
        sim_classes.evicted(m, s)
    elif keeps_regions(m):
        sim_regions.evicted(m, s)
    elif n[k.ON_DEMAND] and n[k.E_STAR] == k.CACHED:
        sim_search.mark_around(m, s)


@numba.njit(**k.OPTIONS)
def set_waiting(m, s, t, waiting):
    """Whether the storage `s` waits for its child `t` to be computed; nothing where `t` lives in `s` itself."""
    if m.tt[t, k.STORAGE] == s:
        return
    place = m.tt[t, k.PARENT_PTR]
    while m.tt[m.parent_at_first[place], k.STORAGE] != s:
        place += 1
    if m.waits[place] != waiting:
        m.waits[place] = waiting
        m.st[s, k.WAITING] += 1 if waiting else -1


@numba.njit(**k.OPTIONS)
def free(m, need):
    """Evict until `need` bytes fit; False, with the shortfall noted, when there is nothing left to evict."""
    n = m.n
    while n[k.MEM] + need > n[k.BUDGET]:
        if n[k.POOL_LIVE] == 0:
            n[k.NEED], n[k.SHORT] = need, n[k.MEM] + need - n[k.BUDGET]
            return False
        evict(m, _victim(m), CHOSEN)
    return True


@numba.njit(**k.OPTIONS)
def _victim(m):
    n = m.n
    if n[k.KIND] == k.RANDOM:
        return choose_random(m)
    if n[k.KIND] == k.UNOPTIMISED:
        sim_search.fill_costs_unoptimised(m)
        return choose_by_cost(m)
    if n[k.ON_DEMAND]:
        if n[k.E_STAR] == k.LAZY:
            n[k.STALE_ALL] = 1
            n[k.PERIOD] += 1
        _refresh(m)
    return choose(m)


@numba.njit(**k.OPTIONS)
def _refresh(m):
    """Compute the numerators of all candidates that need it."""
    n, st = m.n, m.st
    if n[k.STALE_ALL]:
        for at in range(n[k.POOL_END]):
            s = m.pool_id[at]
            if s >= 0 and st[s, k.CHECKED] != n[k.PERIOD]:
                _evaluate(m, s)
        n[k.STALE_ALL] = 0
    for i in range(n[k.DIRTY_COUNT]):
        s = m.dirty[i]
        st[s, k.LISTED] = 0
        if st[s, k.POSITION] >= 0 and st[s, k.CHECKED] != n[k.PERIOD]:
            _evaluate(m, s)
    n[k.DIRTY_COUNT] = 0


@numba.njit(**k.OPTIONS)
def _evaluate(m, s):
    if m.n[k.KIND] == k.CLASSES:
        sim_classes.evaluate(m, s)
    else:
        sim_search.evaluate(m, s)
