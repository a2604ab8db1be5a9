"""ẽ*: the evicted neighbourhood by classes of a union-find forest (ICLR 2021, section 4.2 and appendix C).

A storage that is not material has a node; a class's value, at its root, is the summed cost of its members, and may be
off (also below 0): a storage that is computed again takes its cost out of the class, and leaves the others together.
A storage's sum is computed again only when a class beside it changed; what the search would have read is counted as
if it had been.
"""

from __future__ import annotations

import numba

from frugal.dtr.sim_pool import mark, set_numerator
from frugal.dtr.sim_state import (
    ACCESS, ACCESSES, CHECKED, FWD_LEN, FWD_PTR, MATERIAL, NODE, NODES, OPTIONS, PERIOD, POOL_ACCESSES, POOL_LIVE,
    REV_LEN, REV_PTR, STALE_ALL, STAMP, C,
)  # fmt: skip

_UP, _VALUE, _STORAGE, _NEXT, _FIRST, _LAST, _MEMBERS = range(7)  # columns of State.node


@numba.njit(**OPTIONS)
def new_node(m, s, value):
    """Give a storage a class of its own."""
    if m.n[NODES] == len(m.node):
        _collect(m)
    node = m.n[NODES]
    m.n[NODES] += 1
    m.st[s, NODE] = node
    row = m.node[node]
    row[_UP], row[_VALUE], row[_STORAGE], row[_NEXT] = node, value, s, -1
    row[_FIRST], row[_LAST], row[_MEMBERS] = node, node, 1
    m.node_mark[node] = 0


@numba.njit(**OPTIONS)
def _find(m, node):
    """The root, compressing the path; the nodes on it are counted."""
    up, root, length = m.node, node, 1
    while up[root, _UP] != root:
        root = up[root, _UP]
        length += 1
    while up[node, _UP] != root:
        up[node, _UP], node = root, up[node, _UP]
    m.n[ACCESSES] += length
    return root


@numba.njit(**OPTIONS)
def _collect(m):
    """Forget nodes that no storage and no class needs: every node hangs on its root, and they are numbered anew."""
    node, accesses = m.node, m.n[ACCESSES]
    for i in range(m.n[NODES]):
        _find(m, i)
    m.n[ACCESSES] = accesses  # not the algorithm's own
    new, kept = m.node_mark, 0
    for i in range(m.n[NODES]):
        new[i] = -1
    for i in range(m.n[NODES]):  # members are kept, and the roots of classes that have any
        if node[i, _STORAGE] >= 0:
            new[i] = 0
            new[node[i, _UP]] = 0
    for i in range(m.n[NODES]):
        if new[i] == 0:
            new[i] = kept
            kept += 1
    for i in range(m.n[NODES]):  # ascending, so a row is read before it is written over
        to = new[i]
        if to >= 0:
            root, value, s = new[node[i, _UP]], node[i, _VALUE], node[i, _STORAGE]
            node[to, _UP], node[to, _VALUE], node[to, _STORAGE] = root, value, s
            if s >= 0:
                m.st[s, NODE] = to
    m.n[NODES] = kept
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


@numba.njit(**OPTIONS)
def _mark_beside(m, root):
    """Mark the material neighbours of a class's members; everything, where that is less work."""
    n, st, node = m.n, m.st, m.node
    if node[root, _MEMBERS] > n[POOL_LIVE]:
        n[PERIOD] += 1
        n[STALE_ALL] = 1
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
            for i in range(st[s, FWD_PTR], st[s, FWD_PTR] + st[s, FWD_LEN]):
                if st[m.fwd[i], MATERIAL] and st[m.fwd[i], CHECKED] == n[PERIOD]:
                    mark(m, m.fwd[i])
            for i in range(st[s, REV_PTR], st[s, REV_PTR] + st[s, REV_LEN]):
                if st[m.rev[i], MATERIAL] and st[m.rev[i], CHECKED] == n[PERIOD]:
                    mark(m, m.rev[i])
        before, at = at, following


@numba.njit(**OPTIONS)
def materialised(m, s):
    """Bookkeeping after a storage was computed: its cost leaves the class, its node is dropped."""
    _find(m, m.st[s, NODE])  # the published code reads through one search and writes through another
    root = _find(m, m.st[s, NODE])
    m.node[root, _VALUE] -= m.st[s, C]
    _mark_beside(m, root)
    m.node[m.st[s, NODE], _STORAGE] = -1
    m.st[s, NODE] = -1
    mark(m, s)


@numba.njit(**OPTIONS)
def evicted(m, s):
    """Bookkeeping after an eviction: a class of its own, merged with those of evicted neighbours."""
    n, st = m.n, m.st
    new_node(m, s, st[s, C])
    n[STAMP] += 1
    for side in range(2):
        edges = m.rev if side == 0 else m.fwd
        first = st[s, REV_PTR] if side == 0 else st[s, FWD_PTR]
        count = st[s, REV_LEN] if side == 0 else st[s, FWD_LEN]
        n[ACCESSES] += count
        for i in range(first, first + count):
            other = edges[i]
            if other != s and not st[other, MATERIAL] and m.mark[other] != n[STAMP]:
                m.mark[other] = n[STAMP]
                _merge(m, _find(m, st[s, NODE]), _find(m, st[other, NODE]))
    _mark_beside(m, st[s, NODE])


@numba.njit(**OPTIONS)
def _merge(m, root, other):
    node = m.node
    if root == other:
        return
    node[other, _UP] = root
    node[root, _VALUE] += node[other, _VALUE]
    node[node[root, _LAST], _NEXT] = node[other, _FIRST]
    node[root, _LAST] = node[other, _LAST]
    node[root, _MEMBERS] += node[other, _MEMBERS]


@numba.njit(**OPTIONS)
def evaluate(m, s):
    """c + Ẽ of a storage. What is read now is counted beyond ACCESS, which every choice counts."""
    n, st = m.n, m.st
    n[STAMP] += 1
    edges_of = st[s, FWD_LEN] + st[s, REV_LEN]
    stamp, total, steady = n[STAMP], st[s, C], edges_of
    for side in range(2):
        edges = m.rev if side == 0 else m.fwd
        first = st[s, REV_PTR] if side == 0 else st[s, FWD_PTR]
        count = st[s, REV_LEN] if side == 0 else st[s, FWD_LEN]
        for i in range(first, first + count):
            other = edges[i]
            if other != s and not st[other, MATERIAL] and m.mark[other] != stamp:
                m.mark[other] = stamp
                node = st[other, NODE]
                root = _find(m, node)
                steady += 1 if root == node else 2
                if m.node_mark[root] != stamp:
                    m.node_mark[root] = stamp
                    total += m.node[root, _VALUE]
    n[ACCESSES] += edges_of - steady  # the searches are counted; the choice will count `steady`
    n[POOL_ACCESSES] += steady - st[s, ACCESS]  # s is in the pool
    st[s, ACCESS] = steady
    st[s, CHECKED] = n[PERIOD]
    set_numerator(m, s, float(total))
