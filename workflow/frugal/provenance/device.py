"""The device that measures, and its key: the name under which its results are kept apart from other machines'."""

import json
import os
import re
from pathlib import Path
from typing import Any

from frugal.errors import FrugalError
from frugal.files import publishing

from .cpu import cpu_record
from .gpu import gpu_record, open_driver, open_nvml

KINDS = ("auto", "cpu", "cuda")


def device_record(kind: str = "auto", nvml: Any | None = None, driver: Any | None = None) -> dict:
    """What a device file holds: `device_kind`, `device_key`, `hardware_class` and what the key is made of.

    There are no times, host names or serial numbers in it: equal machines give equal records. `kind` is `auto` (the
    first visible GPU, else the CPU), `cpu` or `cuda`. `nvml` and `driver` stand for pynvml and cuda.bindings.driver; a
    given `nvml` is never mixed with this machine's own driver.

    Raises FrugalError for an unknown kind, and for `cuda` where no GPU is visible.
    """
    gpu = find_gpu(kind, nvml, driver)
    cpu = cpu_record()
    record = {
        "device_kind": "cuda" if gpu else "cpu",
        "device_key": gpu_key(gpu) if gpu else cpu_key(cpu),
        "hardware_class": "gpu" if gpu else "cpu",
        "gpu_name": None,
        "capability": None,
        "sm_count": None,
        "l2_bytes": None,
    }
    if gpu:
        record |= {name: gpu[name] for name in ("gpu_name", "sm_count", "l2_bytes")}
        record["capability"] = gpu["compute_capability"]
    return record | {name: cpu[name] for name in ("cpu_model", "cpu_cores", "llc_bytes")}


def device_key(kind: str = "auto", nvml: Any | None = None, driver: Any | None = None) -> str:
    """`nvidia-h200-9.0-132sm` (model, compute capability, SMs) or `cpu-amd-epyc-2c` (model, cores)."""
    return device_record(kind, nvml, driver)["device_key"]


def find_gpu(kind: str, nvml: Any | None = None, driver: Any | None = None) -> dict | None:
    """The `runs` columns of the GPU that measures; None where the CPU does."""
    if kind not in KINDS:
        raise FrugalError(f"device kind {kind!r} is unknown: use one of {', '.join(KINDS)}")
    if kind == "cpu":
        return None
    if nvml is None:
        nvml = open_nvml()
        driver = open_driver() if nvml is not None else None
    gpu = gpu_record(nvml, driver) if nvml is not None else None
    if gpu is None and kind == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        raise FrugalError(
            f"no NVIDIA GPU is visible here{hint}: set devices.<label>.kind to auto or cpu, or check nvidia-smi"
        )
    return gpu


def gpu_key(gpu: dict) -> str:
    """The key of a GPU: the same for every board of a model."""
    name = slug(gpu["gpu_name"])
    maker = "" if name.startswith("nvidia-") else "nvidia-"
    return f"{maker}{name}-{gpu['compute_capability']}-{gpu['sm_count']}sm"


def cpu_key(cpu: dict) -> str:
    """The key of a CPU: its model and its logical cores."""
    return f"cpu-{slug(cpu['cpu_model'])}-{cpu['cpu_cores']}c"


def slug(name: str) -> str:
    """A name for files and keys: lower-case letters, digits, dots, plus signs and dashes."""
    return re.sub(r"[^a-z0-9.+]+", "-", name.lower()).strip("-")


def write_device_record(record: dict, path: str | Path) -> None:
    """Write a device file (JSON), beside and renamed."""
    with publishing(path) as file:
        file.write(json.dumps(record, indent=2, sort_keys=True).encode() + b"\n")


def check_device(path: str | Path) -> dict:
    """Read a device file and make sure that it describes this machine, so that no row is filed under another's name.

    Raises FrugalError, one sentence, for a file that is damaged and for another machine.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        planned = record["device_key"]
    except (OSError, ValueError, KeyError, TypeError):
        raise FrugalError(f"{path} is no device file: delete it and run again") from None
    here = device_key(record["device_kind"])
    if here != planned:
        raise FrugalError(
            f"this machine measures as {here}, but the campaign was planned for {planned} ({path}): call `frugal "
            "refresh` and run again, or give the job a machine of the planned kind"
        )
    return record
