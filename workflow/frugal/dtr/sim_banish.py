"""Banishing: a dead storage leaves for good once nothing waits for it, and what was made from it stays.

The published loop over an operator's inputs goes by index on a list that a banish shortens: it passes over the next
input, whose lock is never undone. That is kept, since decisions depend on it.
"""

from __future__ import annotations

import numba

from frugal.dtr import sim_state as k
from frugal.dtr.sim_evict import DROPPED, evict, lock, set_waiting, unlock


@numba.njit(**k.OPTIONS)
def _drop(values, first, length, value):
    """Take the first occurrence of a value out of values[first : first + length]; returns the new length."""
    for i in range(first, first + length):
        if values[i] == value:
            for j in range(i, first + length - 1):
                values[j] = values[j + 1]
            return length - 1
    return length


@numba.njit(**k.OPTIONS)
def try_banish(m, s):
    """Banish a storage that nobody refers to and nothing waits for."""
    st, tt = m.st, m.tt
    if st[s, k.REFS] > 0 or st[s, k.WAITING] > 0 or st[s, k.BANISHED]:
        return
    if st[s, k.MATERIAL]:
        st[s, k.LOCKS] = 0
        evict(m, s, DROPPED)
    for i in range(st[s, k.MEMBER_PTR], st[s, k.MEMBER_PTR] + st[s, k.MEMBER_LEN]):
        t = m.member[i]
        for j in range(tt[t, k.PARENT_PTR], tt[t, k.PARENT_PTR] + tt[t, k.PARENT_LEN]):
            p = m.parent[j]
            of = tt[p, k.STORAGE]
            if of != s:
                set_waiting(m, of, t, False)
                tt[p, k.CHILD_LEN] = _drop(m.child, tt[p, k.CHILD_PTR], tt[p, k.CHILD_LEN], t)
                st[of, k.FWD_LEN] = _drop(m.fwd, st[of, k.FWD_PTR], st[of, k.FWD_LEN], s)
        for j in range(tt[t, k.CHILD_PTR], tt[t, k.CHILD_PTR] + tt[t, k.CHILD_LEN]):
            c = m.child[j]
            of = tt[c, k.STORAGE]
            if of != s:
                tt[c, k.PARENT_LEN] = _drop(m.parent, tt[c, k.PARENT_PTR], tt[c, k.PARENT_LEN], t)
                st[of, k.REV_LEN] = _drop(m.rev, st[of, k.REV_PTR], st[of, k.REV_LEN], s)
                if not st[of, k.PINNED]:
                    lock(m, of)
                    st[of, k.PINNED] = 1
    st[s, k.BANISHED] = 1


@numba.njit(**k.OPTIONS)
def after_operator(m, t, first, end):
    """Undo the locks on the inputs of `t`, whose operator made the tensors `first` … `end` - 1, and banish."""
    at = 0
    while at < m.tt[t, k.PARENT_LEN]:
        s = m.tt[m.parent[m.tt[t, k.PARENT_PTR] + at], k.STORAGE]
        unlock(m, s)
        for out in range(first, end):
            set_waiting(m, s, out, False)
        try_banish(m, s)
        at += 1
