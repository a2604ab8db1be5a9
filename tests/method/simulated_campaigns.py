"""Campaigns on a machine whose truth is known, so that what frugal says of them can be held against it.

The machine: ln of a block's median = the arm's level + what its process drew (once a session and arm: an autotuned
algorithm, an allocation) + the block's own noise + a drift along the blocks of the session. Everything is drawn at
once; `verdicts` hands it to frugal.compare as the three tables that a campaign leaves.

A count of simulations is held against the exact binomial quantiles of its probability at 1e-6: a right implementation
fails one run in a million (and the seeds are fixed besides).
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
from scipy import integrate
from scipy import stats as sps

from frugal.compare import compare
from frugal.records import SCHEMAS, table_of
from frugal.timing import palindromes
from tests.frugal.record_rows import a_row, a_run

N = 2000
BASELINE, OURS = 0, 1


@dataclass(frozen=True)
class Machine:
    """Standard deviations of ln time: between processes, for each arm, and between the blocks of one process."""

    process: float
    block: float

    def error(self, sessions: int, rounds: int = 2) -> float:
        """Standard error of a mean ln ratio of two arms."""
        return float(np.sqrt(2 * (self.process**2 + self.block**2 / rounds) / sessions))


# As measured on an H200 (process / block): a matrix product, a kernel with some spread, an autotuned convolution.
MATMUL = Machine(0.0015, 0.0025)
ORDINARY = Machine(0.004, 0.003)
AUTOTUNED = Machine(0.05, 0.002)


def draw(
    seed: int,
    machine: Machine,
    sessions: int,
    *,
    difference: float = 0.0,
    families: int = N,
    cases: int = 1,
    rounds: int = 2,
    drift: float = 0.0,
    order: str = "palindromes",
) -> np.ndarray:
    """ln times [family, case, session, round, arm]; arm OURS is slower than BASELINE by exp(difference).

    `drift` is what the first block of a session and the last differ by. `order` of the blocks: `palindromes`, or
    `sequential`, which is all rounds of one arm and then all of the other.
    """
    rng = np.random.default_rng(seed)
    shape = (families, cases, sessions, rounds, 2)
    logs = rng.normal(0, machine.process, (families, cases, sessions, 1, 2)) + rng.normal(0, machine.block, shape)
    logs[..., OURS] += difference
    if drift:
        logs += drift * _places(seed, shape, order) / (2 * rounds - 1)
    return logs


def _places(seed: int, shape: tuple[int, ...], order: str) -> np.ndarray:
    """The place of each block in its session, from 0."""
    rounds = shape[3]
    if order == "sequential":
        return np.broadcast_to(np.arange(2 * rounds).reshape(2, rounds).T, shape)
    rng = random.Random(seed)
    places = np.empty((int(np.prod(shape[:3])), rounds, 2))
    for session in places:
        for round_, arms in enumerate(palindromes([BASELINE, OURS], rounds, rng)):
            for position, arm in enumerate(arms):
                session[round_, arm] = 2 * round_ + position
    return places.reshape(shape)


def verdicts(logs: np.ndarray, *, hz: np.ndarray | None = None, preset: str = "headline", **given) -> list[dict]:
    """The comparisons that frugal draws from ln times [family, case, session, round, arm], family by family.

    `hz` [family, case, session, round, arm, poll]: SM clocks as they were polled in each block. A family is one
    experiment; `given` goes to frugal.compare.
    """
    families, cases, sessions, rounds, arms = logs.shape
    family, case, session, arm = (axis.ravel() for axis in np.indices((families, cases, sessions, arms)))
    names = np.array([f"{number:016x}" for number in range(families * cases)])
    runs = [
        a_run(run_id=f"R{k}", session=k, preset=preset, device_kind="cpu" if hz is None else "cuda")
        for k in range(sessions)
    ]
    frame = {
        "run_id": np.char.add("R", session.astype(str)),
        "case_id": names[family * cases + case],
        "session": session,
        "arm": np.array(["cudnn", "sparse"])[arm],
        "experiment": np.char.add("e", family.astype(str)),
        "role": np.array(["baseline", "ours"])[arm],
    }
    measurements = _filled("measurements", dataclasses.asdict(a_row()), frame, family.size)

    # [family, case, session, arm, round, sample]: one sample a block is its median; polls come with samples
    polls = 1 if hz is None else hz.shape[-1]
    shape = (families, cases, sessions, arms, rounds, polls)
    row = np.repeat(np.arange(family.size), rounds * polls)
    values = np.broadcast_to(np.exp(logs).swapaxes(3, 4)[..., None], shape).ravel()
    of_sample = {name: frame[name][row] for name in ("run_id", "case_id", "session", "arm")}
    of_sample |= {"round": np.indices(shape)[4].ravel(), "index": np.indices(shape)[5].ravel(), "value": values}
    if hz is not None:
        of_sample["sm_hz"] = np.broadcast_to(hz.swapaxes(3, 4), shape).ravel()
    constant = {"regime": "graph", "l2": "resident", "metric": "time", "position": 0, "block": 0, "start_ns": 1,
                "flag": "ok"}  # fmt: skip
    samples = _filled("samples", constant, of_sample, row.size)
    found = compare(measurements, samples, table_of("runs", runs), **given).to_pylist()
    return sorted(found, key=lambda comparison: comparison["case_id"])


def _filled(table: str, constant: dict, columns: dict[str, np.ndarray], count: int) -> pa.Table:
    schema = SCHEMAS[table]
    arrays = [
        pa.array(columns[f.name]).cast(f.type)
        if f.name in columns
        else pa.repeat(pa.scalar(constant.get(f.name), f.type), count)
        for f in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


# ---- what a right implementation shows -------------------------------------------------------------------------------


def plausible(count: int, probability: float, n: int = N) -> bool:
    """Whether a count of `n` lies between the exact binomial quantiles of its probability at 1e-6 and 1 - 1e-6."""
    return sps.binom.ppf(1e-6, n, probability) <= count <= sps.binom.isf(1e-6, n, probability)


def at_most(probability: float, n: int = N) -> int:
    """The greatest count that an event of at most this probability shows, but once in a million."""
    return int(sps.binom.isf(1e-6, n, probability))


def chance_of_different(difference: float, machine: Machine, sessions: int) -> float:
    """The chance that the 95 % interval excludes 1 on the side of `difference`: a noncentral t."""
    t = sps.t.ppf(0.975, sessions - 1)
    return float(sps.nct.sf(t, sessions - 1, abs(difference) / machine.error(sessions)))


@cache
def chance_of_same(margin: float, machine: Machine, sessions: int) -> float:
    """The chance that equal arms' whole interval lies within the margin: over the spread that the sessions show."""
    error, freedom = machine.error(sessions), sessions - 1
    t = sps.t.ppf(0.975, freedom)

    def at(q: float) -> float:  # q: (s / sigma)^2 times the degrees of freedom, a chi-squared
        room = np.log1p(margin) - t * error * np.sqrt(q / freedom)
        return sps.chi2.pdf(q, freedom) * (2 * sps.norm.cdf(room / error) - 1) if room > 0 else 0.0

    most = freedom * (np.log1p(margin) / (t * error)) ** 2
    return float(integrate.quad(at, 0, min(most, sps.chi2.isf(1e-12, freedom)), limit=200)[0])
