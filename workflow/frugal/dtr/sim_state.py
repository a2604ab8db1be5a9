"""The state of one simulated run: integer tables with a row a storage or tensor, and scalars, for compiled code.

A table is one int64 array with named columns, so that everything about a storage lies in one place and few arrays
travel between functions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from frugal.dtr.graph import Graph

# Scalars (`State.n`). PERIOD: marks made in an earlier one do not count.
(
    CLOCK, MEM, BUDGET, MAX_MEM, MODEL, REMAT, LIMIT, MODE, OPS, EVICTIONS, EAGER, REMATS, EVALS, ACCESSES, EVENTS,
    DEPTH, SHORT, NEED, FAILED, POOL_END, POOL_LIVE, STAMP, NODES, DIRTY_COUNT, STALE_ALL, PERIOD, POOL_ACCESSES,
    RANDOM_AT, KIND, SIZED, STALE, PROOF, STATUS, E_STAR, ON_DEMAND, SOURCES,
) = range(36)  # fmt: skip

# Columns of `State.st`, a row a storage. POSITION: in the pool, -1 outside. FWD, REV: edges to storages of children and
# of parents, from the ..._PTR on, ..._LEN of them so far. CHECKED: the period in which its numerator was computed.
# ACCESS: what evaluating it again would count. NODE: of the union-find forest, -1 for none. WAITING: children that are
# not computed (banishing). RUN: whether it was ever material.
(
    SIZE, C, LAST, LOCKS, REFS, MATERIAL, PINNED, POSITION, LAST_OP, FWD_PTR, FWD_LEN, REV_PTR, REV_LEN, MEMBER_PTR,
    MEMBER_LEN, CHECKED, LISTED, ACCESS, NODE, WAITING, BANISHED, RUN,
) = range(22)  # fmt: skip

# Columns of `State.tt`, a row a tensor.
DEFINED, OP, STORAGE, BYTES, PARENT_PTR, PARENT_LEN, CHILD_PTR, CHILD_LEN = range(8)

IGNORE, EVICT, BANISH = range(3)  # MODE
OK, OUT_OF_MEMORY, THRASH = range(3)  # STATUS
# KIND, the numerator: one; c; c + the classes' values; c + both regions; c + evicted ancestors; the last access;
# a random choice; the published unoptimised function.
ONE, LOCAL, CLASSES, REGIONS, ANCESTORS, RECENT, RANDOM, UNOPTIMISED = range(8)
# E_STAR: how REGIONS and ANCESTORS know their neighbourhoods; ON_DEMAND: whether numerators are computed when a choice
# needs them (CLASSES, CACHED and LAZY).
MAINTAINED, LAZY, CACHED = range(3)

# Of everything that is compiled here. No reference counts (`_nrt`): nothing is allocated inside, and counting the
# arrays of a State up and down at every call took 15 times as long as the simulation. No entries for Python and C:
# only `frugal.dtr.sim_kernels.run` is called from outside, and they took a third of the compile time.
OPTIONS = {
    "nogil": True,
    "error_model": "numpy",
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


class State(NamedTuple):
    """See above. parent, child: tensors by PARENT_PTR and CHILD_PTR; fwd, rev: storages; member: tensors; waits:
    whether a tensor is in the WAITING of the storage of the parent at the same place (the first of that storage).
    pool_*: the candidates in order, with holes (id -1). numerator: of each storage. stack*: scratch of searches."""

    n: np.ndarray
    st: np.ndarray
    tt: np.ndarray
    op: np.ndarray  # cost, total, first output, end of outputs
    parent: np.ndarray
    parent_at_first: np.ndarray
    waits: np.ndarray
    child: np.ndarray
    fwd: np.ndarray
    rev: np.ndarray
    member: np.ndarray
    pool_id: np.ndarray
    pool_num: np.ndarray
    pool_weight: np.ndarray
    pool_last: np.ndarray
    pool_cost: np.ndarray
    numerator: np.ndarray
    stack: np.ndarray
    fresh: np.ndarray  # storages that an operator made material
    mark: np.ndarray
    frames: np.ndarray
    snapshots: np.ndarray
    dirty: np.ndarray
    node: np.ndarray  # parent, value, storage, next in class, first, last and number of members
    node_mark: np.ndarray
    bits: np.ndarray  # regions: [direction, interior or frontier, storage, word]; the last row is scratch
    region: np.ndarray  # [direction, storage]: compute, first word, end of words
    random: np.ndarray  # state of the Mersenne twister
    trace: np.ndarray


class Layout(NamedTuple):
    """What is the same in every run of a graph: tables in their first state and static lists."""

    st: np.ndarray
    tt: np.ndarray
    op: np.ndarray
    parent: np.ndarray
    edges: int


def layout(graph: Graph) -> Layout:
    """The tables of a graph before anything ran."""
    storages, tensors = len(graph.storage_size), len(graph.tensor_op)
    op = np.stack([graph.op_cost, graph.op_total, graph.op_first[:-1], graph.op_first[1:]], axis=1)
    counts = np.diff(graph.op_in_ptr)[graph.tensor_op]
    parent_ptr = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(parent_ptr[-1]) - np.repeat(parent_ptr[:-1], counts)
    parent = graph.op_in[np.repeat(graph.op_in_ptr[graph.tensor_op], counts) + within]
    tt = np.zeros((tensors, 8), np.int64)
    tt[:, OP], tt[:, STORAGE], tt[:, BYTES] = graph.tensor_op, graph.tensor_storage, graph.tensor_size
    tt[:, PARENT_PTR], tt[:, PARENT_LEN], tt[:, CHILD_PTR] = parent_ptr[:-1], counts, graph.child_ptr[:-1]
    st = np.zeros((storages, 22), np.int64)
    st[:, SIZE] = graph.storage_size
    st[:, [POSITION, LAST_OP, NODE, CHECKED]] = -1
    fwd = np.bincount(graph.tensor_storage[parent], minlength=storages)
    rev = np.bincount(graph.tensor_storage, weights=counts, minlength=storages).astype(np.int64)
    st[1:, FWD_PTR], st[1:, REV_PTR] = np.cumsum(fwd)[:-1], np.cumsum(rev)[:-1]
    st[:, MEMBER_PTR] = graph.member_ptr[:-1]
    return Layout(st, tt, op, parent, int(parent_ptr[-1]))


def new_state(
    graph: Graph, static: Layout, *, kind: int, banish: bool, regions: bool, trace: int, random: np.ndarray
) -> State:
    """Arrays for one run; those that its heuristic or mode does not use are empty."""
    storages = static.st.shape[0]
    room = 2 * storages + 64  # of the pool: it is packed when it is full
    nodes = 4 * storages + 4096 if kind == CLASSES else 0
    words = (storages + 63) // 64 if regions else 0
    edges = static.edges
    return State(
        n=np.zeros(36, np.int64),
        st=static.st.copy(),
        tt=static.tt.copy(),
        op=static.op,
        parent=static.parent.copy() if banish else static.parent,
        parent_at_first=static.parent,
        waits=np.zeros(edges if banish else 0, np.bool_),
        child=np.empty(len(graph.child) if banish else 0, np.int64),
        fwd=np.empty(edges, np.int64),
        rev=np.empty(edges, np.int64),
        member=graph.member,
        pool_id=np.empty(room, np.int64),
        pool_num=np.empty(room),
        pool_weight=np.empty(room),
        pool_last=np.empty(room),
        pool_cost=np.empty(room),
        numerator=np.zeros(storages),
        stack=np.empty(storages + 1, np.int64),
        fresh=np.empty(1 + int(np.diff(graph.op_first).max(initial=0)), np.int64),
        mark=np.zeros(storages, np.int64),
        frames=np.empty((static.op.shape[0] + 1, 5), np.int64),
        snapshots=np.empty(len(graph.op_in) + 1, np.int64),
        dirty=np.empty(storages + 1, np.int64),
        node=np.empty((nodes, 7), np.int64),
        node_mark=np.zeros(nodes, np.int64),
        bits=np.zeros((2, 2, storages + 1 if regions else 0, words), np.uint64),
        region=np.zeros((2, storages if regions else 0, 3), np.int64),
        random=random,
        trace=np.empty(trace, np.int64),
    )
