"""A machine made of files, and a GPU that answers as it is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

GIB = 1024**3
BOARD = "8c2f1e7a-0000-4000-8000-000000000001"
STAT = "cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
CALM = {
    "proc/loadavg": "0.10 0.20 0.30 1/100 1000",
    "proc/stat": STAT.format(user=100, idle=900, steal=0),
    "proc/meminfo": f"MemTotal: {32 * 1024**2} kB\nMemAvailable: {16 * 1024**2} kB\n",
    "proc/self/cgroup": "0::/job\n",
    "sys/fs/cgroup/job/cpu.max": "max 100000",
    "sys/fs/cgroup/job/memory.max": "max",
    "sys/fs/cgroup/job/memory.current": str(GIB),
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance",
}


def machine(root: Path, **changes: str) -> Path:
    """A root folder of a machine on which nothing is wrong, with some files' texts changed."""
    for name, text in {**CALM, **changes}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


class FakeClock:
    """A clock whose time passes when somebody sleeps or looks; `on_sleep` is called in between."""

    def __init__(self, step_ns: int = 40, on_sleep=lambda: None) -> None:
        self.t, self.step_ns, self.on_sleep, self.slept = 0, step_ns, on_sleep, []

    def ns(self) -> int:
        self.t += self.step_ns
        return self.t

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.t += round(seconds * 1e9)
        self.on_sleep()


class NVMLError(Exception):
    pass


GOOD = {
    "nvmlDeviceGetCount": 1,
    "nvmlDeviceGetHandleByIndex": "gpu",
    "nvmlDeviceGetName": "NVIDIA H200",
    "nvmlDeviceGetUUID": f"GPU-{BOARD}",
    "nvmlDeviceGetNumGpuCores": 16896,
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=140 * GIB, free=139 * GIB),
    "nvmlDeviceGetEccMode": [1, 1],
    "nvmlDeviceGetTotalEccErrors": 0,
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlSystemGetDriverVersion": "580.159.04",
    "nvmlSystemGetCudaDriverVersion_v2": 13000,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetCurrentClocksEventReasons": 0,
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetTotalEnergyConsumption": 10**9,
    "nvmlDeviceGetPowerUsage": 122_000,
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetTemperature": 38,
}


class FakeNvml:
    """NVML with one H200 on which nothing is wrong; `answers` replaces what a getter gives, None: not supported."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0
    nvmlClocksEventReasonApplicationsClocksSetting = 2

    def __init__(self, **answers: object) -> None:
        self.answers = {**GOOD, **answers}

    def __getattr__(self, name: str):
        if name not in self.answers:
            raise AttributeError(name)

        def getter(*arguments: object) -> object:
            if self.answers[name] is None:
                raise NVMLError("Not Supported")
            return self.answers[name]

        return getter
