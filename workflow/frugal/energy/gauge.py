"""The gauges of one GPU, through NVML's getters. What this driver or this GPU does not tell is None."""

from __future__ import annotations

from typing import Any

from frugal.provenance.gpu import ask, event_reasons, handle_by_uuid, open_nvml, text

# The reading that exists since driver 530 (NVML_FI_DEV_POWER_INSTANT) and its scope "the GPU"; the older power reading
# is a moving average, which at a step of load needs a second to arrive.
_INSTANT = "NVML_FI_DEV_POWER_INSTANT"
_SCOPE = "NVML_POWER_SCOPE_GPU"


class Gauge:
    """One GPU. `nvml` is pynvml, or a fake of it; `handle` its handle of the GPU."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def sm_hz(self) -> float | None:
        """The SM clock in Hz, in steps of 15 MHz on today's GPUs."""
        return self._clock("NVML_CLOCK_SM")

    def mem_hz(self) -> float | None:
        """The memory clock in Hz."""
        return self._clock("NVML_CLOCK_MEM")

    def temperature_c(self) -> float | None:
        """The die's temperature in degrees Celsius."""
        kind = getattr(self._nvml, "NVML_TEMPERATURE_GPU", 0)
        degrees = ask(self._nvml, "nvmlDeviceGetTemperature", self._handle, kind)
        return None if degrees is None else float(degrees)

    def average_w(self) -> float | None:
        """The board's power in W: a moving average, on most GPUs over about a second."""
        milliwatts = ask(self._nvml, "nvmlDeviceGetPowerUsage", self._handle)
        return None if milliwatts is None else milliwatts / 1e3

    def power_w(self) -> float | None:
        """The board's power in W: of the instant where the driver has that, else the moving average."""
        field = getattr(self._nvml, _INSTANT, None)
        if field is not None:
            asked = [(field, getattr(self._nvml, _SCOPE, 0))]
            values = ask(self._nvml, "nvmlDeviceGetFieldValues", self._handle, asked)
            if values and values[0].nvmlReturn == 0:
                return values[0].value.uiVal / 1e3
        return self.average_w()

    def event_reasons(self) -> int | None:
        """Why the clock is what it is: NVML's bits."""
        return event_reasons(self._nvml, self._handle)

    def energy_j(self) -> float | None:
        """J that the board has used since the driver was loaded. It ticks about ten times a second; a read is slow."""
        millijoules = ask(self._nvml, "nvmlDeviceGetTotalEnergyConsumption", self._handle)
        return None if millijoules is None else millijoules / 1e3

    def is_slice(self) -> bool:
        """Whether the board is divided (MIG): its counters then tell more than this slice's share."""
        if str(text(ask(self._nvml, "nvmlDeviceGetUUID", self._handle))).startswith("MIG-"):
            return True
        mode = ask(self._nvml, "nvmlDeviceGetMigMode", self._handle)
        return bool(mode and mode[0])

    def neighbours(self) -> int | None:
        """How many other processes compute on the GPU; to be called by one that does.

        One of those that NVML lists is this process, by whatever number: inside a container it has another.
        """
        processes = ask(self._nvml, "nvmlDeviceGetComputeRunningProcesses", self._handle)
        return None if processes is None else max(0, len(processes) - 1)

    def _clock(self, kind: str) -> float | None:
        megahertz = ask(self._nvml, "nvmlDeviceGetClockInfo", self._handle, getattr(self._nvml, kind))
        return None if megahertz is None else megahertz * 1e6


def gauge_of(uuid: str | None, nvml: Any | None = None) -> Gauge | None:
    """The gauges of the GPU that CUDA calls by this UUID; None for a CPU and where there is no NVIDIA driver."""
    if uuid is None:
        return None
    nvml = nvml if nvml is not None else open_nvml()
    return None if nvml is None else Gauge(nvml, handle_by_uuid(nvml, uuid.removeprefix("GPU-").removeprefix("MIG-")))
