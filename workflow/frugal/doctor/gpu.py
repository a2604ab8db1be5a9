"""The GPU, its driver, and what of it can be read. NVML is asked through getters alone; no context is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from frugal.provenance.gpu import SLOWDOWN, ask, event_reasons

from .check import FAIL, PASS, WARN, Check, graded

GIB = 1024**3
NOT_OFFERED = "nothing to type: this driver, GPU or virtual machine does not offer it"
# What each reading is for, and NVML's getter with its further arguments.
READINGS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "energy counter": ("energy is else taken from power readings", "nvmlDeviceGetTotalEnergyConsumption", ()),
    "power reading": ("rows have no power", "nvmlDeviceGetPowerUsage", ()),
    "clock reading": ("verdicts in clock cycles are not given", "nvmlDeviceGetClockInfo", ("NVML_CLOCK_SM",)),
    "temperature reading": ("rows have no temperature", "nvmlDeviceGetTemperature", ("NVML_TEMPERATURE_GPU",)),
}  # fmt: skip


def visible(gpu: Mapping[str, Any] | None, kind: str, problem: str | None = None) -> Check:
    """The GPU that would measure. `kind` is what the configuration asks for, `problem` why no GPU can be named."""
    wanted = "an NVIDIA GPU" if kind == "cuda" else "an NVIDIA GPU, or none: then the CPU measures"
    if problem:
        return Check("GPU", FAIL, problem, wanted, "nvidia-smi")
    if gpu is None:
        mend = 'snakemake --cores all --config "devices={local: {kind: auto}}" -- figures'
        return graded("GPU", fail=kind == "cuda", found="none", wanted=wanted, mend=mend)
    return Check("GPU", PASS, f"{gpu['gpu_name']}, {gpu['sm_count']} SMs", wanted)


def driver(gpu: Mapping[str, Any], torch_cuda: str | None, toolkit: str | None) -> Check:
    """Whether the driver runs what torch's wheel and the kernels' compiler were made for.

    `torch_cuda`: the CUDA version of torch; `toolkit`: that of the compiler that builds cubins. A driver runs code of
    its own major version and of older ones (CUDA Compatibility, "minor version compatibility").
    """
    name, wanted = "driver", f"CUDA {_highest(torch_cuda, toolkit)} or newer"
    if torch_cuda is None:
        return Check(name, FAIL, "this torch is built without CUDA", "a torch with CUDA", "rm -r .venv && make setup")
    offered = gpu["cuda_driver"]
    found = f"{gpu['driver'] or 'a driver'} for CUDA {offered or 'of unknown version'}"
    needed = _version(_highest(torch_cuda, toolkit))
    if offered is None:
        return Check(name, WARN, found, wanted, "look at the CUDA version that nvidia-smi shows")
    has = _version(offered)
    return graded(
        name,
        fail=has[0] < needed[0],
        warn=has < needed,
        found=found,
        wanted=wanted,
        mend="sudo apt-get install nvidia-driver (or what your system calls it; on a cluster, ask the operator)",
    )


def capability(gpu: Mapping[str, Any], offered: Sequence[str]) -> Check:
    """Whether kernels can be built for this GPU."""
    found = str(gpu["compute_capability"])
    return graded(
        "compute capability",
        fail=found not in offered,
        found=found,
        wanted=f"one that kernels are built for: {', '.join(offered)}",
        mend='snakemake --cores all --config "devices={local: {kind: cpu}}" -- figures',
    )


def state(gpu: Mapping[str, Any]) -> list[Check]:
    """What an operator has made of the GPU: MIG, clocks."""
    locked = gpu["clocks_locked"]
    return [
        graded(
            "MIG",
            warn=bool(gpu["mig"]),
            found="on" if gpu["mig"] else "off",
            wanted="off: a slice shares memory, power and heat, and its energy is not measured",
            mend="take a whole GPU (CUDA_VISIBLE_DEVICES)",
        ),
        graded(
            "clocks",
            warn=bool(locked),
            found="not told" if locked is None else "held by an operator" if locked else "free",
            wanted="free: held clocks are recorded, but other machines of this model run at others",
            mend="ask the operator for the default clocks, or compare within this machine only",
        ),
    ]


def neighbours(gpu: Mapping[str, Any]) -> Check:
    """Who else computes on the GPU; to be asked by a process that does not."""
    foreign = gpu["foreign_pids"]
    return graded(
        "other processes",
        warn=bool(foreign),
        found="not told" if foreign is None else str(foreign),
        wanted="0 on the GPU: they make times wrong and energy unstable",
        mend="wait for them, or choose another GPU (CUDA_VISIBLE_DEVICES); nvidia-smi lists them",
    )


def health(nvml: Any, handle: Any) -> list[Check]:
    """ECC with its uncorrected errors since the driver was loaded, and persistence mode."""
    ecc = ask(nvml, "nvmlDeviceGetEccMode", handle)
    kinds = (getattr(nvml, "NVML_MEMORY_ERROR_TYPE_UNCORRECTED", None), getattr(nvml, "NVML_VOLATILE_ECC", None))
    errors = ask(nvml, "nvmlDeviceGetTotalEccErrors", handle, *kinds) if ecc and ecc[0] else None
    persistence = ask(nvml, "nvmlDeviceGetPersistenceMode", handle)
    return [
        graded(
            "ECC",
            warn=bool(errors),
            found="not told" if ecc is None else ("on" if ecc[0] else "off") + (f", {errors} errors" if errors else ""),
            wanted="no uncorrected error since the driver was loaded",
            mend="do not trust results of this GPU: have the operator look at it",
        ),
        graded(
            "persistence",
            warn=persistence == 0,
            found="not told" if persistence is None else "on" if persistence else "off",
            wanted="on: without it the driver unloads between jobs, and its energy counter starts anew",
            mend="ask the operator for persistence mode",
        ),
    ]


def readings(nvml: Any, handle: Any) -> list[Check]:
    """Whether energy, power, clocks, temperature and event reasons can be read, each by itself."""
    found = []
    for name, (else_, getter, arguments) in READINGS.items():
        value = ask(nvml, getter, handle, *(getattr(nvml, argument, None) for argument in arguments))
        found.append(
            graded(
                name,
                warn=value is None,
                found="not readable" if value is None else "readable",
                wanted=f"readable: {else_}",
                mend=NOT_OFFERED,
            )
        )
    return [*found, _event_reasons(nvml, handle)]


def free_memory(nvml: Any, handle: Any, needed: int) -> Check:
    """Free device memory beside what the largest case takes (bytes)."""
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    if memory is None:
        return Check("GPU memory", PASS, "not told", f"at least {needed / GIB:.1f} GiB")
    return graded(
        "GPU memory",
        fail=memory.free < needed,
        warn=memory.free < 1.5 * needed,
        found=f"{memory.free / GIB:.1f} GiB free",
        wanted=f"at least {needed / GIB:.1f} GiB for the largest case, better half as much again",
        mend="nvidia-smi (and end the processes that it lists)",
    )


def _event_reasons(nvml: Any, handle: Any) -> Check:
    """Readable, and no slowdown right now."""
    reasons = event_reasons(nvml, handle)
    slowed = reasons is not None and bool(reasons & SLOWDOWN)
    return graded(
        "event reasons",
        warn=reasons is None or slowed,
        found="not readable" if reasons is None else f"slowed down now ({reasons:#x})" if slowed else "readable",
        wanted="readable, and no slowdown by heat or hardware: samples taken in one are left out",
        mend="let the GPU cool down; look at its power and fans" if slowed else NOT_OFFERED,
    )


def _highest(*versions: str | None) -> str:
    return max((version for version in versions if version), key=_version, default="13.0")


def _version(text: str) -> tuple[int, int]:
    major, _, rest = text.partition(".")
    return int(major), int(rest.partition(".")[0] or 0)
