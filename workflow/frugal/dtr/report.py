"""What a budget cost: counters while it runs, and the report that a user gets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any


class Tallies:
    """Counters of a runtime. Times in ns: base and remat by the operators' costs, search and host by the clock."""

    def __init__(self) -> None:
        self.n_ops = self.n_remats = self.n_evictions = self.n_eager = 0
        self.base = self.remat = self.search = self.cost_model = self.dispatch = self.kernels = 0
        self.peak = 0
        self.peak_op = ""
        self.opaque: Counter[str] = Counter()
        self.ops: Counter[str] = Counter()
        self.remats: Counter[str] = Counter()
        self.costs: Counter[str] = Counter()
        self.step_base = self.step_remat = self.last_base = 0

    def begin_step(self) -> None:
        """The next operators belong to a new step."""
        self.last_base = max(self.last_base, self.step_base)
        self.step_base = self.step_remat = 0


@dataclass(frozen=True)
class Report:
    """A Budget's counters so far.

    n_ops: operators run for the first time; n_remats: again; n_evictions: storages given up to make room; n_eager:
    freed when their last tensor died. base_s, remat_s: Σ of the operators' costs. search_s: host seconds of choosing;
    cost_model_s: of predicting sizes and timing keys; dispatch_s: of all the runtime's own work, these two and the
    operators' host time left out. peak_managed_bytes: the greatest sum of managed storages, and peak_op what ran then.
    peak_allocated_bytes, peak_reserved_bytes, fragmentation (1 − largest free block / free bytes): of CUDA's allocator,
    None elsewhere. thrash_factor: (base + remat) / base. opaque_ops: runs of operators that cannot run again.
    by_op: operator → (runs, replays, Σ cost in s).
    """

    n_ops: int
    n_remats: int
    n_evictions: int
    n_eager: int
    base_s: float
    remat_s: float
    search_s: float
    cost_model_s: float
    dispatch_s: float
    peak_managed_bytes: int
    peak_op: str
    thrash_factor: float
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    fragmentation: float | None = None
    opaque_ops: dict[str, int] = field(default_factory=dict)
    by_op: dict[str, tuple[int, int, float]] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Metric → value, for rows of `measurements`: every number that is known."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: float(v) for name, v in values.items() if isinstance(v, (int, float))}


def report_of(tallies: Tallies, device: Any) -> Report:
    """The report of the counters so far; on a GPU also what its allocator says."""
    allocated = reserved = fragmentation = None
    if device is not None and device.type == "cuda":
        allocated, reserved, fragmentation = _cuda(device)
    base = max(1, tallies.base)
    names = sorted(tallies.ops)
    return Report(
        n_ops=tallies.n_ops,
        n_remats=tallies.n_remats,
        n_evictions=tallies.n_evictions,
        n_eager=tallies.n_eager,
        base_s=tallies.base * 1e-9,
        remat_s=tallies.remat * 1e-9,
        search_s=tallies.search * 1e-9,
        cost_model_s=tallies.cost_model * 1e-9,
        dispatch_s=max(0, tallies.dispatch - tallies.kernels - tallies.search - tallies.cost_model) * 1e-9,
        peak_managed_bytes=tallies.peak,
        peak_op=tallies.peak_op,
        thrash_factor=(base + tallies.remat) / base,
        peak_allocated_bytes=allocated,
        peak_reserved_bytes=reserved,
        fragmentation=fragmentation,
        opaque_ops=dict(tallies.opaque),
        by_op={name: (tallies.ops[name], tallies.remats[name], tallies.costs[name] * 1e-9) for name in names},
    )


def _cuda(device: Any) -> tuple[int, int, float | None]:
    import torch

    blocks = [
        block["size"]
        for segment in torch.cuda.memory_snapshot()
        if segment["device"] == (device.index or 0)
        for block in segment["blocks"]
        if block["state"] == "inactive"
    ]
    fragmentation = 1 - max(blocks) / sum(blocks) if blocks else None
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device), fragmentation
