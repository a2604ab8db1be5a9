"""A program made against a heuristic: whatever it decides, the next operator is where that hurts.

Chains begin at one constant, a chain for each unit of the budget. The constant takes one unit, so that the rest cannot
hold a value of every chain: at each step some chain has none, and an adversary that watches the simulator extends the
longest of these. To go on with a chain of l operators then takes l recomputations. Lengths L_c, Σ L_c = n, give

    recomputations ≥ Σ_c L_c (L_c - 1) / 2 ≥ n (n/B - 1) / 2

for any deterministic heuristic, where a run that may choose the order computes one chain after the other, n operators
in all (ICLR 2021, section 3, bounds online heuristics so).
"""

from __future__ import annotations

import numpy as np

from frugal.dtr import sim_state
from frugal.dtr.graph import COMPUTE, PIN
from frugal.dtr.heuristics import Heuristic, find
from frugal.dtr.logs import Instruction, Log
from frugal.dtr.sim import UNLIMITED, begun


def adversary(n: int, budget: int, heuristic: str = "h_dtr_eq", *, seed: int = 0) -> Log:
    """The program of n unit operators that an adversary makes against a heuristic under a budget in units.

    Simulate it with that heuristic and budget, dealloc="evict" and overhead_limit=math.inf. seed: of h_rand. Raises
    ValueError for n < 1, and for a budget below 3: a value, the one that it is made from, and the constant.
    """
    if n < 1 or budget < 3:
        raise ValueError(f"adversary(n={n}, budget={budget}): n is at least 1, the budget at least 3 units")
    chosen, longest = find(heuristic), -(-2 * n // budget)
    while (extended := _played(n, budget, chosen, seed, longest)) is None:
        longest *= 2
    tips, names = [0] * budget, 0
    rows = [Instruction("constant", "constant", results=(0,), sizes=(1,))]
    for chain in extended:
        names += 1
        rows.append(Instruction("call", "f", 1, (tips[chain],), (names,), (1,), (-1,)))
        tips[chain] = names
    rows += [Instruction("release", args=(name,)) for name in range(1, names + 1)]
    return Log.of(rows, model=f"adversary of {chosen.name}", sizes=f"n={n}, budget={budget}")


def _played(n: int, budget: int, heuristic: Heuristic, seed: int, longest: int) -> list[int] | None:
    """Which chain was extended at each step; None where one would be longer than `longest`."""
    from frugal.dtr.sim_kernels import run

    graph = _chains(budget, longest).graph
    state = begun(graph, heuristic, budget, UNLIMITED, seed=seed)
    run(state, np.array([COMPUTE, PIN]), np.array([0, 0]))
    lengths, extended = np.zeros(budget, np.int64), []
    for _ in range(n):
        there = state.st[1:, sim_state.MATERIAL].reshape(budget, longest).any(axis=1)
        chain = int(np.argmax(np.where(there, -1, lengths)))
        if lengths[chain] == longest:
            return None
        # tensor, storage and operator 0 are the constant's
        run(state, np.array([COMPUTE]), np.array([1 + chain * longest + lengths[chain]]))
        lengths[chain] += 1
        extended.append(chain)
    return extended


def _chains(count: int, length: int) -> Log:
    """Every operator that an adversary may come to, chain by chain; the state knows those alone that have run."""
    rows = [Instruction("constant", "constant", results=(0,), sizes=(1,))]
    for chain in range(count):
        for at in range(length):
            name = 1 + chain * length + at
            rows.append(Instruction("call", "f", 1, (name - 1 if at else 0,), (name,), (1,), (-1,)))
    return Log.of(rows)
