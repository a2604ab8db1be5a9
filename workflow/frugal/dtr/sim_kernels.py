"""The simulated runtime: operators computed for the first time and again. Compiled; `frugal.dtr.sim` calls `run`.

The rules are those of the published simulator, decision by decision (ICLR 2021, appendix C, and its artifact).
"""

from __future__ import annotations

import numba

from frugal.dtr import sim_classes, sim_regions, sim_search
from frugal.dtr.graph import COMPUTE, GET, RELEASE
from frugal.dtr.sim_banish import after_operator, try_banish
from frugal.dtr.sim_evict import AGAIN, COMPUTED, DROPPED, evict, free, keeps_regions, lock, set_waiting, trace, unlock
from frugal.dtr.sim_pool import append, mark, set_numerator, touch
from frugal.dtr.sim_state import (
    BANISH, BUDGET, BYTES, CACHED, CHILD_LEN, CHILD_PTR, CLASSES, CLOCK, DEFINED, DEPTH, E_STAR, FAILED, FWD_LEN,
    FWD_PTR, IGNORE, KIND, LAST_OP, LIMIT, LOCAL, LOCKS, MATERIAL, MAX_MEM, MEM, MEMBER_LEN, MODE, MODEL, ON_DEMAND,
    ONE, OP, OPS, OPTIONS, OUT_OF_MEMORY, PARENT_LEN, PARENT_PTR, PINNED, REFS, REMAT, REMATS, REV_LEN, REV_PTR, RUN,
    STATUS, STORAGE, THRASH, C,
)  # fmt: skip

_TENSOR, _IS_AGAIN, _BEGIN, _END, _AT = range(5)  # columns of State.frames


@numba.njit(**OPTIONS)
def run(m, action, target):
    """Go through a schedule; STATUS and FAILED say where it ended."""
    for step in range(len(action)):
        what, t = action[step], target[step]
        if what == COMPUTE:
            if not _compute(m, t):
                return
            continue
        s = m.tt[t, STORAGE]
        if what == GET:
            m.st[s, REFS] += 1
        elif what == RELEASE:
            _release(m, s)
        else:
            if not m.tt[t, DEFINED] and not _materialise(m, t, 1):
                return
            if not m.st[s, PINNED]:
                lock(m, s)
                m.st[s, PINNED] = 1


@numba.njit(**OPTIONS)
def _release(m, s):
    if m.n[MODE] == IGNORE:
        return
    m.st[s, REFS] -= 1
    if m.st[s, REFS] == 0:
        if m.n[MODE] == BANISH:
            try_banish(m, s)
        elif m.st[s, MATERIAL] and not m.st[s, PINNED]:
            evict(m, s, DROPPED)


@numba.njit(**OPTIONS)
def _compute(m, op):
    """Put an operator into the graph and run it; False when the run ends here."""
    first, end = m.op[op, 2], m.op[op, 3]
    for t in range(first, end):
        _create(m, t, op, first, end)
    for i in range(m.tt[first, PARENT_PTR], m.tt[first, PARENT_PTR] + m.tt[first, PARENT_LEN]):
        _extend(m, m.parent[i], first, end)
    if not _materialise(m, first, 0):
        return False
    for t in range(first, end):
        touch(m, m.tt[t, STORAGE])
    return True


@numba.njit(**OPTIONS)
def _create(m, t, op, first, end):
    """A new tensor: of a new storage, or one more in that of an input."""
    n, st = m.n, m.st
    s = m.tt[t, STORAGE]
    st[s, REFS] += 1
    if st[s, MEMBER_LEN] == 0 and n[KIND] == CLASSES:
        sim_classes.new_node(m, s, 0)
    st[s, MEMBER_LEN] += 1
    if st[s, LAST_OP] != op:  # the distinct operators of a storage; its tensors of one operator come together
        st[s, LAST_OP] = op
        st[s, C] += m.op[op, 0]
    for i in range(m.tt[t, PARENT_PTR], m.tt[t, PARENT_PTR] + m.tt[t, PARENT_LEN]):
        m.rev[st[s, REV_PTR] + st[s, REV_LEN]] = m.tt[m.parent[i], STORAGE]
        st[s, REV_LEN] += 1
        if n[MODE] == BANISH:
            set_waiting(m, m.tt[m.parent[i], STORAGE], t, True)
    if n[KIND] == LOCAL:
        set_numerator(m, s, float(st[s, C]))
    elif n[KIND] == ONE:
        set_numerator(m, s, 1.0)
    elif keeps_regions(m):
        sim_regions.update_numerator(m, s)


