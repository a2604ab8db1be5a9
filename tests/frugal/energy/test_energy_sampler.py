"""The sampler: a real process with a made-up driver, and the ring between the two."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from energy_fakes import FakeBoard, FakeClock, FakeNvml

from frugal.clock import SystemClock
from frugal.energy import POLL, Gauge, Sampler, gauge_of, ring
from frugal.energy import child as polling
from frugal.energy.ring import CAPACITY, SIZE, Ring

DRIVER = """
class NVMLError(Exception): pass
NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
def nvmlInit(): pass
def nvmlDeviceGetHandleByUUID(uuid):
    if uuid != "GPU-1":
        raise NVMLError
    return 0
def nvmlDeviceGetClockInfo(handle, kind): return 1980 if kind == 1 else 3201
def nvmlDeviceGetPowerUsage(handle): return 350_000
def nvmlDeviceGetTemperature(handle, kind): raise NVMLError
"""


class Gpu:
    uuid = "1"


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A pynvml for the sampler's process, and for this one."""
    (tmp_path / "pynvml.py").write_text(textwrap.dedent(DRIVER))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    yield
    sys.modules.pop("pynvml", None)


def test_the_clock_is_one_that_other_processes_share():
    assert time.get_clock_info("perf_counter").implementation == "clock_gettime(CLOCK_MONOTONIC)"
    code = "from frugal.clock import SystemClock; print(SystemClock().ns())"
    before = SystemClock().ns()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert before < int(done.stdout) < SystemClock().ns()


def test_polls_come_from_another_process_on_this_process_clock(driver):
    clock = SystemClock()
    began = clock.ns()
    sampler = Sampler(Gpu(), 0.01).start()
    try:
        assert sampler.missing() == ["the temperature", "the clock event reasons"]
        for _ in range(1000):
            found = sampler.between(began, clock.ns())
            if len(found) >= 5:
                break
            clock.sleep(0.01)
    finally:
        assert sampler.close()
    assert found.dtype == POLL
    assert len(found) >= 5
    assert np.all(np.diff(found["ns"]) > 0)
    assert began < found["ns"][0]
    assert set(found["sm_hz"]) == {1980e6}
    assert set(found["mem_hz"]) == {3201e6}
    assert set(found["power_w"]) == {350.0}
    assert np.isnan(found["temp_c"]).all()
    assert set(found["event_reasons"]) == {-1}
    middle = found["ns"][2]
    assert list(sampler.between(middle, middle)["ns"]) == [middle]


def test_a_machine_without_a_driver_has_no_polls(monkeypatch):
    monkeypatch.setattr("frugal.energy.gauge.open_nvml", lambda: None)
    sampler = Sampler(Gpu()).start()
    assert sampler.missing() == []
    assert len(sampler.between(0, 10**18)) == 0
    assert sampler.close()


def test_a_sampler_that_ends_early_is_told(driver, tmp_path):
    (tmp_path / "pynvml.py").write_text(DRIVER + "\nnvmlDeviceGetPowerUsage = None\n")  # TypeError in the child
    sampler = Sampler(Gpu(), 0.01).start()
    assert len(sampler.missing()) == 5
    assert not sampler.close()


def test_a_poll_that_takes_longer_than_a_period_delays_the_next_ones(monkeypatch):
    clock, polls_left = FakeClock(), [3]
    sleep = clock.sleep

    def strict_sleep(seconds):
        assert seconds >= 0, "time.sleep refuses a negative time"
        sleep(seconds)

    def slow_poll(gauge, ns):
        polls_left[0] -= 1
        clock.at += 70_000_000
        return (ns, 0.0, 0.0, 0.0, 0.0, 0)

    def ticking():
        clock.at += 1000  # looking at a clock takes time too
        return clock.at

    clock.sleep, clock.ns = strict_sleep, ticking
    monkeypatch.setattr(polling, "SystemClock", lambda: clock)
    monkeypatch.setattr(polling, "gauge_of", lambda uuid: object())
    monkeypatch.setattr(polling, "poll", slow_poll)
    monkeypatch.setattr(polling.os, "getppid", lambda: 1 if polls_left[0] else 0)
    monkeypatch.setattr(polling.signal, "signal", lambda *given: None)
    descriptor = os.memfd_create("polls")
    os.ftruncate(descriptor, SIZE)
    polling.main(descriptor, "1", 0.05, 1)
    written = Ring(descriptor)
    os.close(descriptor)
    assert len(written) == 3
    assert np.all(np.diff(written.between(0, 10**18)["ns"]) >= 70_000_000)


