"""Everything that a campaign needs of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from frugal.clock import Clock, SystemClock
from frugal.config import Config
from frugal.config.models import Capability
from frugal.data import sources
from frugal.provenance.gpu import gpu_handle, open_driver, open_nvml
from frugal.provenance.software import installed

from . import gpu, software, system
from .check import Check
from .reach import Probe, reach
from .session import cores, gpu_of, surroundings


@dataclass(frozen=True)
class Need:
    """What a campaign takes, in bytes: on the disk, of memory, and of the GPU's memory (frugal.plan.need)."""

    disk_bytes: int = 2 * system.GIB
    ram_bytes: int = 2 * system.GIB
    gpu_bytes: int = 2 * system.GIB


def doctor(
    cfg: Config,
    *,
    need: Need = Need(),
    folder: Path = Path(),
    root: Path = Path("/"),
    nvml: Any | None = None,
    driver: Any | None = None,
    clock: Clock | None = None,
    probe: Probe = sources.probe,
    usage: Callable = shutil.disk_usage,
) -> list[Check]:
    """Look at everything that a campaign of this configuration needs; takes a few seconds, sets nothing.

    `folder` is where the campaign runs, `root` the file system's root. `nvml`, `driver`, `clock`, `probe` and `usage`
    are for tests; a given `nvml` is never mixed with this machine's own driver.
    """
    clock = clock or SystemClock()
    kind = local_kind(cfg)
    if nvml is None and kind != "cpu":
        nvml, driver = open_nvml(), open_driver()
    found, problem = gpu_of(kind, nvml, driver)
    return [
        software.python(),
        software.pins(whole=not software.is_conda()),
        software.numpy(installed("numpy")),
        software.snakemake(installed("snakemake")),
        software.profile(folder, os.environ),
        system.disk(folder / "results", need.disk_bytes, usage),
        system.memory(root, need.ram_bytes),
        system.permission([folder / name for name in ("results", "data", "logs", "benchmarks")]),
        *reach(cfg, folder / "data", probe),
        *surroundings(root, clock, cores(), system.STOLEN_OVER_S),
        system.headline(cfg.preset, "cuda" if found else "cpu", cfg.timing.force),
        gpu.visible(found, kind, problem),
        *(_gpu_checks(found, nvml, driver, need) if found else ()),
    ]


def local_kind(cfg: Config) -> str:
    """The kind of device that this machine measures with: `cpu`, `cuda` or `auto`. Other labels name other machines."""
    return cfg.devices["local"].kind if set(cfg.devices) == {"local"} else "auto"


def _gpu_checks(found: dict, nvml: Any, driver: Any | None, need: Need) -> list[Check]:
    handle = gpu_handle(nvml, driver)
    return [
        gpu.driver(found, software.torch_cuda(), installed("nvidia-nvjitlink")),
        gpu.capability(found, get_args(Capability)),
        *gpu.state(found),
        gpu.neighbours(found),
        *gpu.health(nvml, handle),
        *gpu.readings(nvml, handle),
        gpu.free_memory(nvml, handle, need.gpu_bytes),
    ]
