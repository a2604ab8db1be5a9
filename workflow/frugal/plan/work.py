"""What a campaign measures, system by system, as numbers: cases, arms, regimes, arithmetic, bytes. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from frugal import config
from frugal.config import Config
from frugal.controls import wanted
from frugal.cusnn import network_offered, shapes
from frugal.cusnn.convolutions import convolutions, measured
from frugal.cusnn.offered import BASELINES, ONE_REGIME, OURS, PAPER, arms, ladder, one_regime
from frugal.sft import offered, shards, stems
from frugal.timing.design import Design
from kernels.sparse.shape import ConvShape
from kernels.tiled import PairShape

from .cases import Case, Work
from .dtr_work import dtr

RECOMPUTED = 1.5  # what an arm does on average, in untiled steps

# Regimes that a design may name; on a CPU only our loops have a graph, and nothing has rotated buffers.
_EVERYWHERE = ("cold", "hot", "wall")
MEMORY_PARTS = 16  # of frugal.controls.planted, which imports torch; a test compares


def design_of(cfg: Config) -> Design:
    """The design that the configuration asks for."""
    fields = set(Design.__dataclass_fields__) - {"preset", "sessions", "regimes", "threads"}
    given = {name: value for name, value in cfg.timing.model_dump().items() if name in fields}
    return Design.of(cfg.preset, **given, sessions=config.sessions(cfg))


def of_system(name: str, cfg: Config, kind: str) -> Work:
    """What one system of the configuration measures, on a device of this kind (`cpu` or `cuda`)."""
    return {"cusnn": cusnn, "sft": sft, "dtr": dtr, "method": method}[name](cfg, kind)


def cusnn(cfg: Config, kind: str) -> Work:
    """Its timed experiments in each session; `sparsity` once a network."""
    made = {"layers": _layers, "break_even": _break_even, "ladder": _ladder, "networks": _networks}
    asked = cfg.cusnn.experiments
    found = {name: made[name](cfg, kind) for name in made if name in asked}
    return Work(
        system="cusnn",
        experiments={name: cases for name, (cases, _) in found.items()},
        resident_bytes=max((resident for _, resident in found.values()), default=0.0),
        side_jobs=len(cfg.cusnn.networks) if "sparsity" in asked else 0,
    )


def _layers(cfg: Config, kind: str) -> tuple[list[Case], float]:
    """(cases, bytes of all inputs and weights) of experiment `layers`."""
    ours = cfg.cusnn
    chosen = ours.regimes or cfg.timing.regimes
    offered = OURS[kind] | BASELINES[kind]
    cases, resident = [], 0.0
    for network in ours.networks:
        found = measured(network, ours.definition, ours.layers, ours.kernel_sizes, cfg.preset, cfg.data.size)
        for conv in found:
            resident += 4.0 * (cfg.data.n_images * conv.c * conv.h * conv.w + conv.n * conv.c * conv.k**2)
            for batch in config.batch_sizes(cfg):
                shape = conv.of_batch(batch)
                names = arms([*ours.ours, *ours.baselines], kind, shape, network)
                cases.append(_case(shape, [_timed(name, chosen or offered[name], kind) for name in names]))
    return cases, resident


def _break_even(cfg: Config, kind: str) -> tuple[list[Case], float]:
    """The same of experiment `break_even` with zeros at random places; how many real masks come to it is not known."""
    ours, cases = cfg.cusnn, []
    for layer, batch in shapes.break_even(cfg.preset, ours.kernel_sizes, config.batch_sizes(cfg)):
        shape = layer.shape(batch)
        names = one_regime([*ours.ours, *ours.baselines], kind, shape)
        cases += [_case(shape, _in_one(cfg, names, kind))] * len(config.sparsities(cfg))
    return cases, 0.0


def _ladder(cfg: Config, kind: str) -> tuple[list[Case], float]:
    """The same of experiment `ladder`; an ablation that changes nothing for a shape is counted all the same."""
    found = [layer.shape(batch) for layer, batch in shapes.ladder(cfg.preset, config.batch_sizes(cfg))]
    return [_case(shape, _in_one(cfg, ladder(kind, shape), kind)) for shape in found], 0.0


def _networks(cfg: Config, kind: str) -> tuple[list[Case], float]:
    """The same of experiment `networks`: arithmetic of the convolutions, bytes of their tensors and weights."""
    ours, cases = cfg.cusnn, []
    chosen = ours.regimes or cfg.timing.regimes
    for network, batch in network_offered.measured(cfg.preset, config.networks(cfg), config.batch_sizes(cfg)):
        named = [*ours.ours, *ours.baselines]
        arms_of = network_offered.offered(kind, cfg.preset, named, network, batch)
        timed = [
            tuple(regime for regime in chosen or regimes if kind == "cuda" or regime in _EVERYWHERE)
            for group in arms_of
            for regimes in group.values()
        ]
        convs = convolutions(network, ours.definition, cfg.data.size)
        weights = 4.0 * sum(conv.n * conv.c * conv.k**2 for conv in convs)
        values = 4.0 * batch * sum(conv.values for conv in convs)
        cases.append(
            Case(
                arms=tuple(timed),
                flop=2.0 * batch * sum(conv.macs for conv in convs),
                bytes=weights + values,
                memory_bytes=(weights + values) * (len(timed) + 2),
                energy=len(timed),
            )
        )
    return cases, 0.0


def _case(shape: ConvShape, timed: Sequence[tuple[str, ...]]) -> Case:
    moved = 4.0 * (
        shape.B * (shape.C * shape.H * shape.W + shape.N * shape.H_out * shape.W_out) + shape.N * shape.C * shape.k**2
    )
    return Case(
        arms=tuple(timed),
        flop=2.0 * shape.macs,
        bytes=moved,
        # each arm binds tensors of its own, and the references are in float64
        memory_bytes=moved * (len(timed) + 2 * 2),
    )


def _in_one(cfg: Config, names: Sequence[str], kind: str) -> list[tuple[str, ...]]:
    """The regimes of arms whose experiment has one regime of its own; what a CPU cannot run takes no time."""
    regimes = cfg.cusnn.regimes or cfg.timing.regimes or (ONE_REGIME[kind],)
    run = names if kind == "cuda" else {*OURS["cpu"], *BASELINES["cpu"]}
    return [_timed(name, regimes, kind) if name in run else () for name in names]


def _timed(name: str, regimes: Sequence[str], kind: str) -> tuple[str, ...]:
    """The regimes in which an arm of cuSNN can be timed on a device of this kind."""
    if kind == "cuda":
        return tuple(r for r in regimes if name not in PAPER or r in OURS["cuda"][name])
    return tuple(r for r in regimes if r in _EVERYWHERE or (r == "graph" and name in OURS["cpu"]))


def sft(cfg: Config, kind: str) -> Work:
    """Its shards of timed steps, each a session's job, the pairs of layers, and the jobs that time nothing.

    A step's arithmetic and bytes are reckoned from what its network does for a pixel.
    """
    ours = config.sft(cfg)
    experiments = {
        shard: [_step(shard, experiment, each, ours, kind) for experiment, each in shards.of_steps(shard, ours, kind)]
        for shard in shards.steps(ours, kind)
    }
    if "kernels" in ours["experiments"]:
        experiments["kernels"] = [
            _pair(precision, shape, kind) for _, precision, shape in stems.pairs(cfg.preset, kind)
        ]
    return Work(system="sft", experiments=experiments, side_jobs=len(shards.counted(ours, kind)))


def _step(shard: str, experiment: str, subject: offered.Subject, ours: Mapping[str, object], kind: str) -> Case:
    macs, saved = offered.PIXEL[subject.network]
    pixels = subject.batch * subject.h * subject.w
    arms = shards.dealt(shard, range(offered.arm_count(experiment, ours, subject, kind)))
    return Case(
        arms=(("wall",),) * len(arms),
        flop=RECOMPUTED * 2.0 * 3 * macs * pixels / subject.width_divisor**2,
        bytes=2.0 * saved * pixels / subject.width_divisor,
        memory_bytes=saved * pixels / subject.width_divisor,
    )


def _pair(precision: str, shape: PairShape, kind: str) -> Case:
    moved = float(sum(shape.bytes().values()))
    regimes = ("graph", "wall") if kind == "cuda" else ("wall",)
    names = stems.arms(precision, kind)
    return Case(
        arms=(regimes,) * len(names),
        flop=2.0 * sum(shape.macs),
        bytes=moved,
        memory_bytes=moved * (len(names) + 4),
    )


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
