"""ẽ*: the evicted neighbourhood by classes of a union-find forest (ICLR 2021, section 4.2 and appendix C).

A storage that is not material has a node; a class's value, at its root, is the summed cost of its members, and may be
off (also below 0): a storage that is computed again takes its cost out of the class, and leaves the others together.
A storage's sum is computed again only when a class beside it changed; what the search would have read is counted as
if it had been.
"""

from __future__ import annotations

import numba

from frugal.dtr import sim_state as k
from frugal.dtr.sim_pool import mark, set_numerator

_UP, _VALUE, _STORAGE, _NEXT, _FIRST, _LAST, _MEMBERS = range(7)  # columns of State.node


@numba.njit(**k.OPTIONS)
def new_node(m, s, value):
    """Give a storage a class of its own."""
    if m.n[k.NODES] == len(m.node):
        _collect(m)
    node = m.n[k.NODES]
    m.n[k.NODES] += 1
    m.st[s, k.NODE] = node
    row = m.node[node]
    row[_UP], row[_VALUE], row[_STORAGE], row[_NEXT] = node, value, s, -1
    row[_FIRST], row[_LAST], row[_MEMBERS] = node, node, 1
    m.node_mark[node] = 0


@numba.njit(**k.OPTIONS)
def _find(m, node):
    """The root, compressing the path; the nodes on it are counted."""
    up, root, length = m.node, node, 1
    while up[root, _UP] != root:
        root = up[root, _UP]
        length += 1
    while up[node, _UP] != root:
        up[node, _UP], node = root, up[node, _UP]
    m.n[k.ACCESSES] += length
    return root


@numba.njit(**k.OPTIONS)
def _collect(m):
    """Forget nodes that no storage and no class needs: every node hangs on its root, and they are numbered anew."""
    node, accesses = m.node, m.n[k.ACCESSES]
    for i in range(m.n[k.NODES]):
        _find(m, i)
    m.n[k.ACCESSES] = accesses  # not the algorithm's own
    new, kept = m.node_mark, 0
    for i in range(m.n[k.NODES]):
        new[i] = -1
    for i in range(m.n[k.NODES]):  # members are kept, and the roots of classes that have any
        if node[i, _STORAGE] >= 0:
            new[i] = 0
            new[node[i, _UP]] = 0
    for i in range(m.n[k.NODES]):
        if new[i] == 0:
            new[i] = kept
            kept += 1
    for i in range(m.n[k.NODES]):  # ascending, so a row is read before it is written over
        to = new[i]
        if to >= 0:
            root, value, s = new[node[i, _UP]], node[i, _VALUE], node[i, _STORAGE]
            node[to, _UP], node[to, _VALUE], node[to, _STORAGE] = root, value, s
            if s >= 0:
                m.st[s, k.NODE] = to
    m.n[k.NODES] = kept
    for i in range(kept):
        node[i, _FIRST], node[i, _LAST], node[i, _MEMBERS] = -1, -1, 0
        m.node_mark[i] = 0
    for i in range(kept):
        root = node[i, _UP]
        node[i, _NEXT] = node[root, _FIRST]
        if node[root, _LAST] < 0:
            node[root, _LAST] = i
        node[root, _FIRST] = i
        node[root, _MEMBERS] += 1


@numba.njit(**k.OPTIONS)
def _mark_beside(m, root):
    """Mark the material neighbours of a class's members; everything, where that is less work."""
    n, st, node = m.n, m.st, m.node
    if node[root, _MEMBERS] > n[k.POOL_LIVE]:
        n[k.PERIOD] += 1
        n[k.STALE_ALL] = 1
        return
    before, at = -1, node[root, _FIRST]
    while at >= 0:
        following, s = node[at, _NEXT], node[at, _STORAGE]
        if s < 0 and before >= 0 and following >= 0:  # a storage that left: out of the list, not out of the forest
            node[before, _NEXT] = following
            node[root, _MEMBERS] -= 1
            at = following
            continue
        if s >= 0:
            for i in range(st[s, k.FWD_PTR], st[s, k.FWD_PTR] + st[s, k.FWD_LEN]):
                if st[m.fwd[i], k.MATERIAL] and st[m.fwd[i], k.CHECKED] == n[k.PERIOD]:
                    mark(m, m.fwd[i])
            for i in range(st[s, k.REV_PTR], st[s, k.REV_PTR] + st[s, k.REV_LEN]):
                if st[m.rev[i], k.MATERIAL] and st[m.rev[i], k.CHECKED] == n[k.PERIOD]:
                    mark(m, m.rev[i])
        before, at = at, following


