"""Banishing: a dead storage leaves for good once nothing waits for it, and what was made from it stays.

The published loop over an operator's inputs goes by index on a list that a banish shortens: it passes over the next
input, whose lock is never undone. That is kept, since decisions depend on it.
"""

from __future__ import annotations

import numba

from frugal.dtr.sim_evict import DROPPED, evict, lock, set_waiting, unlock
from frugal.dtr.sim_state import (
    BANISHED, CHILD_LEN, CHILD_PTR, FWD_LEN, FWD_PTR, LOCKS, MATERIAL, MEMBER_LEN, MEMBER_PTR, OPTIONS, PARENT_LEN,
    PARENT_PTR, PINNED, REFS, REV_LEN, REV_PTR, STORAGE, WAITING,
)  # fmt: skip


@numba.njit(**OPTIONS)
def _drop(values, first, length, value):
    """Take the first occurrence of a value out of values[first : first + length]; returns the new length."""
    for i in range(first, first + length):
        if values[i] == value:
            for j in range(i, first + length - 1):
                values[j] = values[j + 1]
            return length - 1
    return length


@numba.njit(**OPTIONS)
def try_banish(m, s):
    """Banish a storage that nobody refers to and nothing waits for."""
    st, tt = m.st, m.tt
    if st[s, REFS] > 0 or st[s, WAITING] > 0 or st[s, BANISHED]:
        return
    if st[s, MATERIAL]:
        st[s, LOCKS] = 0
        evict(m, s, DROPPED)
    for i in range(st[s, MEMBER_PTR], st[s, MEMBER_PTR] + st[s, MEMBER_LEN]):
        t = m.member[i]
        for j in range(tt[t, PARENT_PTR], tt[t, PARENT_PTR] + tt[t, PARENT_LEN]):
            p = m.parent[j]
            of = tt[p, STORAGE]
            if of != s:
                set_waiting(m, of, t, False)
                tt[p, CHILD_LEN] = _drop(m.child, tt[p, CHILD_PTR], tt[p, CHILD_LEN], t)
                st[of, FWD_LEN] = _drop(m.fwd, st[of, FWD_PTR], st[of, FWD_LEN], s)
        for j in range(tt[t, CHILD_PTR], tt[t, CHILD_PTR] + tt[t, CHILD_LEN]):
            c = m.child[j]
            of = tt[c, STORAGE]
            if of != s:
                tt[c, PARENT_LEN] = _drop(m.parent, tt[c, PARENT_PTR], tt[c, PARENT_LEN], t)
                st[of, REV_LEN] = _drop(m.rev, st[of, REV_PTR], st[of, REV_LEN], s)
                if not st[of, PINNED]:
                    lock(m, of)
                    st[of, PINNED] = 1
    st[s, BANISHED] = 1


@numba.njit(**OPTIONS)
def after_operator(m, t, first, end):
    """Undo the locks on the inputs of `t`, whose operator made the tensors `first` … `end` - 1, and banish."""
    at = 0
    while at < m.tt[t, PARENT_LEN]:
        s = m.tt[m.parent[m.tt[t, PARENT_PTR] + at], STORAGE]
        unlock(m, s)
        for out in range(first, end):
            set_waiting(m, s, out, False)
        try_banish(m, s)
        at += 1
