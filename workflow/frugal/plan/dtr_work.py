"""What DTR's campaign measures, as numbers (frugal.plan.work)."""

from __future__ import annotations

from collections.abc import Mapping

from frugal import config
from frugal.config import Config
from frugal.dtr import offered
from frugal.dtr.offered import Subject

from .cases import Case, Work

# A step of plain PyTorch: (multiply-adds, bytes at its peak). A test compares the small ones with what is counted.
STEPS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "small": {
        "resnet32": (1_649_163_264, 21_653_136), "resnet1202": (16_974_548_736, 295_092_768),
        "densenet100": (3_452_502_096, 143_267_968), "densenet121": (1_374_535_680, 74_794_768),
        "unet": (1_412_628_480, 21_328_032), "inceptionv4": (809_463_648, 33_978_800),
        "unrolled_gan": (18_018_304, 904_860), "lstm": (63_995_904, 2_623_232), "gru": (49_545_216, 2_107_912),
        "treelstm": (2_094_600_000, 32_629_608), "transformer": (258_441_216, 15_344_136),
    },
    "published": {
        "resnet32": (5.657e11, 6.779e9), "resnet1202": (5.432e11, 5.962e9), "densenet100": (2.762e10, 1.123e9),
        "densenet121": (7.043e11, 1.102e10), "unet": (2.775e12, 8.404e9), "inceptionv4": (2.352e12, 1.125e10),
        "unrolled_gan": (2.356e12, 7.126e9), "lstm": (5.441e12, 8.424e9), "gru": (2.042e12, 3.375e9),
        "treelstm": (5.888e11, 6.551e9), "transformer": (7.358e11, 9.736e9),
    },
}  # fmt: skip
RECOMPUTED = 1.3  # what an arm does on average, in steps of plain PyTorch
CAPTURED_STEPS = 8  # of a program, until its log is written
MEMORY_STEPS = 4  # of an arm in `memory`, those of plain PyTorch beside it included
PROBES = 8  # of a size in `reach`, and then the steps that are timed
# What a call of the runtime's or the simulator's own work amounts to: about 25 ms on a CPU's side of either device.
OWN_FLOP = {"cpu": 5e8, "cuda": 1e11}


def dtr(cfg: Config, kind: str) -> Work:
    """Its shards of timed steps, each a session's job, and the jobs that time nothing."""
    ours = config.dtr(cfg)
    counted = offered.counted(ours, kind)
    on_gpu = kind == "cuda"
    arms = [
        (subject, len(offered.memory_methods(ours, subject, kind)))
        for subject in (offered.subjects(ours, kind) if "memory" in counted else ())
    ]
    tried = [
        (subject, len(offered.reach_methods(ours, subject)) * len(ours["caps_gib"]))
        for subject, _, _ in (offered.reach_subjects(ours, kind) if on_gpu and "reach" in counted else ())
    ]
    flop = CAPTURED_STEPS * sum(_flop(ours, subject, kind) for subject in offered.subjects(ours, kind))
    flop += MEMORY_STEPS * sum(count * _flop(ours, subject, kind) for subject, count in arms)
    flop += 2 * PROBES * sum(count * _flop(ours, subject, kind) for subject, count in tried)
    watched = len(ours["networks"]) * len(offered.fragmentation_methods()) if "fragmentation" in counted else 0
    processes = watched + sum(count for _, count in arms) + (PROBES + 1) * sum(count for _, count in tried)
    return Work(
        system="dtr",
        experiments={shard: _cases(shard, ours, kind) for shard in offered.shards(ours, kind)},
        side_jobs=1 + sum(len(offered.counted_shards(name, ours, kind)) for name in counted),
        side_processes=processes if on_gpu else 0,
        side_flop=flop,
    )


def _cases(shard: str, ours: Mapping[str, object], kind: str) -> list[Case]:
    found = [_step(experiment, subject, ours, kind) for experiment, subject in offered.of_shard(shard, ours, kind)]
    asked = offered.timed_experiments(ours)
    if shard in ("all", "operators") and "operators" in asked:
        found += [_own(2, kind)] * len(offered.operator_classes(ours))
    if shard in ("all", "simulator") and "simulator" in asked:
        found += [_own(len(offered.simulator_methods()), kind)] * len(offered.simulator_subjects(ours, kind))
    return found


def _step(experiment: str, subject: Subject, ours: Mapping[str, object], kind: str) -> Case:
    peak = STEPS[offered.sizes(ours, kind)][subject.network][1]
    return Case(
        arms=(("wall",),) * len(offered.step_methods(experiment, ours, subject, kind)),
        flop=RECOMPUTED * _flop(ours, subject, kind),
        bytes=3 * peak,
        memory_bytes=peak,
    )


def _own(arms: int, kind: str) -> Case:
    return Case(arms=(("wall",),) * arms, flop=OWN_FLOP[kind], bytes=1e6, memory_bytes=1e6)


def _flop(ours: Mapping[str, object], subject: Subject, kind: str) -> float:
    return 2.0 * STEPS[offered.sizes(ours, kind)][subject.network][0]
