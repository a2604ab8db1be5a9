"""What the GPU is. NVML and the CUDA driver are asked and never told anything; no context is made on the device.

NVML (clocks, power, ECC, …) counts GPUs by bus and ignores CUDA_VISIBLE_DEVICES; the CUDA driver obeys it. So the GPU
that CUDA calls 0 is asked for its UUID, and NVML for that UUID. Both modules are parameters: tests inject fakes.
"""

import hashlib
import os
import uuid
from collections.abc import Mapping
from typing import Any

from frugal.errors import FrugalError

# FP32 lanes of one SM, to get the number of SMs from NVML's number of cores where the driver's library is not installed
# (CUDA C++ Programming Guide, "Arithmetic Instructions": results per clock cycle and SM, 32-bit floating-point add).
_LANES = {"7.0": 64, "7.5": 64, "8.0": 64}
_LANES_SINCE_8_6 = 128
# Event reasons that are no choice of the driver's power management but an emergency (nvml.h): HwSlowdown 0x8,
# SwThermalSlowdown 0x20, HwThermalSlowdown 0x40, HwPowerBrakeSlowdown 0x80. SwPowerCap (0x4) is normal under load.
SLOWDOWN = 0x8 | 0x20 | 0x40 | 0x80


def open_nvml() -> Any | None:
    """pynvml, initialised; None where there is no NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def open_driver() -> Any | None:
    """cuda.bindings.driver, initialised; None where it is not installed or finds no GPU."""
    try:
        from cuda.bindings import driver

        (status,) = driver.cuInit(0)
    except (ImportError, RuntimeError):  # a missing libcuda is a RuntimeError of cuda.pathfinder
        return None
    return driver if int(status) == 0 else None


def gpu_record(nvml: Any, driver: Any | None, environ: Mapping[str, str] = os.environ) -> dict | None:
    """The columns of `runs` on the first visible GPU (bytes, Hz, W); None where no GPU is visible.

    What NVML or the driver cannot tell is None.
    """
    handle, facts = _first(nvml, driver, environ)
    if handle is None:
        return None
    facts = facts or _nvml_facts(nvml, handle)
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    ecc = ask(nvml, "nvmlDeviceGetEccMode", handle)
    is_slice = text(nvml.nvmlDeviceGetUUID(handle)).startswith("MIG-")
    mig = ask(nvml, "nvmlDeviceGetMigMode", handle)
    cuda = ask(nvml, "nvmlSystemGetCudaDriverVersion_v2")
    sm_clock, mem_clock = (_max_clock(nvml, handle, kind) for kind in ("NVML_CLOCK_SM", "NVML_CLOCK_MEM"))
    power = ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)
    return {
        "gpu_name": text(nvml.nvmlDeviceGetName(handle)),
        "gpu_uuid_hash": salted(text(nvml.nvmlDeviceGetUUID(handle))),
        "compute_capability": facts["capability"],
        "sm_count": facts["sm_count"],
        "l2_bytes": facts["l2_bytes"],
        "mem_bytes": None if memory is None else int(memory.total),
        "ecc": None if ecc is None else bool(ecc[0]),
        "mig": is_slice or bool(mig and mig[0]),
        "driver": text(ask(nvml, "nvmlSystemGetDriverVersion")),
        "cuda_driver": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "sm_hz_max": sm_clock,
        "mem_hz_max": mem_clock,
        "power_limit_w": None if power is None else power / 1e3,
        "clocks_locked": clocks_locked(nvml, handle),
        "foreign_pids": foreign_pids(nvml, handle),
    }


def gpu_handle(nvml: Any, driver: Any | None = None, environ: Mapping[str, str] = os.environ) -> Any | None:
    """NVML's handle of the first visible GPU; None where no GPU is visible."""
    return _first(nvml, driver, environ)[0]


def ask(nvml: Any, getter: str, *arguments: Any) -> Any | None:
    """One getter of NVML; None where this driver or this GPU does not have it."""
    try:
        return getattr(nvml, getter)(*arguments)
    except (AttributeError, nvml.NVMLError):
        return None


def event_reasons(nvml: Any, handle: Any) -> int | None:
    """Why the clock is what it is: NVML's bits. Older drivers call them throttle reasons."""
    found = ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    return found if found is not None else ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)


