"""The row of `runs` for one session process: what ran, where, with which software."""

from __future__ import annotations

import hashlib
import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frugal import __version__, hardware
from frugal.clock import Clock, SystemClock

from .cpu import cpu_record
from .device import cpu_key, find_gpu, gpu_key
from .gpu import salted
from .software import git_state, lock_hash, read, system, versions

if TYPE_CHECKING:
    from frugal.records import Run

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def collect(
    device: Any,
    *,
    experiment: str,
    preset: str,
    session: int,
    sessions_planned: int,
    config_json: str = "{}",
    campaign_id: str | None = None,
    threads: int | None = None,
    process_restarts: int = 0,
    nvml: Any | None = None,
    driver: Any | None = None,
    clock: Clock | None = None,
) -> Run:
    """Describe this process, its machine and its software; torch is imported.

    `device` is `cpu` or `cuda`, or has that as `.kind`. `config_json` is `frugal.config.record_json(cfg)`. `threads`:
    those of torch and Numba; None: as many as the process has CPUs. `nvml` and `driver` are for tests.
    The session's end fills in `finished_at` and `wall_s` (here the start, and 0) and what its controls find; until a
    control is red, `controls_passed` is true. What cannot be read on this machine is None.

    Raises FrugalError where the device is not there.
    """
    from frugal.records import Run

    kind = getattr(device, "kind", device)
    gpu = find_gpu("cuda" if kind == "cuda" else "cpu", nvml, driver)
    cpu = cpu_record()
    started = (clock or SystemClock()).now()
    listed = hardware.lookup(gpu["gpu_name"]) if gpu else None
    git_sha, git_dirty = git_state()
    return Run(
        run_id=new_ulid(started),
        campaign_id=campaign_id or new_ulid(started),
        experiment=experiment,
        preset=preset,
        session=session,
        sessions_planned=sessions_planned,
        process_restarts=process_restarts,
        started_at=started,
        finished_at=started,
        wall_s=0.0,
        git_sha=git_sha,
        git_dirty=git_dirty,
        package_version=__version__,
        config_hash=hashlib.sha256(config_json.encode()).hexdigest(),
        config_json=config_json,
        lock_hash=lock_hash(),
        container_digest=os.environ.get("FRUGAL_IMAGE_DIGEST") or None,
        machine_hash=machine_hash(),
        device_key=gpu_key(gpu) if gpu else cpu_key(cpu),
        device_kind=kind,
        hardware_class="gpu" if gpu else "cpu",
        threads=threads or cpu["cpu_affinity_n"],
        power_regime="locked" if gpu and gpu["clocks_locked"] else "boost",
        peak_source=listed.source.title if listed else None,
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        controls_passed=True,
        controls_json="{}",
        doctor_json="{}",
        **versions(),
        **system(),
        **cpu,
        **(gpu or {}),
    )


def new_ulid(when: datetime | None = None) -> str:
    """A ULID: 48 bits of milliseconds since 1970 and 80 random bits, in Crockford's base 32 (26 characters).

    They sort by time (https://github.com/ulid/spec). `when` must be aware; None: now.
    """
    milliseconds = int((when or SystemClock().now()).timestamp() * 1000)
    number = milliseconds << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def machine_hash(root: Path = Path("/")) -> str:
    """Salted SHA-256 of the operating system's machine id: tells machines apart and names none.

    Where there is no id (containers, other systems than Linux), the network name stands in for it.
    """
    identity = read(root / "etc/machine-id") or read(root / "var/lib/dbus/machine-id")
    return salted(identity or os.uname().nodename)