@numba.njit(**k.OPTIONS)
def materialised(m, s):
    """Bookkeeping after a storage was computed: its cost leaves the class, its node is dropped."""
    _find(m, m.st[s, k.NODE])  # the published code reads through one search and writes through another
    root = _find(m, m.st[s, k.NODE])
    m.node[root, _VALUE] -= m.st[s, k.C]
    _mark_beside(m, root)
    m.node[m.st[s, k.NODE], _STORAGE] = -1
    m.st[s, k.NODE] = -1
    mark(m, s)


@numba.njit(**k.OPTIONS)
def evicted(m, s):
    """Bookkeeping after an eviction: a class of its own, merged with those of evicted neighbours."""
    n, st = m.n, m.st
    new_node(m, s, st[s, k.C])
    n[k.STAMP] += 1
    for side in range(2):
        edges = m.rev if side == 0 else m.fwd
        first = st[s, k.REV_PTR] if side == 0 else st[s, k.FWD_PTR]
        count = st[s, k.REV_LEN] if side == 0 else st[s, k.FWD_LEN]
        n[k.ACCESSES] += count
        for i in range(first, first + count):
            other = edges[i]
            if other != s and not st[other, k.MATERIAL] and m.mark[other] != n[k.STAMP]:
                m.mark[other] = n[k.STAMP]
                _merge(m, _find(m, st[s, k.NODE]), _find(m, st[other, k.NODE]))
    _mark_beside(m, st[s, k.NODE])


@numba.njit(**k.OPTIONS)
def _merge(m, root, other):
    node = m.node
    if root == other:
        return
    node[other, _UP] = root
    node[root, _VALUE] += node[other, _VALUE]
    node[node[root, _LAST], _NEXT] = node[other, _FIRST]
    node[root, _LAST] = node[other, _LAST]
    node[root, _MEMBERS] += node[other, _MEMBERS]


@numba.njit(**k.OPTIONS)
def evaluate(m, s):
    """c + Ẽ of a storage. What is read now is counted beyond ACCESS, which every choice counts."""
    n, st = m.n, m.st
    n[k.STAMP] += 1
    edges_of = st[s, k.FWD_LEN] + st[s, k.REV_LEN]
    stamp, total, steady = n[k.STAMP], st[s, k.C], edges_of
    for side in range(2):
        edges = m.rev if side == 0 else m.fwd
        first = st[s, k.REV_PTR] if side == 0 else st[s, k.FWD_PTR]
        count = st[s, k.REV_LEN] if side == 0 else st[s, k.FWD_LEN]
        for i in range(first, first + count):
            other = edges[i]
            if other != s and not st[other, k.MATERIAL] and m.mark[other] != stamp:
                m.mark[other] = stamp
                node = st[other, k.NODE]
                root = _find(m, node)
                steady += 1 if root == node else 2
                if m.node_mark[root] != stamp:
                    m.node_mark[root] = stamp
                    total += m.node[root, _VALUE]
    n[k.ACCESSES] += edges_of - steady  # the searches are counted; the choice will count `steady`
    n[k.POOL_ACCESSES] += steady - st[s, k.ACCESS]  # s is in the pool
    st[s, k.ACCESS] = steady
    st[s, k.CHECKED] = n[k.PERIOD]
    set_numerator(m, s, float(total))