def test_the_sampler_ends_with_its_parent(driver):
    code = """
        import sys
        from frugal.energy import Sampler
        class Gpu: uuid = "1"
        sampler = Sampler(Gpu(), 0.01).start()
        sampler.missing()
        print(sampler._process.pid, flush=True)
        sys.stdin.read()
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    parent.stdin.close()
    for _ in range(500):
        if not _runs(child):
            return
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the sampler outlived its parent by ten seconds")


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- the ring and the gauges -----------------------------------------------------------------------------------------


def test_the_ring_keeps_the_newest_polls():
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, SIZE)
    writer, reader = Ring(descriptor), Ring(descriptor)
    os.close(descriptor)
    for number in range(CAPACITY + 10):
        writer.append((number, number * 2.0, 0.0, 0.0, 0.0, 0))
    assert len(reader) == CAPACITY + 10
    found = reader.between(0, CAPACITY + 10)
    assert list(found["ns"][[0, -1]]) == [11, CAPACITY + 9]
    assert len(found) == CAPACITY - 1
    assert np.array_equal(found["sm_hz"], found["ns"] * 2.0)
    assert list(reader.between(CAPACITY - 2, CAPACITY + 1)["ns"]) == [CAPACITY - 2 + i for i in range(4)]
    assert len(reader.between(0, 5)) == 0


def a_gauge(**given):
    board = FakeBoard(FakeClock())
    return board, Gauge(FakeNvml(board, **given), "handle")


def test_gauges_are_in_si_units():
    board, gauge = a_gauge()
    assert (gauge.sm_hz(), gauge.mem_hz(), gauge.temperature_c()) == (1980e6, 3201e6, 41.0)
    assert (gauge.power_w(), gauge.average_w(), gauge.event_reasons()) == (120.0, 120.0, 4)
    board.run()
    assert gauge.power_w() == 600.0  # the instant's, not the average
    assert gauge.energy_j() == pytest.approx(board.joules(board.clock.ns()), abs=60)  # within a tick
    board.run()
    assert ring.poll(gauge, 7) == (7, 1980e6, 3201e6, 41.0, 600.0, 4)


def test_older_drivers_have_other_names():
    _, gauge = a_gauge(silent=["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetFieldValues"])
    assert gauge.event_reasons() == 8
    assert gauge.power_w() == gauge.average_w() == 120.0


def test_what_nvml_refuses_is_null():
    getters = [name for name in dir(FakeNvml) if name.startswith("nvmlDevice")]
    _, gauge = a_gauge(silent=getters)
    read = ring.poll(gauge, 7)
    assert read[0] == 7
    assert np.isnan(read[1:5]).all()
    assert read[5] == -1
    assert (gauge.energy_j(), gauge.neighbours(), gauge.is_slice()) == (None, None, False)


def test_this_process_is_no_neighbour_of_itself_by_whatever_number():
    assert a_gauge()[1].neighbours() == 0
    assert a_gauge(others=[7])[1].neighbours() == 1


def test_gauges_are_those_of_the_gpu_that_cuda_uses():
    nvml = FakeNvml(FakeBoard(FakeClock()))
    assert gauge_of("GPU-board-1", nvml).sm_hz() == gauge_of("board-1", nvml).sm_hz() == 1980e6
    assert gauge_of(None, nvml) is None
