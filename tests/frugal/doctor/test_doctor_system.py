"""Disk, memory, permissions, load, stolen time, quota, timer, preset: each level of each, on machines made of files."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import pytest
from doctor_fakes import GIB, STAT, FakeClock, machine

from frugal.doctor import system

Usage = namedtuple("Usage", "total used free")


def levels(check) -> tuple[str, bool]:
    """The level, and whether it says what to do."""
    return check.level, check.mend is not None


@pytest.mark.parametrize(("free", "level"), [(0.9, "FAIL"), (1.0, "WARN"), (1.9, "WARN"), (2.0, "PASS")])
def test_disk(tmp_path: Path, free: float, level: str):
    asked = []

    def usage(folder: Path) -> Usage:
        asked.append(folder)
        return Usage(10 * GIB, 0, int(free * GIB))

    check = system.disk(tmp_path / "results" / "raw", GIB, usage)
    assert levels(check) == (level, level != "PASS")
    assert f"{free:.1f} GiB" in check.found
    assert asked == [tmp_path]  # the nearest folder that is there


@pytest.mark.parametrize(("available", "level"), [(3.9, "FAIL"), (4.0, "WARN"), (5.9, "WARN"), (6.0, "PASS")])
def test_memory(tmp_path: Path, available: float, level: str):
    root = machine(tmp_path, **{"proc/meminfo": f"MemAvailable: {int(available * 1024**2)} kB\n"})
    assert levels(system.memory(root, 4 * GIB)) == (level, level != "PASS")


def test_memory_is_what_the_control_group_leaves_and_its_page_cache_counts_as_free(tmp_path: Path):
    group = "sys/fs/cgroup/job"
    files = {f"{group}/memory.max": str(8 * GIB), f"{group}/memory.current": str(5 * GIB)}
    root = machine(tmp_path, **files)
    assert system.available_bytes(root) == 3 * GIB
    (root / group / "memory.stat").write_text(f"anon 5\ninactive_file {2 * GIB}\n")
    assert system.available_bytes(root) == 5 * GIB


def test_memory_in_a_control_group_of_version_1(tmp_path: Path):
    group = "sys/fs/cgroup/memory/job"
    files = {
        "proc/self/cgroup": "4:memory:/job\n0::/\n",
        f"{group}/memory.limit_in_bytes": str(6 * GIB),
        f"{group}/memory.usage_in_bytes": str(4 * GIB),
        f"{group}/memory.stat": f"total_inactive_file {GIB}\n",
    }
    assert system.available_bytes(machine(tmp_path, **files)) == 3 * GIB


def test_memory_that_is_not_told_is_no_fault(tmp_path: Path):
    check = system.memory(tmp_path, GIB)
    assert (check.level, check.found) == ("PASS", "not told")


def test_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("results", "data"):
        (tmp_path / name).mkdir()
    folders = [tmp_path / "results", tmp_path / "data" / "bins"]
    assert system.permission(folders).level == "PASS"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # nothing is left behind
    # who runs as root may write everywhere: the system's answer is replaced
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "data")
    check = system.permission(folders)
    assert check.level == "FAIL"
    assert check.found == f"none in {tmp_path / 'data' / 'bins'}"
    assert check.mend.startswith("chmod")


def test_a_disk_that_refuses_a_file_is_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(system.tempfile, "TemporaryFile", refuse)
    assert system.permission([tmp_path]).level == "FAIL"


@pytest.mark.parametrize(("found", "level"), [("performance", "PASS"), (None, "PASS"), ("powersave", "WARN")])
def test_governor(found: str | None, level: str):
    assert levels(system.governor(found)) == (level, level != "PASS")


@pytest.mark.parametrize(("text", "level"), [("1.00 0 0", "PASS"), ("1.01 0 0", "WARN"), ("", "PASS")])
def test_load_is_that_of_each_core(tmp_path: Path, text: str, level: str):
    check = system.load(machine(tmp_path, **{"proc/loadavg": text}), cores=2)
    assert levels(check) == (level, level != "PASS")
    assert (check.found == "not told") == (text == "")


@pytest.mark.parametrize(
    ("steal", "share", "level"), [(0, "0.0%", "PASS"), (2, "2.0%", "PASS"), (3, "3.0%", "WARN"), (50, "50.0%", "WARN")]
)
def test_stolen_time_is_that_of_the_interval(tmp_path: Path, steal: int, share: str, level: str):
    # Half of the time since the machine started was stolen, which says nothing of now.
    root = machine(tmp_path, **{"proc/stat": STAT.format(user=100, idle=400, steal=500)})

    def later() -> None:
        (root / "proc/stat").write_text(STAT.format(user=120, idle=480 - steal, steal=500 + steal))

    clock = FakeClock(on_sleep=later)
    check = system.stolen(root, clock, 0.7)
    assert (check.level, check.found) == (level, share)
    assert clock.slept == [0.7]


@pytest.mark.parametrize("text", ["", "cpu 1 2 3\n", STAT.format(user=1, idle=1, steal=1)])
def test_stolen_time_that_is_not_told(tmp_path: Path, text: str):
    check = system.stolen(machine(tmp_path, **{"proc/stat": text}), FakeClock())
    assert (check.level, check.found) == ("PASS", "not told")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"sys/fs/cgroup/job/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/job/step\n", "sys/fs/cgroup/job/cpu.max": "300000 100000"}, 3.0),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/cpu.max": "100000 100000",
                "sys/fs/cgroup/job/step/cpu.max": "300000 100000",
            },
            1.0,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/job\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/job\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
    ids=["none", "version 2", "of the parent", "the narrowest", "version 1", "none in version 1"],
)
def test_the_quota_of_a_control_group(tmp_path: Path, files: dict[str, str], cores: float | None):
    assert system.quota_cores(machine(tmp_path, **files)) == cores


@pytest.mark.parametrize(("allowed", "level"), [("max", "PASS"), ("200000", "PASS"), ("150000", "WARN")])
def test_a_quota_below_the_cores_is_a_warning_that_names_the_threads(tmp_path: Path, allowed: str, level: str):
    root = machine(tmp_path, **{"sys/fs/cgroup/job/cpu.max": f"{allowed} 100000"})
    check = system.quota(root, cores=2)
    assert check.level == level
    assert check.mend == ("set timing.threads to 1 in config.yaml" if level == "WARN" else None)


@pytest.mark.parametrize(
    ("step_ns", "level", "found"),
    [(40, "PASS", "steps of 40 ns"), (1000, "PASS", "steps of 1000 ns"), (15_600_000, "WARN", "steps of 15600000 ns")],
)
def test_the_timers_step(step_ns: int, level: str, found: str):
    check = system.timer(FakeClock(step_ns))
    assert (check.level, check.found) == (level, found)


def test_a_timer_that_stands_still_and_one_that_repeats():
    assert system.timer(FakeClock(0)).found == "it does not move"

    class Coarse(FakeClock):
        def ns(self) -> int:
            return super().ns() // 4000 * 4000  # a clock of 4 µs, looked at every 40 ns

    check = system.timer(Coarse())
    assert (check.level, check.found) == ("WARN", "steps of 4000 ns")


@pytest.mark.parametrize(
    ("preset", "kind", "force", "level"),
    [
        ("headline", "cpu", False, "FAIL"),
        ("headline", "cpu", True, "WARN"),
        ("headline", "cuda", False, "PASS"),
        ("sweep", "cpu", False, "PASS"),
        ("smoke", "cpu", True, "PASS"),
    ],
)
def test_headline_is_for_gpus(preset: str, kind: str, force: bool, level: str):
    assert levels(system.headline(preset, kind, force)) == (level, level != "PASS")
