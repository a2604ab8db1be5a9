"""Peaks of allocators, devices and processes: a fresh process for real, NVML and CUDA's allocator by fakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from frugal.clock import SystemClock
from frugal.errors import FrugalError
from frugal.memory import Outcome, Peak, in_fresh_process, peak_cuda, peak_device, peak_live, peak_rss

MB = 1 << 20


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The child finds memory_work as this process does."""
    assert str(Path(__file__).parent) in sys.path
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


# ---- a process of its own --------------------------------------------------------------------------------------------


def test_a_call_gets_its_arguments_and_gives_its_answer(capfd):
    given = {"a": [1, 2.5, None], "b": {"c": "ü"}}
    done = in_fresh_process("memory_work:echo", given)
    assert (done.status, done.reason, done.value) == ("ok", None, given)
    assert 0 < done.base_rss_bytes <= done.rss_bytes


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("python", "no more"),
        ("torch", "CUDA out of memory. Tried to allocate 2.00 GiB."),
        ("limit", "tried to allocate 5 bytes with 3 of 4 bytes live"),
    ],
)
def test_running_out_of_memory_is_told_apart(how, reason):
    done = in_fresh_process("memory_work:exhaust", {"how": how})
    assert (done.status, done.reason) == ("oom", reason)


def test_torchs_cpu_allocator_says_it_in_its_own_words():
    done = in_fresh_process("memory_work:exhaust", {"how": "allocator"})
    assert done.status == "oom"
    assert "can't allocate" in done.reason


def test_other_faults_are_failures_with_their_reason(capfd):
    done = in_fresh_process("memory_work:fail", {"message": "wrong\nand more"})
    assert (done.status, done.reason) == ("failed", "ValueError: wrong")
    assert "Traceback" in capfd.readouterr().err
    done = in_fresh_process("memory_work:unanswerable", {})
    assert (done.status, done.reason) == ("failed", "TypeError: Object of type set is not JSON serializable")
    with pytest.raises(FrugalError, match=r"^memory_work:echo in a process of its own: failed: ValueError: wrong$"):
        Outcome("failed", "ValueError: wrong").expect_ok("memory_work:echo")


@pytest.mark.parametrize(
    ("call", "given", "status", "reason"),
    [
        ("memory_work:die", {"name": "SIGKILL"}, "oom", "killed by SIGKILL, as the kernel does when memory runs out"),
        ("memory_work:die", {"name": "SIGSEGV"}, "failed", "died of SIGSEGV"),
        ("memory_work:leave", {"status": 3}, "failed", "ended with exit status 3"),
        ("memory_work:no_such_function", {}, "failed", "ended with exit status 1"),
    ],
)
def test_a_process_that_dies(call, given, status, reason, capfd):
    done = in_fresh_process(call, given)
    assert (done.status, done.reason, done.value) == (status, reason, None)


def test_one_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr("frugal.memory.fresh.KILL_AFTER_S", 0.1)  # it ignores SIGTERM
    seen = []
    done = in_fresh_process("memory_work:hang", {}, timeout_s=0.5, look=seen.append)
    assert (done.status, done.reason) == ("timeout", "took longer than 0.5 s")
    assert len(set(seen)) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


def test_it_dies_with_its_parent():
    # The parent prints the child's number and is killed while it looks at it.
    code = (
        "import os, signal\nfrom frugal.memory import in_fresh_process\n"
        "def look(pid):\n    print(pid, flush=True)\n    input()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "in_fresh_process('memory_work:hang', {}, look=look)\n"
    )
    folder = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        child = int(parent.stdout.readline())
        parent.stdin.write("\n")
        parent.stdin.flush()
        parent.wait()
    for _ in range(1000):
        if state(child) in ("gone", "Z", "X"):
            return
        SystemClock().sleep(0.01)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child lives on")


