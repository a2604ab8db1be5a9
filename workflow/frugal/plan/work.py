"""What a campaign measures, system by system, as numbers: cases, arms, regimes, arithmetic, bytes. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frugal import config
from frugal.config import Config
from frugal.controls import wanted
from frugal.cusnn.convolutions import measured
from frugal.cusnn.offered import BASELINES, OURS
from frugal.timing.design import Design

# Regimes that a design may name; on a CPU only our loops have a graph, and nothing has rotated buffers.
_EVERYWHERE = ("cold", "hot", "wall")
MEMORY_PARTS = 16  # of frugal.controls.planted, which imports torch; a test compares


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of a session. `arms`: of each arm the regimes that it is timed in.

    flop, bytes: of one dense run; memory_bytes: what its arms hold at once; energy: how many arms have it measured.
    """

    arms: tuple[tuple[str, ...], ...]
    flop: float
    bytes: float
    memory_bytes: float
    energy: int = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """One system on one device: its cases by experiment, each experiment a session's job, and jobs beside them.

    resident_bytes: what stays on the device for a whole session; side_jobs: measuring jobs of one process each.
    """

    system: str
    experiments: Mapping[str, list[Case]]
    resident_bytes: float = 0.0
    side_jobs: int = 0


def design_of(cfg: Config) -> Design:
    """The design that the configuration asks for."""
    fields = set(Design.__dataclass_fields__) - {"preset", "sessions", "regimes", "threads"}
    given = {name: value for name, value in cfg.timing.model_dump().items() if name in fields}
    return Design.of(cfg.preset, **given, sessions=config.sessions(cfg))


def of_system(name: str, cfg: Config, kind: str) -> Work:
    """What one system of the configuration measures, on a device of this kind (`cpu` or `cuda`)."""
    return {"cusnn": cusnn, "method": method}[name](cfg, kind)


def cusnn(cfg: Config, kind: str) -> Work:
    """Experiment `layers` in each session; `sparsity` once a network."""
    ours = cfg.cusnn
    offered = OURS[kind] | BASELINES[kind]
    chosen = ours.regimes or cfg.timing.regimes
    arms = [_timed(name, chosen or offered[name], kind) for name in (*ours.ours, *ours.baselines) if name in offered]
    cases, resident = [], 0.0
    for network in ours.networks:
        for conv in measured(network, ours.definition, ours.layers, cfg.data.size):
            weights = conv.n * conv.c * conv.k**2
            resident += 4.0 * (cfg.data.n_images * conv.c * conv.h * conv.w + weights)
            for batch in config.batch_sizes(cfg):
                moved = 4.0 * (batch * conv.values + weights)
                cases.append(
                    Case(
                        arms=tuple(arms),
                        flop=2.0 * batch * conv.macs,
                        bytes=moved,
                        # each arm binds tensors of its own, and the references are in float64
                        memory_bytes=moved * (len(arms) + 2 * 2),
                    )
                )
    return Work(system="cusnn", experiments={"layers": cases}, resident_bytes=resident, side_jobs=len(ours.networks))


def _timed(name: str, regimes: Sequence[str], kind: str) -> tuple[str, ...]:
    """The regimes in which an arm of cuSNN can be timed on a device of this kind."""
    if kind == "cuda":
        return tuple(regimes)
    return tuple(r for r in regimes if r in _EVERYWHERE or (r == "graph" and name in OURS["cpu"]))


def method(cfg: Config, kind: str) -> Work:
    """The experiments of frugal.method.cases: forty pairs, four operations in every regime, the energy of one.

    Arithmetic and bytes are those of a usual operation; a test compares the numbers of cases, arms and regimes.
    """
    gpu = kind == "cuda"
    flop, moved = (2.0 * 2048**3, 64.0 * 2**20) if gpu else (2.0 * 256**3, 2.0 * 2**20)
    common = {"flop": flop, "bytes": moved, "memory_bytes": 8 * moved}
    equal = ("cold", "graph") if gpu else ("wall",)
    noise = ("cold", "hot", "graph", "wall") if gpu else ("cold", "hot", "wall")
    energy = ("graph",) if gpu else ("wall",)
    cases = {
        "equal": [Case(arms=(equal, equal), **common)] * 40,
        "noise": [Case(arms=(noise,), **common)] * 4,
        "energy": [Case(arms=(energy, energy), energy=2, **common)],
    }
    return Work(system="method", experiments={name: cases[name] for name in cfg.method.experiments})


def controls(preset: str, kind: str, memory_bytes: float = math.inf) -> list[Case]:
    """Those of every session (frugal.controls): equal arms, planted work, a planted copy, and wrong arms: not timed.

    memory_bytes: the device's, which bounds what the copy takes; infinite where it is not known.
    """
    more = float(wanted.work(preset, kind))
    gpu = kind == "cuda"
    null, loop = (("cold", "graph"), ("graph",)) if gpu else (("wall",), ("graph",))
    copied = 4.0 * (250_000_000 if gpu else 1_000_000)  # frugal.controls.planted, which imports torch; a test compares
    held = min(more * copied, memory_bytes / MEMORY_PARTS)
    small = {"flop": 1e6, "bytes": 1e6, "memory_bytes": 1e6}
    copy = {"flop": 0.0, "bytes": 2 * more * copied, "memory_bytes": 6 * held}
    return [
        Case(arms=(null, null), **small),
        Case(arms=(loop, loop), **small),
        Case(arms=(("cold",), ("cold",)), **copy),
        Case(arms=((), (), ()), **small),
    ]
