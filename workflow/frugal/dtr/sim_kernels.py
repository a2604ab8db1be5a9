"""The simulated runtime: operators computed for the first time and again. Compiled; `frugal.dtr.sim` calls `run`.

The rules are those of the published simulator, decision by decision (ICLR 2021, appendix C, and its artifact).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numba

from frugal.dtr import sim_classes, sim_regions, sim_search
from frugal.dtr import sim_state as k
from frugal.dtr.graph import COMPUTE, GET, RELEASE
from frugal.dtr.sim_banish import after_operator, try_banish
from frugal.dtr.sim_evict import AGAIN, COMPUTED, DROPPED, evict, free, keeps_regions, lock, set_waiting, trace, unlock
from frugal.dtr.sim_pool import append, mark, set_numerator, touch

_TENSOR, _IS_AGAIN, _BEGIN, _END, _AT = range(5)  # columns of State.frames


@numba.njit(**k.OPTIONS)
def _run(m, action, target):
    for step in range(len(action)):
        what, t = action[step], target[step]
        if what == COMPUTE:
            if not _compute(m, t):
                return
            continue
        s = m.tt[t, k.STORAGE]
        if what == GET:
            m.st[s, k.REFS] += 1
        elif what == RELEASE:
            _release(m, s)
        else:
            if not m.tt[t, k.DEFINED] and not _materialise(m, t, 1):
                return
            if not m.st[s, k.PINNED]:
                lock(m, s)
                m.st[s, k.PINNED] = 1


@numba.njit(**k.OPTIONS)
def _release(m, s):
    if m.n[k.MODE] == k.IGNORE:
        return
    m.st[s, k.REFS] -= 1
    if m.st[s, k.REFS] == 0:
        if m.n[k.MODE] == k.BANISH:
            try_banish(m, s)
        elif m.st[s, k.MATERIAL] and not m.st[s, k.PINNED]:
            evict(m, s, DROPPED)


@numba.njit(**k.OPTIONS)
def _compute(m, op):
    """Put an operator into the graph and run it; False when the run ends here."""
    first, end = m.op[op, 2], m.op[op, 3]
    for t in range(first, end):
        _create(m, t, op, first, end)
    for i in range(m.tt[first, k.PARENT_PTR], m.tt[first, k.PARENT_PTR] + m.tt[first, k.PARENT_LEN]):
        _extend(m, m.parent[i], first, end)
    if not _materialise(m, first, 0):
        return False
    for t in range(first, end):
        touch(m, m.tt[t, k.STORAGE])
    return True


@numba.njit(**k.OPTIONS)
def _create(m, t, op, first, end):
    """A new tensor: of a new storage, or one more in that of an input."""
    n, st = m.n, m.st
    s = m.tt[t, k.STORAGE]
    st[s, k.REFS] += 1
    if st[s, k.MEMBER_LEN] == 0 and n[k.KIND] == k.CLASSES:
        sim_classes.new_node(m, s, 0)
    st[s, k.MEMBER_LEN] += 1
    if st[s, k.LAST_OP] != op:  # the distinct operators of a storage; its tensors of one operator come together
        st[s, k.LAST_OP] = op
        st[s, k.C] += m.op[op, 0]
    for i in range(m.tt[t, k.PARENT_PTR], m.tt[t, k.PARENT_PTR] + m.tt[t, k.PARENT_LEN]):
        m.rev[st[s, k.REV_PTR] + st[s, k.REV_LEN]] = m.tt[m.parent[i], k.STORAGE]
        st[s, k.REV_LEN] += 1
        if n[k.MODE] == k.BANISH:
            set_waiting(m, m.tt[m.parent[i], k.STORAGE], t, True)
    if n[k.KIND] == k.LOCAL:
        set_numerator(m, s, float(st[s, k.C]))
    elif n[k.KIND] == k.ONE:
        set_numerator(m, s, 1.0)
    elif keeps_regions(m):
        sim_regions.update_numerator(m, s)


@numba.njit(**k.OPTIONS)
def _extend(m, p, first, end):
    """One more occurrence of the tensor `p` as an input of what makes `first` … `end` - 1."""
    n, st, s = m.n, m.st, m.tt[p, k.STORAGE]
    for t in range(first, end):
        m.fwd[st[s, k.FWD_PTR] + st[s, k.FWD_LEN]] = m.tt[t, k.STORAGE]
        st[s, k.FWD_LEN] += 1
        if n[k.MODE] == k.BANISH:
            m.child[m.tt[p, k.CHILD_PTR] + m.tt[p, k.CHILD_LEN]] = t
            m.tt[p, k.CHILD_LEN] += 1
        if (
            n[k.ON_DEMAND] and n[k.E_STAR] == k.CACHED and st[m.tt[t, k.STORAGE], k.RUN]
        ):  # a view: new ways through old storages
            sim_search.mark_around(m, m.tt[t, k.STORAGE])
    if n[k.ON_DEMAND]:
        mark(m, s)


@numba.njit(**k.OPTIONS)
def _enter(m, frame, top, t, again):
    """Begin to materialise `t`: refresh and lock its inputs, note those that must be materialised first."""
    st, tt = m.st, m.tt
    begin, end = tt[t, k.PARENT_PTR], tt[t, k.PARENT_PTR] + tt[t, k.PARENT_LEN]
    for i in range(begin, end):
        s = tt[m.parent[i], k.STORAGE]
        if m.n[k.MODE] != k.BANISH or st[s, k.REFS] > 0:
            touch(m, s)
    row = m.frames[frame]
    row[_TENSOR], row[_IS_AGAIN], row[_BEGIN], row[_AT] = t, again, top, top
    for i in range(begin, end):
        p = m.parent[i]
        if tt[p, k.DEFINED]:
            lock(m, tt[p, k.STORAGE])
        else:
            m.snapshots[top] = p
            top += 1
    row[_END] = top
    m.n[k.DEPTH] = max(m.n[k.DEPTH], frame + 1)


@numba.njit(**k.OPTIONS)
def _materialise(m, t, again):
    """Compute a tensor and, before it, inputs that are evicted; explicit frames, for chains are thousands deep."""
    frame = 0
    _enter(m, 0, 0, t, again)
    while frame >= 0:
        row = m.frames[frame]
        if row[_AT] < row[_END]:
            p = m.snapshots[row[_AT]]
            if m.tt[p, k.DEFINED]:
                lock(m, m.tt[p, k.STORAGE])
                row[_AT] += 1
            else:
                frame += 1
                _enter(m, frame, row[_END], p, 1)
            continue
        if not _execute(m, row[_TENSOR], row[_IS_AGAIN]):
            return False
        frame -= 1
    return True


@numba.njit(**k.OPTIONS)
def _execute(m, t, again):
    """Run the operator of `t`, whose inputs are there and locked; False when the run ends here."""
    n, st, tt = m.n, m.st, m.tt
    op = tt[t, k.OP]
    cost, total, first, end = m.op[op, 0], m.op[op, 1], m.op[op, 2], m.op[op, 3]
    if n[k.MEM] + total > n[k.BUDGET] and not free(m, total):
        n[k.STATUS], n[k.FAILED] = k.OUT_OF_MEMORY, op
        return False
    n[k.CLOCK] += cost
    n[k.MEM] += total
    n[k.MAX_MEM] = max(n[k.MAX_MEM], n[k.MEM])
    if again:
        n[k.REMAT] += cost
        n[k.REMATS] += 1
        trace(m, AGAIN, t)
    else:
        n[k.MODEL] += cost
        n[k.OPS] += 1
        trace(m, COMPUTED, t)
    made = 0
    for i in range(end - first):  # the siblings in order, then t
        u = t if i == end - first - 1 else first + i + (first + i >= t)
        s = tt[u, k.STORAGE]
        if tt[u, k.DEFINED]:
            n[k.MEM] -= tt[u, k.BYTES]  # computed twice; the new copy is thrown away at once
        tt[u, k.DEFINED] = 1
        if not st[s, k.MATERIAL]:
            st[s, k.MATERIAL], st[s, k.RUN] = 1, 1
            m.fresh[made] = s
            made += 1
    for i in range(made):
        if st[m.fresh[i], k.LOCKS] == 0:
            append(m, m.fresh[i])
    if made:
        _note_fresh(m, made)
    if n[k.MODE] == k.BANISH:
        after_operator(m, t, first, end)
    else:
        for i in range(tt[t, k.PARENT_PTR], tt[t, k.PARENT_PTR] + tt[t, k.PARENT_LEN]):
            unlock(m, tt[m.parent[i], k.STORAGE])
    if n[k.REMAT] > n[k.LIMIT]:
        n[k.STATUS], n[k.FAILED] = k.THRASH, op
        return False
    return True


@numba.njit(**k.OPTIONS)
def _note_fresh(m, made):
    """The heuristic's bookkeeping for storages that an operator made material."""
    if m.n[k.KIND] == k.CLASSES:
        for i in range(made):
            sim_classes.materialised(m, m.fresh[i])
    elif keeps_regions(m):
        sim_regions.materialised(m, m.fresh[:made])
    elif m.n[k.ON_DEMAND] and m.n[k.E_STAR] == k.CACHED:
        for i in range(made):
            sim_search.mark_around(m, m.fresh[i])


def _cached(sources: int):
    """`run` kept on disk. Numba renews a kept function when its own file changes, and not when those that it calls do;
    a number that it closes over is part of what it is found by."""

    @numba.njit(cache=True, nogil=True, error_model="numpy")
    def run(m, action, target):
        m.n[k.SOURCES] = sources
        _run(m, action, target)

    return run


def _sources() -> int:
    """A number that changes with any of the files that are compiled into `run`."""
    texts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("sim_*.py"))]
    return int.from_bytes(hashlib.sha256(b"".join(texts)).digest()[:7])


# run(state, action, target): go through a schedule; STATUS and FAILED say where it ended
run = _cached(_sources())
