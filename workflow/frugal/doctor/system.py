"""The machine around the device: disk, memory, permissions, and what steals a CPU's time. All read, nothing set.

`root` stands for the file system's root, so that tests show another machine's /proc and /sys.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from frugal.clock import Clock
from frugal.provenance.software import read

from .check import PASS, Check, graded

GIB = 1024**3
LOAD_MAX = 0.5  # for each core: above it the threads of a session wait for others
STOLEN_MAX = 0.02
STOLEN_OVER_S = 1.0
TIMER_MAX_NS = 1000  # a hundredth of the shortest CPU sample of a layer


def disk(folder: Path, needed: int, usage: Callable = shutil.disk_usage) -> Check:
    """Free space where the campaign writes, beside what it will write (bytes)."""
    free = usage(_existing(folder)).free
    return graded(
        "free disk",
        fail=free < needed,
        warn=free < 2 * needed,
        found=f"{free / GIB:.1f} GiB",
        wanted=f"at least {needed / GIB:.1f} GiB, better twice that",
        mend="du -sh results data .snakemake (and remove what is not needed)",
    )


def memory(root: Path, needed: int) -> Check:
    """Memory that is free to use, as the system and the control group allow, beside what the campaign needs (bytes)."""
    free = available_bytes(root)
    if free is None:
        return Check("free memory", PASS, "not told", f"at least {needed / GIB:.1f} GiB")
    return graded(
        "free memory",
        fail=free < needed,
        warn=free < 1.5 * needed,
        found=f"{free / GIB:.1f} GiB",
        wanted=f"at least {needed / GIB:.1f} GiB, better half as much again",
        mend="ps aux --sort=-rss (and end what is not needed)",
    )


def permission(folders: Iterable[Path]) -> Check:
    """Whether files can be made where the campaign writes."""
    refused = [str(folder) for folder in folders if not _writable(_existing(folder))]
    return graded(
        "write permission",
        fail=bool(refused),
        found=f"none in {', '.join(refused)}" if refused else "yes",
        wanted="folders that you may write to",
        mend=f"chmod -R u+w {' '.join(refused)}",
    )


def governor(found: str | None) -> Check:
    """The CPU's frequency governor, as `runs` has it; None where the system does not tell."""
    return graded(
        "CPU governor",
        warn=found not in (None, "performance"),
        found=found or "not told",
        wanted="performance",
        mend="sudo cpupower frequency-set -g performance",
    )


def load(root: Path, cores: int) -> Check:
    """Who else computes here: processes that want a core (mean of the last minute), for each core."""
    found = read(root / "proc/loadavg").split()
    if not found:
        return Check("load", PASS, "not told", f"at most {LOAD_MAX} for each core")
    each = float(found[0]) / cores
    return graded(
        "load",
        warn=each > LOAD_MAX,
        found=f"{each:.2f} for each of {cores} cores",
        wanted=f"at most {LOAD_MAX} for each core",
        mend="stop what else runs (top shows it): times of a contested CPU are 10 to 100 times too long",
    )


def stolen(root: Path, clock: Clock, seconds: float = STOLEN_OVER_S) -> Check:
    """The share of CPU time that the host of a virtual machine gave to others, over `seconds`."""
    before = _jiffies(root)
    clock.sleep(seconds)
    after = _jiffies(root)
    wanted = f"at most {STOLEN_MAX:.0%}"
    if before is None or after is None or sum(after) <= sum(before):
        return Check("stolen time", PASS, "not told", wanted)
    share = (after[_STEAL] - before[_STEAL]) / (sum(after) - sum(before))
    return graded(
        "stolen time",
        warn=share > STOLEN_MAX,
        found=f"{share:.1%}",
        wanted=wanted,
        mend="use a machine whose cores are not shared, or measure more sessions (timing.sessions)",
    )


