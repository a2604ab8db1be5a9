"""What a campaign does beside measuring: downloads, conversions, kernel builds, tables and figures. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from frugal import config
from frugal.config import Config
from frugal.controls.builds import builds as control_builds
from frugal.cusnn.builds import builds as sparse_builds
from frugal.cusnn.convolutions import convolutions
from frugal.data import sources
from frugal.doctor.reach import groups
from frugal.preprocess import preprocess
from frugal.sft.stems import builds as pair_builds

from .minutes import Span

# Seconds of one job on one core of two shared ones, the start of its process included.
JOB_S = {
    "sources": 4.0,
    "download": 10.0,
    "image_to_bin": 5.0,
    "network_weights": 8.0,
    "device": 2.0,
    "build_kernel": 10.0,
    "aggregate": 4.0,
    "compare": 4.0,
    "figure": 6.0,
    "dtr_residency": 4.0,
    "dtr_reach": 3.0,
}
# Of frugal.figures.NAMES, which imports matplotlib; a test compares.
FIGURES = {"cusnn": 11, "sft": 10, "dtr": 12, "method": 2}
BUILT_BYTES = 100_000  # of one kernel: PTX, cubin, report
FIGURE_BYTES = 600_000  # PNG, SVG, PDF
SAMPLE_BYTES = 15  # of a row of `samples` in a compressed file, of which there are two: a job's, and the table
_CLASSIFIER = 1.1  # a network's weights, in those of its convolutions


def jobs(cfg: Config, devices: Mapping[str, Mapping[str, object]]) -> dict[str, int]:
    """{rule: how many of its jobs} for the figures, those that measure left out. `devices`: label → device file."""
    networks = config.networks(cfg)
    built = {
        pair
        for device in devices.values()
        for found in (
            sparse_builds(config.cusnn(cfg), cfg.kernels.capabilities, device) if "cusnn" in cfg.systems else (),
            pair_builds(config.sft(cfg), cfg.kernels.capabilities, device) if "sft" in cfg.systems else (),
            control_builds(cfg.kernels.capabilities, device),
        )
        for pair in found
    }
    counted = {
        "sources": 1,
        "download": len(_downloads(cfg)),
        "image_to_bin": len({preprocess(network, cfg.cusnn.definition) for network in networks}),
        "network_weights": len(networks),
        "device": len(devices),
        "build_kernel": len(built),
        "aggregate": 1,
        "compare": 1,
        "figure": sum(FIGURES[system] for system in cfg.systems),
        "dtr_residency": int("dtr" in cfg.systems and "chain" in cfg.dtr.experiments),
        "dtr_reach": int("dtr" in cfg.systems and "reach" in cfg.dtr.experiments),
    }
    return {rule: count for rule, count in counted.items() if count}


def seconds(counted: Mapping[str, int], cores: int) -> Span:
    """How long these jobs take side by side on so many cores."""
    total = sum(JOB_S[rule] * count for rule, count in counted.items()) / max(1, cores)
    return Span(0.5 * total, total, 2.0 * total)


def download_bytes(cfg: Config, data: Path) -> int:
    """What would be downloaded and is not there yet; a size that is not published is reckoned from the network."""
    listed = sources.load()
    total = 0
    for what, name in _downloads(cfg).items():
        if not (data / "downloads" / name).is_file():
            total += listed[name].bytes or _weight_bytes(what.removeprefix("weights of "), cfg.cusnn.definition)
    return total


def data_bytes(cfg: Config) -> int:
    """Converted images and weights."""
    networks = config.networks(cfg)
    kinds = {preprocess(network, cfg.cusnn.definition) for network in networks}
    images = len(kinds) * cfg.data.n_images * 3 * cfg.data.size**2 * 4
    return images + sum(_weight_bytes(network, cfg.cusnn.definition) for network in networks)


def result_bytes(system: str, samples: float) -> int:
    """A system's tables with so many samples, and its figures."""
    return int(2 * SAMPLE_BYTES * samples) + FIGURES[system] * FIGURE_BYTES


def _downloads(cfg: Config) -> dict[str, str]:
    """{what it is for: the file that would be taken}, where any place is known to have it."""
    listed = sources.load()
    mirror = cfg.mirror or os.environ.get("FRUGAL_MIRROR")
    best = {what: _first(names, listed, bool(mirror)) for what, names in groups(cfg, listed).items()}
    return {what: name for what, name in best.items() if name is not None}


def _first(names: Iterable[str], listed: Mapping[str, sources.Source], mirror: bool) -> str | None:
    return next((name for name in names if mirror or listed[name].urls), None)


def _weight_bytes(network: str, definition: str) -> int:
    weights = sum(conv.n * conv.c * conv.k**2 for conv in convolutions(network, definition))
    return int(4 * _CLASSIFIER * weights)
