"""Datasheet figures of GPUs (gpus.yaml): what a device could do at best, beside what a session measures.

Rooflines take the measured ceilings; these figures say how good the measurement is and what cannot be true.
"""

import functools
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a figure was published."""

    title: str
    part: str
    url: str


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU model. Peaks are dense and at boost clock, in FLOP/s (a multiply-add is 2)."""

    names: tuple[str, ...]
    """As NVML reports them, without a leading "NVIDIA "."""
    capability: str
    sm_count: int
    boost_hz: float
    flops_fp32: float
    """Outside the tensor cores."""
    flops_tf32: float | None
    """Tensor cores; None where they have no TF32."""
    flops_fp16: float
    """Tensor cores with FP32 accumulation."""
    bytes_per_s: float
    """DRAM bandwidth."""
    l2_bytes: int | None
    """None where the source does not give it."""
    source: Source


@functools.cache
def datasheet() -> tuple[Gpu, ...]:
    """All GPUs of gpus.yaml."""
    import yaml

    table = yaml.safe_load(resources.files("frugal").joinpath("gpus.yaml").read_text(encoding="utf-8"))
    sources = {key: Source(**entry) for key, entry in table["sources"].items()}
    return tuple(
        Gpu(**entry | {"names": tuple(entry["names"]), "source": sources[entry["source"]]}) for entry in table["gpus"]
    )


def lookup(gpu_name: str) -> Gpu | None:
    """The figures of a GPU by the name that NVML or torch gives it; None for a model that is not listed."""
    name = gpu_name.removeprefix("NVIDIA ")
    return next((gpu for gpu in datasheet() if name in gpu.names), None)