@numba.njit(**OPTIONS)
def _extend(m, p, first, end):
    """One more occurrence of the tensor `p` as an input of what makes `first` … `end` - 1."""
    n, st, s = m.n, m.st, m.tt[p, STORAGE]
    for t in range(first, end):
        m.fwd[st[s, FWD_PTR] + st[s, FWD_LEN]] = m.tt[t, STORAGE]
        st[s, FWD_LEN] += 1
        if n[MODE] == BANISH:
            m.child[m.tt[p, CHILD_PTR] + m.tt[p, CHILD_LEN]] = t
            m.tt[p, CHILD_LEN] += 1
        if n[ON_DEMAND] and n[E_STAR] == CACHED and st[m.tt[t, STORAGE], RUN]:  # a view: new ways through old storages
            sim_search.mark_around(m, m.tt[t, STORAGE])
    if n[ON_DEMAND]:
        mark(m, s)


@numba.njit(**OPTIONS)
def _enter(m, frame, top, t, again):
    """Begin to materialise `t`: refresh and lock its inputs, note those that must be materialised first."""
    st, tt = m.st, m.tt
    begin, end = tt[t, PARENT_PTR], tt[t, PARENT_PTR] + tt[t, PARENT_LEN]
    for i in range(begin, end):
        s = tt[m.parent[i], STORAGE]
        if m.n[MODE] != BANISH or st[s, REFS] > 0:
            touch(m, s)
    row = m.frames[frame]
    row[_TENSOR], row[_IS_AGAIN], row[_BEGIN], row[_AT] = t, again, top, top
    for i in range(begin, end):
        p = m.parent[i]
        if tt[p, DEFINED]:
            lock(m, tt[p, STORAGE])
        else:
            m.snapshots[top] = p
            top += 1
    row[_END] = top
    m.n[DEPTH] = max(m.n[DEPTH], frame + 1)


@numba.njit(**OPTIONS)
def _materialise(m, t, again):
    """Compute a tensor and, before it, inputs that are evicted; explicit frames, for chains are thousands deep."""
    frame = 0
    _enter(m, 0, 0, t, again)
    while frame >= 0:
        row = m.frames[frame]
        if row[_AT] < row[_END]:
            p = m.snapshots[row[_AT]]
            if m.tt[p, DEFINED]:
                lock(m, m.tt[p, STORAGE])
                row[_AT] += 1
            else:
                frame += 1
                _enter(m, frame, row[_END], p, 1)
            continue
        if not _execute(m, row[_TENSOR], row[_IS_AGAIN]):
            return False
        frame -= 1
    return True


@numba.njit(**OPTIONS)
def _execute(m, t, again):
    """Run the operator of `t`, whose inputs are there and locked; False when the run ends here."""
    n, st, tt = m.n, m.st, m.tt
    op = tt[t, OP]
    cost, total, first, end = m.op[op, 0], m.op[op, 1], m.op[op, 2], m.op[op, 3]
    if n[MEM] + total > n[BUDGET] and not free(m, total):
        n[STATUS], n[FAILED] = OUT_OF_MEMORY, op
        return False
    n[CLOCK] += cost
    n[MEM] += total
    n[MAX_MEM] = max(n[MAX_MEM], n[MEM])
    if again:
        n[REMAT] += cost
        n[REMATS] += 1
        trace(m, AGAIN, t)
    else:
        n[MODEL] += cost
        n[OPS] += 1
        trace(m, COMPUTED, t)
    made = 0
    for i in range(end - first):  # the siblings in order, then t
        u = t if i == end - first - 1 else first + i + (first + i >= t)
        s = tt[u, STORAGE]
        if tt[u, DEFINED]:
            n[MEM] -= tt[u, BYTES]  # computed twice; the new copy is thrown away at once
        tt[u, DEFINED] = 1
        if not st[s, MATERIAL]:
            st[s, MATERIAL], st[s, RUN] = 1, 1
            m.fresh[made] = s
            made += 1
    for i in range(made):
        if st[m.fresh[i], LOCKS] == 0:
            append(m, m.fresh[i])
    if made:
        _note_fresh(m, made)
    if n[MODE] == BANISH:
        after_operator(m, t, first, end)
    else:
        for i in range(tt[t, PARENT_PTR], tt[t, PARENT_PTR] + tt[t, PARENT_LEN]):
            unlock(m, tt[m.parent[i], STORAGE])
    if n[REMAT] > n[LIMIT]:
        n[STATUS], n[FAILED] = THRASH, op
        return False
    return True


@numba.njit(**OPTIONS)
def _note_fresh(m, made):
    """The heuristic's bookkeeping for storages that an operator made material."""
    if m.n[KIND] == CLASSES:
        for i in range(made):
            sim_classes.materialised(m, m.fresh[i])
    elif keeps_regions(m):
        sim_regions.materialised(m, m.fresh[:made])
    elif m.n[ON_DEMAND] and m.n[E_STAR] == CACHED:
        for i in range(made):
            sim_search.mark_around(m, m.fresh[i])