def clocks_locked(nvml: Any, handle: Any) -> bool | None:
    """Whether an operator's setting holds the clocks now (NVML's event reason `ApplicationsClocksSetting`)."""
    reasons = ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    return None if reasons is None else bool(reasons & nvml.nvmlClocksEventReasonApplicationsClocksSetting)


def foreign_pids(nvml: Any, handle: Any) -> int | None:
    """How many other processes have a compute context on the GPU."""
    processes = ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle)
    return None if processes is None else sum(process.pid != os.getpid() for process in processes)


def salted(secret: str) -> str:
    """SHA-256, with this project's salt, of something that identifies a machine: it tells machines apart only."""
    return hashlib.sha256(b"frugal\0" + secret.encode()).hexdigest()


def text(value: Any) -> Any:
    """Older pynvml gives bytes for text."""
    return value.decode() if isinstance(value, bytes) else value


def _max_clock(nvml: Any, handle: Any, kind: str) -> float | None:
    megahertz = ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, getattr(nvml, kind))
    return None if megahertz is None else megahertz * 1e6


def _first(nvml: Any, driver: Any | None, environ: Mapping[str, str]) -> tuple[Any | None, dict | None]:
    """The handle of the first visible GPU, and what the CUDA driver says of it where it was asked."""
    facts = _driver_facts(driver) if driver is not None else None
    return handle_by_uuid(nvml, facts["uuid"]) if facts else _first_visible(nvml, environ), facts


def _driver_facts(driver: Any) -> dict | None:
    """What the CUDA driver says of its device 0, the first that CUDA_VISIBLE_DEVICES names."""
    status, count = driver.cuDeviceGetCount()
    if int(status) != 0 or count == 0:
        return None
    device = _result(driver.cuDeviceGet(0))
    attribute = driver.CUdevice_attribute
    major, minor, sm_count, l2_bytes = (
        int(_result(driver.cuDeviceGetAttribute(getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), device)))
        for name in ("COMPUTE_CAPABILITY_MAJOR", "COMPUTE_CAPABILITY_MINOR", "MULTIPROCESSOR_COUNT", "L2_CACHE_SIZE")
    )
    return {
        "uuid": str(uuid.UUID(bytes=bytes(_result(driver.cuDeviceGetUuid(device)).bytes))),
        "capability": f"{major}.{minor}",
        "sm_count": sm_count,
        "l2_bytes": l2_bytes,
    }


def _result(answer: tuple) -> Any:
    status, value = answer
    if int(status) != 0:
        raise FrugalError(
            f"the CUDA driver refuses to describe the GPU ({getattr(status, 'name', status)}): check it with nvidia-smi"
        )
    return value


def _nvml_facts(nvml: Any, handle: Any) -> dict:
    """What NVML alone can say; it knows no cache sizes."""
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    capability = f"{major}.{minor}"
    cores = nvml.nvmlDeviceGetNumGpuCores(handle)
    return {"capability": capability, "sm_count": cores // _LANES.get(capability, _LANES_SINCE_8_6), "l2_bytes": None}


def handle_by_uuid(nvml: Any, number: str) -> Any:
    """NVML's handle of the GPU, or of the MIG slice, that has this UUID."""
    for prefix in ("GPU-", "MIG-"):
        if (handle := ask(nvml, "nvmlDeviceGetHandleByUUID", prefix + number)) is not None:
            return handle
    raise FrugalError("NVML does not know the GPU that CUDA uses: check that driver and libraries fit with nvidia-smi")


def _first_visible(nvml: Any, environ: Mapping[str, str]) -> Any | None:
    """The handle of the first GPU that CUDA_VISIBLE_DEVICES names, by the rules of the CUDA C++ Programming Guide."""
    count = nvml.nvmlDeviceGetCount()
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    first = environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if first.startswith("MIG-"):
        return ask(nvml, "nvmlDeviceGetHandleByUUID", first)
    if first.startswith("GPU-"):
        # An abbreviated UUID is allowed.
        return next((handle for handle in handles if text(nvml.nvmlDeviceGetUUID(handle)).startswith(first)), None)
    if not first.isdigit() or int(first) >= count:
        return None
    names = sorted({text(nvml.nvmlDeviceGetName(handle)) for handle in handles})
    if len(names) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        raise FrugalError(
            f"this host has different GPUs ({', '.join(names)}), which CUDA numbers by speed and NVML by bus: "
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or install cuda-bindings"
        )
    return handles[int(first)]
