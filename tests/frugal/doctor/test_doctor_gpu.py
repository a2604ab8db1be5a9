"""The GPU's lines, each level of each, from a driver and an NVML that answer as they are told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from doctor_fakes import GIB, FakeNvml

from frugal.doctor import gpu
from frugal.provenance.gpu import gpu_record

RECORD = gpu_record(FakeNvml(), None, {})


def of(checks, name: str):
    return next(check for check in checks if check.name == name)


@pytest.mark.parametrize(
    ("record", "kind", "problem", "level"),
    [
        (RECORD, "auto", None, "PASS"),
        (None, "auto", None, "PASS"),
        (None, "cpu", None, "PASS"),
        (None, "cuda", None, "FAIL"),
        (None, "auto", "this host has different GPUs", "FAIL"),
    ],
)
def test_visible(record: dict | None, kind: str, problem: str | None, level: str):
    check = gpu.visible(record, kind, problem)
    assert check.level == level
    assert (check.mend is None) == (level == "PASS")
    assert check.found == (problem or ("NVIDIA H200, 132 SMs" if record else "none"))


@pytest.mark.parametrize(
    ("offered", "torch_cuda", "toolkit", "level"),
    [
        ("13.0", "13.0", "13.0.88", "PASS"),
        ("13.1", "13.0", "13.0.88", "PASS"),
        ("13.0", "13.1", None, "WARN"),
        ("13.0", "12.8", "13.2.5", "WARN"),
        ("12.8", "13.0", "13.0.88", "FAIL"),
        ("12.8", "12.8", "13.0.88", "FAIL"),  # torch would run, and the kernels would not load
        ("13.0", None, "13.0.88", "FAIL"),
        (None, "13.0", None, "WARN"),
    ],
)
def test_driver(offered: str | None, torch_cuda: str | None, toolkit: str | None, level: str):
    check = gpu.driver(RECORD | {"cuda_driver": offered}, torch_cuda, toolkit)
    assert check.level == level
    assert (check.mend is None) == (level == "PASS")


def test_a_torch_without_cuda_says_how_to_get_another():
    assert "make setup" in gpu.driver(RECORD, None, None).mend


@pytest.mark.parametrize(("found", "level"), [("9.0", "PASS"), ("7.0", "FAIL")])
def test_capability(found: str, level: str):
    assert gpu.capability(RECORD | {"compute_capability": found}, ("7.5", "9.0")).level == level


@pytest.mark.parametrize(
    ("name", "column", "values"),
    [
        ("MIG", "mig", {False: "PASS", None: "PASS", True: "WARN"}),
        ("clocks", "clocks_locked", {False: "PASS", None: "PASS", True: "WARN"}),
    ],
)
def test_state(name: str, column: str, values: dict):
    assert {value: of(gpu.state(RECORD | {column: value}), name).level for value in values} == values


@pytest.mark.parametrize(("count", "level"), [(0, "PASS"), (None, "PASS"), (2, "WARN")])
def test_neighbours(count: int | None, level: str):
    assert gpu.neighbours(RECORD | {"foreign_pids": count}).level == level


@pytest.mark.parametrize(
    ("answers", "name", "level", "found"),
    [
        ({}, "ECC", "PASS", "on"),
        ({"nvmlDeviceGetEccMode": [0, 0]}, "ECC", "PASS", "off"),
        ({"nvmlDeviceGetEccMode": None}, "ECC", "PASS", "not told"),
        ({"nvmlDeviceGetTotalEccErrors": 3}, "ECC", "WARN", "on, 3 errors"),
        ({"nvmlDeviceGetTotalEccErrors": None}, "ECC", "PASS", "on"),
        ({}, "persistence", "PASS", "on"),
        ({"nvmlDeviceGetPersistenceMode": 0}, "persistence", "WARN", "off"),
        ({"nvmlDeviceGetPersistenceMode": None}, "persistence", "PASS", "not told"),
    ],
)
def test_health(answers: dict, name: str, level: str, found: str):
    check = of(gpu.health(FakeNvml(**answers), "gpu"), name)
    assert (check.level, check.found) == (level, found)


GETTERS = {
    "energy counter": "nvmlDeviceGetTotalEnergyConsumption",
    "power reading": "nvmlDeviceGetPowerUsage",
    "clock reading": "nvmlDeviceGetClockInfo",
    "temperature reading": "nvmlDeviceGetTemperature",
    "event reasons": "nvmlDeviceGetCurrentClocksEventReasons",
}


def test_every_reading_has_a_line_and_all_can_be_had():
    checks = gpu.readings(FakeNvml(), "gpu")
    assert {check.name: (check.level, check.found) for check in checks} == dict.fromkeys(GETTERS, ("PASS", "readable"))


@pytest.mark.parametrize("name", GETTERS)
def test_what_cannot_be_read_is_a_warning_of_its_own(name: str):
    checks = gpu.readings(FakeNvml(**{GETTERS[name]: None}), "gpu")
    assert [check.name for check in checks if check.level == "WARN"] == [name]
    assert of(checks, name).found == "not readable"


def test_a_reading_of_zero_is_a_reading():
    assert all(check.level == "PASS" for check in gpu.readings(FakeNvml(nvmlDeviceGetPowerUsage=0), "gpu"))


@pytest.mark.parametrize(
    ("bits", "level"), [(0x0, "PASS"), (0x4, "PASS"), (0x1, "PASS"), *((b, "WARN") for b in (8, 32, 64, 128))]
)
def test_a_slowdown_now_is_seen_and_a_power_cap_is_normal(bits: int, level: str):
    check = of(gpu.readings(FakeNvml(nvmlDeviceGetCurrentClocksEventReasons=bits), "gpu"), "event reasons")
    assert check.level == level
    assert ("slowed down now" in check.found) == (level == "WARN")


def test_an_older_driver_names_event_reasons_differently():
    nvml = FakeNvml(nvmlDeviceGetCurrentClocksEventReasons=None, nvmlDeviceGetCurrentClocksThrottleReasons=0x40)
    assert "slowed down now (0x40)" in of(gpu.readings(nvml, "gpu"), "event reasons").found


@pytest.mark.parametrize(("free", "level"), [(3.9, "FAIL"), (4.0, "WARN"), (5.9, "WARN"), (6.0, "PASS")])
def test_free_memory(free: float, level: str):
    nvml = FakeNvml(nvmlDeviceGetMemoryInfo=SimpleNamespace(total=8 * GIB, free=int(free * GIB)))
    check = gpu.free_memory(nvml, "gpu", 4 * GIB)
    assert (check.level, check.mend is None) == (level, level == "PASS")


def test_free_memory_that_is_not_told():
    assert gpu.free_memory(FakeNvml(nvmlDeviceGetMemoryInfo=None), "gpu", GIB).found == "not told"
