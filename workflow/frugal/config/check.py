"""Combinations of keys that are each right by themselves and cannot be had together."""

from collections.abc import Iterator
from pathlib import PurePath

from .errors import line
from .models import Config

# Keras ships ResNets with bottleneck blocks and DenseNets only.
_NOT_IN_KERAS = ("resnet18", "resnet34")
_WEIGHT_FILES = (".pth", ".pt", ".safetensors", ".npz", ".h5")


def combinations(cfg: Config) -> list[str]:
    """One line for each pair of keys that contradict each other."""
    return [*_cusnn(cfg), *_timing(cfg)]


def _cusnn(cfg: Config) -> Iterator[str]:
    ours = cfg.cusnn
    foreign = [name for name in ours.networks if name in _NOT_IN_KERAS]
    if ours.definition == "keras_v1" and foreign:
        problem = (
            f"Keras has no {' and no '.join(foreign)}: take them out of cusnn.networks, "
            "or use cusnn.definition torchvision_v1.5"
        )
        yield line("cusnn.definition", ours.definition, problem, {})
    if PurePath(ours.weights).suffix in _WEIGHT_FILES and len(ours.networks) > 1:
        problem = (
            f"one file fits one network and cusnn.networks names {len(ours.networks)}: "
            "give a folder of weight files, or name one network"
        )
        yield line("cusnn.weights", ours.weights, problem, {"examples": ["weights/"]})
    if cfg.preset == "smoke" and "torch_compile" in ours.baselines:
        problem = "torch_compile compiles for longer than preset smoke may last: use preset quick, or leave it out"
        yield line("cusnn.baselines", ours.baselines, problem, {"examples": [["cudnn_fp32", "dense_twin"]]})


def _timing(cfg: Config) -> Iterator[str]:
    timing = cfg.timing
    shortest, longest = timing.block_min_s, timing.block_max_s
    if shortest is not None and longest is not None and shortest > longest:
        problem = f"it must not exceed timing.block_max_s, which is {longest:g}"
        yield line("timing.block_min_s", shortest, problem, {"examples": [longest / 4]})
    if timing.threads is not None and timing.affinity is not None and timing.threads > len(timing.affinity):
        problem = (
            f"threads would wait for one another on the {len(timing.affinity)} CPUs of timing.affinity: name no more"
        )
        yield line("timing.threads", timing.threads, problem, {"examples": [len(timing.affinity)]})
    if timing.energy and cfg.preset == "smoke":
        problem = "an energy measurement lasts longer than preset smoke may: use preset quick, or leave it null"
        yield line("timing.energy", timing.energy, problem, {})