def state(pid):
    """The letter that Linux gives the state of a process, or `gone`."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def test_arguments_that_json_lacks_are_refused():
    with pytest.raises(ValueError, match=r"value\.arguments\.a is a set"):
        in_fresh_process("memory_work:echo", {"a": {1}})


def test_peak_rss_sees_memory_that_is_gone_again():
    small, large = (peak_rss("memory_work:touch", {"megabytes": n}) for n in (1, 301))
    assert small.metric == "peak_rss"
    grown = (large.bytes - large.base_bytes) - (small.bytes - small.base_bytes)
    # 300 MB of doubles; a tenth is more than the allocator and the interpreter ever differed by
    assert abs(grown - 300 * MB) < 30 * MB
    with pytest.raises(FrugalError, match="memory_work:fail in a process of its own: failed: ValueError: x"):
        peak_rss("memory_work:fail", {"message": "x"})


# ---- the device, by a fake NVML --------------------------------------------------------------------------------------


class FakeNvml:
    """`used` are the readings of the device's memory; `own` those of the process that runs, whatever its number."""

    NVMLError = RuntimeError

    def __init__(self, used=(), own=None):
        self.used, self.own, self.pid = list(used), own, None

    def nvmlDeviceGetMemoryInfo(self, handle):
        assert handle == "handle"
        if not self.used:
            raise self.NVMLError
        return SimpleNamespace(used=self.used.pop(0) if len(self.used) > 1 else self.used[0])

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        if self.own is None:
            raise self.NVMLError
        others = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=10**12), SimpleNamespace(pid=0, usedGpuMemory=None)]
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        used = self.own.pop(0) if len(self.own) > 1 else self.own[0]
        return others + [SimpleNamespace(pid=int(child), usedGpuMemory=used) for child in children]


def test_the_processs_own_memory_is_taken_where_nvml_knows_it():
    nvml = FakeNvml(used=[500], own=[10, 70, 30])
    assert peak_device("memory_work:echo", {}, nvml, "handle", poll_s=0.001) == Peak("peak_device", 70, 0)


def test_else_what_the_device_uses_more_than_before():
    for own in (None, [None]):
        nvml = FakeNvml(used=[500, 400, 740, 600], own=own)
        assert peak_device("memory_work:echo", {}, nvml, "handle", poll_s=0.001) == Peak("peak_device", 240, 500)


def test_a_device_that_says_nothing_is_refused():
    with pytest.raises(FrugalError, match="peak_device cannot be measured"):
        peak_device("memory_work:echo", {}, FakeNvml(), "handle", poll_s=0.001)


# ---- CUDA's allocator ------------------------------------------------------------------------------------------------


class FakeCuda:
    """torch.cuda's counters for an allocator that hands out what `take` says and caches it."""

    def __init__(self, allocated):
        self.log, self.now = [], allocated
        self.top, self.cached, self.top_cached = allocated, allocated, allocated

    def take(self, size):
        self.now += size
        self.cached = max(self.cached, self.now)
        self.top, self.top_cached = max(self.top, self.now), max(self.top_cached, self.cached)

    def synchronize(self, device):
        self.log.append(f"synchronize {device}")

    def empty_cache(self):
        self.log.append("empty")
        self.cached = self.now

    def reset_peak_memory_stats(self, device):
        self.top, self.top_cached = self.now, self.cached

    def memory_allocated(self, device):
        return self.now

    def memory_reserved(self, device):
        return self.cached

    def max_memory_allocated(self, device):
        return self.top

    def max_memory_reserved(self, device):
        return self.top_cached


def test_the_allocators_peaks_are_those_of_a_warm_run():
    cuda = FakeCuda(allocated=100)
    runs = []

    def run():
        cuda.log.append("run")
        runs.append(len(runs))
        if runs[-1] == 0:
            cuda.take(1000)  # tuning, once
            cuda.take(-990)  # of which a workspace stays
        cuda.take(50)
        cuda.take(-50)

    assert peak_cuda(run, 1, cuda) == (Peak("peak_allocated", 160, 110), Peak("peak_reserved", 160, 110))
    assert cuda.log == ["run", "synchronize 1", "empty", "run", "synchronize 1"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
def test_peaks_on_a_gpu():
    from frugal.provenance import gpu

    x = torch.ones(MB, device="cuda")

    def run():
        return (x + 1).sum()

    live = peak_live(run, x, granularity=512)
    allocated, reserved = peak_cuda(run)
    assert live.bytes >= 4 * MB
    assert live.base_bytes + live.bytes <= allocated.bytes <= reserved.bytes
    nvml = gpu.open_nvml()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    found = peak_device("memory_work:cuda_square", {"size": 8192}, nvml, handle, poll_s=0.001)
    assert found.bytes >= 2 * 4 * 8192 * 8192  # and the context
