"""The simulator: a log replayed under a budget, with the published simulator's decisions.

Sizes are bytes and costs integers (ns). What decides is stated in `frugal.dtr.heuristics` and the `sim_*` modules,
which are compiled on first use and kept on disk.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np

from frugal.dtr import sim_state
from frugal.dtr.graph import Graph
from frugal.dtr.heuristics import HEURISTICS, Heuristic, find
from frugal.dtr.logs import Log

DEALLOCS = ("ignore", "evict", "banish")
E_STARS = ("maintained", "lazy", "cached")
STATUSES = ("ok", "oom", "thrash")
UNLIMITED = 2**62  # bytes, or ns
_LETTERS = "EDRC"
_layouts: WeakKeyDictionary[Graph, sim_state.Layout] = WeakKeyDictionary()


@dataclass(frozen=True)
class Baseline:
    """A program without a budget, its memory returned as soon as that can be (dealloc="banish").

    memory: peak bytes; ratio 1.0 is this. compute: ns. const: bytes of constants. bottleneck: the most bytes of one
    operator's outputs and inputs (an input twice counts twice, a view 0), the published figures' second band.
    """

    memory: int
    compute: int
    const: int
    bottleneck: int


@dataclass(frozen=True)
class SimResult:
    """What came of a simulated run.

    status: ok; oom (an operator had no room: failed_op, its required_bytes, and short_bytes beyond all that could be
    evicted); thrash (recomputation passed its limit at failed_op). clock: ns, from 1. overhead: clock over the time of
    a run without a budget. model_compute, remat_compute: ns of first and of repeated runs. max_memory, final_memory:
    bytes. ops_executed: first runs; remats: repeated ones; evictions: chosen; eager_evictions: by deallocation.
    heuristic_evals: candidates evaluated; tensor_accesses: these and the edges read for them. max_depth: operators
    that wait for one another at once. trace, decision_sha1: where asked for, E<root>; (chosen eviction), D<root>;
    (deallocation), R<tensor>; (run again) and C<tensor>; (first run) in order of time, and its SHA-1.
    failed_op is an operator's number in the log's graph, failed_name its name.
    """

    status: str
    clock: int
    overhead: float
    model_compute: int
    remat_compute: int
    max_memory: int
    final_memory: int
    ops_executed: int
    evictions: int
    eager_evictions: int
    remats: int
    heuristic_evals: int
    tensor_accesses: int
    budget_bytes: int | None
    max_depth: int
    failed_op: int | None = None
    failed_name: str | None = None
    required_bytes: int | None = None
    short_bytes: int | None = None
    decision_sha1: str | None = None
    trace: str | None = None


def simulate(
    log: Log,
    heuristic: str = "h_dtr_eq",
    budget: int | None = None,
    *,
    ratio: float | None = None,
    dealloc: str = "evict",
    seed: int = 0,
    overhead_limit: float = 2.0,
    e_star: str = "maintained",
    trace: bool = False,
    proof: bool = False,
) -> SimResult:
    """Replay a log under a budget in bytes, or a `ratio` of its unbudgeted peak; under neither, without one.

    heuristic: a name of HEURISTICS or a published one. dealloc: what a release does: nothing (`ignore`), evict the
    dead storage (`evict`), or remove it for good when nothing waits for it (`banish`). seed: of h_rand.
    overhead_limit: the run ends as `thrash` when recomputation takes more than (limit - 1) × the time of a run without
    a budget; math.inf for no limit. e_star: how heuristics that need the evicted neighbourhood know it: `maintained`
    as the published simulator does, or by a new search for each candidate (`lazy`), or by searches whose results are
    kept until something beside them changes (`cached`: the decisions of `lazy`).
    proof: compare costs as exact fractions, slowly; not for h_rand and h_dtr_unopt, which do not compare such.
    Raises ValueError for arguments that make no sense together.
    """
    chosen = find(heuristic)
    refuse(chosen, dealloc, e_star, proof)
    bytes_ = budget_of(log, budget, ratio)
    baseline = log.baseline()
    limit = remat_limit(baseline.compute, overhead_limit)
    run = {"mode": DEALLOCS.index(dealloc), "seed": seed, "e_star": E_STARS.index(e_star), "proof": proof}
    room = 4 * len(log.graph.action) if trace else 0
    state = _run(log.graph, chosen, bytes_, limit, room=room, **run)
    if trace and state.n[sim_state.EVENTS] > room:  # a run is the same each time, so now its length is known
        state = _run(log.graph, chosen, bytes_, limit, room=int(state.n[sim_state.EVENTS]), **run)
    if state.n[sim_state.PROOF] == 2:
        raise ValueError("proof=True needs sizes and times whose products stay below 2^63: scale them down")
    text = _text(state) if trace else None
    return _result(log, state, baseline.compute, None if bytes_ == UNLIMITED else bytes_, text)


def budget_of(log: Log, budget: int | None, ratio: float | None) -> int:
    """A budget in bytes; UNLIMITED for none. Raises ValueError for two at once, or one that is not above 0."""
    if budget is not None and ratio is not None:
        raise ValueError(f"budget={budget} and ratio={ratio} are two budgets: give one of them")
    if ratio is not None:
        if not isinstance(ratio, int | float) or not (ratio > 0 and math.isfinite(ratio)):
            raise ValueError(f"ratio={ratio!r} is not allowed: a number above 0, of the peak without a budget")
        return int(log.baseline().memory * ratio)
    if budget is None:
        return UNLIMITED
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or not 0 < budget <= UNLIMITED:
        raise ValueError(f"budget={budget!r} is not allowed: a whole number of bytes above 0, or None for no budget")
    return int(budget)


def remat_limit(compute: int, overhead_limit: float) -> int:
    """The most ns of recomputation under an overhead limit. Raises ValueError for one below 1 or NaN."""
    if not overhead_limit >= 1:
        raise ValueError(f"overhead_limit={overhead_limit!r} is not allowed: at least 1 (nothing is recomputed)")
    return int(min(compute * (overhead_limit - 1), UNLIMITED)) if compute else UNLIMITED


def refuse(heuristic: Heuristic, dealloc: str, e_star: str, proof: bool = False) -> None:
    """Raise ValueError for options that are not known, or not allowed with a heuristic."""
    if dealloc not in DEALLOCS:
        raise ValueError(f"dealloc={dealloc!r} is not known: one of {', '.join(DEALLOCS)}")
    if e_star not in E_STARS:
        raise ValueError(f"e_star={e_star!r} is not known: one of {', '.join(E_STARS)}")
    if dealloc == "banish" and not heuristic.banishes:
        allowed = ", ".join(h.name for h in HEURISTICS.values() if h.banishes)
        raise ValueError(f"{heuristic.name} keeps neighbourhoods, which banishing breaks: allowed are {allowed}")
    if proof and heuristic.kind in (sim_state.RANDOM, sim_state.UNOPTIMISED):
        raise ValueError(f"proof=True compares fractions, which {heuristic.name} does not: leave it out")


def measure_baseline(log: Log) -> Baseline:
    """What `Log.baseline` keeps."""
    graph = log.graph
    state = _run(graph, find("h_local"), UNLIMITED, UNLIMITED, mode=sim_state.BANISH)
    constants = graph.op_first[:-1][graph.op_constant]
    inputs = np.concatenate([[0], np.cumsum(graph.tensor_size[graph.op_in])])
    needs = graph.op_total + inputs[graph.op_in_ptr[1:]] - inputs[graph.op_in_ptr[:-1]]
    return Baseline(
        memory=int(state.n[sim_state.MAX_MEM]),
        compute=int(state.n[sim_state.MODEL]),
        const=int(graph.tensor_size[constants].sum()),
        bottleneck=int(needs.max(initial=0)),
    )


def _run(graph: Graph, heuristic: Heuristic, budget: int, limit: int, **options: int) -> sim_state.State:
    from frugal.dtr.sim_kernels import run  # compiled code is loaded by the first run

    state = begun(graph, heuristic, budget, limit, **options)
    run(state, graph.action, graph.target)
    return state


def begun(
    graph: Graph, heuristic: Heuristic, budget: int, limit: int, *, mode: int = sim_state.EVICT, seed: int = 0,
    e_star: int = sim_state.MAINTAINED, proof: bool = False, room: int = 0,
) -> sim_state.State:  # fmt: skip
    """The state before anything ran, for `frugal.dtr.sim_kernels.run`, which may go through a schedule in pieces."""
    static = _layouts.get(graph)
    if static is None:
        static = _layouts[graph] = sim_state.layout(graph)
    key, at = _twister(seed) if heuristic.kind == sim_state.RANDOM else (np.empty(0, np.uint32), 0)
    state = sim_state.new_state(
        graph,
        static,
        kind=heuristic.kind,
        banish=mode == sim_state.BANISH,
        regions=heuristic.searches and e_star == sim_state.MAINTAINED,
        trace=room,
        random=key.copy(),
    )
    n = state.n
    n[sim_state.CLOCK], n[sim_state.BUDGET], n[sim_state.LIMIT], n[sim_state.MODE] = 1, budget, limit, mode
    n[sim_state.KIND], n[sim_state.SIZED], n[sim_state.STALE] = heuristic.kind, heuristic.sized, heuristic.stale
    n[sim_state.PROOF], n[sim_state.E_STAR], n[sim_state.RANDOM_AT] = proof, e_star, at
    n[sim_state.ON_DEMAND] = heuristic.kind == sim_state.CLASSES or (
        heuristic.searches and e_star != sim_state.MAINTAINED
    )
    return state


@lru_cache(maxsize=64)
def _twister(seed: int) -> tuple[np.ndarray, int]:
    """The state of `random.Random(seed)`: 624 words and the place in them."""
    words = random.Random(seed).getstate()[1]
    return np.array(words[:-1], np.uint32), words[-1]


def _text(state: sim_state.State) -> str:
    events = state.trace[: state.n[sim_state.EVENTS]].tolist()
    return "".join([f"{_LETTERS[event & 3]}{event >> 2};" for event in events])


def _result(log: Log, state: sim_state.State, compute: int, budget: int | None, text: str | None) -> SimResult:
    n = state.n.tolist()
    status = STATUSES[n[sim_state.STATUS]]
    failed = n[sim_state.FAILED] if status != "ok" else None
    short = status == "oom"
    return SimResult(
        status=status,
        clock=n[sim_state.CLOCK],
        overhead=n[sim_state.CLOCK] / compute if compute else math.inf,
        model_compute=n[sim_state.MODEL],
        remat_compute=n[sim_state.REMAT],
        max_memory=n[sim_state.MAX_MEM],
        final_memory=n[sim_state.MEM],
        ops_executed=n[sim_state.OPS],
        evictions=n[sim_state.EVICTIONS],
        eager_evictions=n[sim_state.EAGER],
        remats=n[sim_state.REMATS],
        heuristic_evals=n[sim_state.EVALS],
        tensor_accesses=n[sim_state.ACCESSES],
        budget_bytes=budget,
        max_depth=n[sim_state.DEPTH],
        failed_op=failed,
        failed_name=None if failed is None else log.table.column("op")[int(log.graph.op_row[failed])].as_py(),
        required_bytes=n[sim_state.NEED] if short else None,
        short_bytes=n[sim_state.SHORT] if short else None,
        decision_sha1=None if text is None else hashlib.sha1(text.encode()).hexdigest(),
        trace=text,
    )