def quota(root: Path, cores: int) -> Check:
    """The control group's CPU quota: below the number of cores, threads stall until its next period."""
    allowed = quota_cores(root)
    if allowed is None:
        return Check("CPU quota", PASS, "none", f"none, or at least {cores} cores")
    return graded(
        "CPU quota",
        warn=allowed < cores,
        found=f"{allowed:g} of {cores} cores",
        wanted=f"none, or at least {cores} cores",
        mend=f"set timing.threads to {max(1, int(allowed))} in config.yaml",
    )


def timer(clock: Clock, tries: int = 200) -> Check:
    """The smallest step of the clock that takes times on a CPU."""
    ticks = [clock.ns() for _ in range(tries)]
    steps = [after - before for before, after in pairwise(ticks) if after > before]
    step = min(steps, default=0)
    return graded(
        "timer",
        warn=not 0 < step <= TIMER_MAX_NS,
        found=f"steps of {step} ns" if step else "it does not move",
        wanted=f"steps of at most {TIMER_MAX_NS} ns",
        mend="look at /sys/devices/system/clocksource/clocksource0/current_clocksource: tsc is the fine one",
    )


def headline(preset: str, device_kind: str, force: bool) -> Check:
    """Whether the preset fits the device: `headline` is not offered on a CPU."""
    refused = preset == "headline" and device_kind == "cpu"
    return graded(
        "preset",
        fail=refused and not force,
        warn=refused,
        found=f"{preset} on a {'CPU' if device_kind == 'cpu' else 'GPU'}" + (", forced" if refused and force else ""),
        wanted="headline on a GPU only: on a CPU it would take days, and its numbers would not be quoted",
        mend="snakemake --cores all --config preset=quick -- figures",
    )


# ---- what the system says --------------------------------------------------------------------------------------------

_STEAL = 7  # user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)); guest times are inside the first two


def _jiffies(root: Path) -> list[int] | None:
    words = read(root / "proc/stat").split("\n")[0].split()
    return [int(word) for word in words[1 : _STEAL + 2]] if len(words) > _STEAL + 1 and words[0] == "cpu" else None


def quota_cores(root: Path) -> float | None:
    """How many cores' time the control group may use; None for no limit. Of nested groups the narrowest counts."""
    limits = []
    for folder in control_groups(root, "cpu"):
        limit, period = [*read(folder / "cpu.max").split(), "", ""][:2]
        if not limit:
            limit, period = read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")
        if limit.isdigit() and period.isdigit() and int(period) > 0:  # no limit is `max`, or -1 in version 1
            limits.append(int(limit) / int(period))
    return min(limits, default=None)


def available_bytes(root: Path) -> int | None:
    """Memory that can be had without swapping; inside a control group no more than its limit leaves."""
    told = [line.split() for line in read(root / "proc/meminfo").splitlines() if line.startswith("MemAvailable:")]
    free = [int(words[1]) * 1024 for words in told]
    for folder in control_groups(root, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most, now = read(folder / limit), read(folder / used)
            if most.isdigit() and now.isdigit():
                free.append(int(most) - int(now) + _reclaimable(folder))
    return min(free, default=None)


def _reclaimable(folder: Path) -> int:
    """The page cache that a control group gives back when it needs memory; it counts as used."""
    words = (line.split() for line in read(folder / "memory.stat").splitlines())
    return next((int(word[1]) for word in words if word[0] in ("inactive_file", "total_inactive_file")), 0)


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those around it, innermost first, versions 1 and 2."""
    top = root / "sys/fs/cgroup"
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        names = [controllers, controller] if controllers else [""]
        hierarchy = next((top / name for name in names if (top / name).is_dir()), None)
        if hierarchy is None:
            continue
        steps: Sequence[str] = [step for step in path.split("/") if step not in ("", "..")]
        for count in range(len(steps), -1, -1):
            yield hierarchy.joinpath(*steps[:count])


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _writable(folder: Path) -> bool:
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
