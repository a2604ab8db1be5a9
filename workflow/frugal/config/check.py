"""Combinations of keys that are each right by themselves and cannot be had together."""

from collections.abc import Iterator
from pathlib import PurePath

from .errors import line
from .models import Config

_WEIGHT_FILES = (".pth", ".pt", ".safetensors", ".npz", ".h5")


def combinations(cfg: Config) -> list[str]:
    """One line for each pair of keys that contradict each other."""
    return [*_cusnn(cfg), *_timing(cfg)]


def _cusnn(cfg: Config) -> Iterator[str]:
    ours = cfg.cusnn
    if PurePath(ours.weights).suffix in _WEIGHT_FILES and len(ours.networks) > 1:
        problem = (
            f"one file fits one network and cusnn.networks names {len(ours.networks)}: "
            "give a folder of weight files, or name one network"
        )
        yield line("cusnn.weights", ours.weights, problem, {"examples": ["weights/"]})


def _timing(cfg: Config) -> Iterator[str]:
    timing = cfg.timing
    shortest, longest = timing.block_min_s, timing.block_max_s
    if shortest is not None and longest is not None and shortest > longest:
        problem = f"it must not exceed timing.block_max_s, which is {longest:g}"
        yield line("timing.block_min_s", shortest, problem, {"examples": [longest / 4]})
