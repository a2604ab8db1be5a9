"""What a campaign needs of this machine, and what to type to mend what is missing.

    for check in doctor(config.load({})):
        print(check.level, check.name, check.found)

`quick` is the part that a session records: no network, no other process, well below half a second. Importing this
package loads no torch; `calibrate` does.
"""

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
from frugal.errors import FrugalError
from frugal.provenance.cpu import affinity_count, cpu_record
from frugal.provenance.device import find_gpu
from frugal.provenance.gpu import gpu_handle, open_driver, open_nvml
from frugal.provenance.software import installed
from frugal.records import canonical_json

from . import gpu, software, system
from .check import FAIL, PASS, WARN, Check, exit_status, json_text, text
from .reach import Probe, data_sources, reach

__all__ = ["FAIL", "PASS", "WARN", "Check", "Need", "admit", "doctor", "exit_status", "json_text", "quick", "text"]

QUICK_STEAL_S = 0.2


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
    probe: Probe = data_sources.probe,
    usage: Callable = shutil.disk_usage,
) -> list[Check]:
    """Look at everything that a campaign of this configuration needs; takes a few seconds, sets nothing.

    `folder` is where the campaign runs, `root` the file system's root. `nvml`, `driver`, `clock`, `probe` and `usage`
    are for tests; a given `nvml` is never mixed with this machine's own driver.
    """
    clock = clock or SystemClock()
    kind = cfg.devices["local"].kind if set(cfg.devices) == {"local"} else "auto"  # other labels name other machines
    if nvml is None and kind != "cpu":
        nvml, driver = open_nvml(), open_driver()
    found, problem = _gpu_of(kind, nvml, driver)
    cores = affinity_count(os.cpu_count() or 1)
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
        *_surroundings(root, clock, cores, system.STOLEN_OVER_S),
        system.headline(cfg.preset, "cuda" if found else "cpu", cfg.timing.force),
        gpu.visible(found, kind, problem),
        *(_gpu_checks(found, nvml, driver, need) if found else ()),
    ]


def quick(device: Any, root: Path = Path("/"), nvml: Any | None = None, clock: Clock | None = None) -> str:
    """What of the doctor's findings a session records, as canonical JSON: {name: {found, level}}.

    `device` is `cpu` or `cuda`, or has that as `.kind`. Only what changes from hour to hour and can falsify times:
    load, stolen time, quota, governor, timer, and on a GPU its state and what can be read. There are no paths in it.
    """
    kind = getattr(device, "kind", device)
    checks = _surroundings(root, clock or SystemClock(), affinity_count(os.cpu_count() or 1), QUICK_STEAL_S)
    if kind == "cuda":
        nvml, driver = (nvml, None) if nvml is not None else (open_nvml(), open_driver())
        found, _ = _gpu_of(kind, nvml, driver)
        if found:
            handle = gpu_handle(nvml, driver)
            checks += [*gpu.state(found), *gpu.health(nvml, handle), *gpu.readings(nvml, handle)]
    return canonical_json({check.name: {"level": check.level, "found": check.found} for check in checks})


def admit(preset: str, device_kind: str, force: bool) -> None:
    """Raise FrugalError, one sentence, where the preset is not offered on the device that measures."""
    check = system.headline(preset, device_kind, force)
    if check.level == FAIL:
        raise FrugalError(
            f"preset {preset} is not offered on a CPU, where it would take days: use preset quick, or set timing.force "
            "to true"
        )


def _surroundings(root: Path, clock: Clock, cores: int, stolen_over_s: float) -> list[Check]:
    return [
        system.governor(cpu_record(root)["cpu_governor"]),
        system.load(root, cores),
        system.stolen(root, clock, stolen_over_s),
        system.quota(root, cores),
        system.timer(clock),
    ]


def _gpu_of(kind: str, nvml: Any | None, driver: Any | None) -> tuple[dict | None, str | None]:
    """The GPU that would measure, or why it cannot be named. That there is none is a finding here, and no error."""
    if nvml is None or kind == "cpu":
        return None, None
    try:
        return find_gpu("auto", nvml, driver), None
    except FrugalError as problem:
        return None, str(problem)


def _gpu_checks(found: dict, nvml: Any, driver: Any | None, need: Need) -> list[Check]:
    handle = gpu_handle(nvml, driver)
    return [
        gpu.driver(found, software.torch_cuda(), installed("nvidia-nvjitlink")),
        gpu.capability(found, get_args(Capability)),
        *gpu.state(found),
        *gpu.health(nvml, handle),
        *gpu.readings(nvml, handle),
        gpu.free_memory(nvml, handle, need.gpu_bytes),
    ]
