"""What of the doctor a session needs: findings to record, and whether it may run at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from frugal.clock import Clock, SystemClock
from frugal.errors import FrugalError
from frugal.provenance.cpu import affinity_count, cpu_record
from frugal.provenance.device import find_gpu
from frugal.provenance.gpu import gpu_handle, open_driver, open_nvml
from frugal.records import canonical_json

from . import gpu, system
from .check import FAIL, Check

STEAL_OVER_S = 0.2


def quick(device: Any, root: Path = Path("/"), nvml: Any | None = None, clock: Clock | None = None) -> str:
    """What of the doctor's findings a session records, as canonical JSON: {name: {found, level}}.

    `device` is `cpu` or `cuda`, or has that as `.kind`. Only what changes from hour to hour and can falsify times:
    load, stolen time, quota, governor, timer, and on a GPU its state and what can be read. There are no paths in it.
    Other processes on the GPU are not counted: inside a container NVML does not know which of them is this one.
    """
    kind = getattr(device, "kind", device)
    checks = surroundings(root, clock or SystemClock(), cores(), STEAL_OVER_S)
    if kind == "cuda":
        nvml, driver = (nvml, None) if nvml is not None else (open_nvml(), open_driver())
        found, _ = gpu_of(kind, nvml, driver)
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


def cores() -> int:
    """How many logical CPUs this process may run on."""
    return affinity_count(os.cpu_count() or 1)


def surroundings(root: Path, clock: Clock, cores: int, steal_over_s: float) -> list[Check]:
    """The lines on the CPU and on who else uses it."""
    return [
        system.governor(cpu_record(root)["cpu_governor"]),
        system.load(root, cores),
        system.stolen(root, clock, steal_over_s),
        system.quota(root, cores),
        system.timer(clock),
    ]


def gpu_of(kind: str, nvml: Any | None, driver: Any | None) -> tuple[dict | None, str | None]:
    """The GPU that would measure, or why it cannot be named. That there is none is a finding here, and no error."""
    if nvml is None or kind == "cpu":
        return None, None
    try:
        return find_gpu("auto", nvml, driver), None
    except FrugalError as problem:
        return None, str(problem)
