"""What a campaign will take, before anything runs: jobs, minutes, disk, memory, and how narrow its intervals will be.

    planned = plan(config.load({"preset": "quick"}))
    print(text(planned))

No GPU is touched (its name is asked for, and an earlier campaign is read), and torch is not imported. Minutes of a
system are those of its measuring jobs, the sum that the report sets beside what they took.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles

from frugal import provenance, stats
from frugal.config import Config
from frugal.data import choose
from frugal.doctor import Need
from frugal.errors import FrugalError
from frugal.files import publishing
from frugal.provenance.device import find_gpu
from frugal.provenance.software import REPOSITORY
from frugal.timing.design import Design

from . import beside, past, work
from .minutes import EFFICIENCY, Span, session_seconds

__all__ = ["Plan", "SystemPlan", "json_text", "need", "plan", "text", "write"]

GIB = 1024**3
# Beside a session's own tensors: CUDA's context and libraries, the flush buffer, a library's workspace, and, when the
# cases are done, the ceilings (two gigabytes of copies, three matrices of 8192²). On a CPU: Python, torch, its copies.
GPU_BASE, CEILINGS, WORKSPACE = 0.6 * GIB, 2 * GIB + 3 * 4 * 8192**2, 1.0 * GIB
CPU_BASE = 1.5 * GIB
SLACK_BYTES = GIB // 2  # logs, Snakemake's notes, files that are written beside before they are renamed


@dataclass(frozen=True, kw_only=True)
class SystemPlan:
    """One system. Minutes are those of its jobs that measure, on all machines; bytes are bytes.

    download_bytes: what is not there yet; data_bytes: converted images and weights; result_bytes: tables and figures.
    half_width: the expected half-width of a ratio's 95 % interval, in the median and for nine in ten (None: one
    session, or no campaign with several to learn from).
    """

    system: str
    cases: int
    arms: int
    jobs: int
    minutes_low: float
    minutes: float
    minutes_high: float
    samples: float
    download_bytes: int
    data_bytes: int
    result_bytes: int
    device_memory_bytes: int
    half_width: float | None
    half_width_90: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole campaign. `learned_from`: the campaign by device label that the minutes come from; `beside`: jobs of each
    rule that does not measure; `other_minutes`: theirs, on `cores` cores."""

    preset: str
    sessions: int
    rounds: int
    devices: Mapping[str, str]
    device_kinds: Mapping[str, str]
    learned_from: Mapping[str, str]
    cores: int
    systems: Sequence[SystemPlan]
    beside: Mapping[str, int]
    other_minutes_low: float
    other_minutes: float
    other_minutes_high: float
    kernel_bytes: int

    @property
    def on_cpu(self) -> bool:
        """Whether any of the machines measures on its CPU."""
        return "cpu" in self.device_kinds.values()

    @property
    def disk_bytes(self) -> int:
        """What is downloaded and written."""
        parts = (system.download_bytes + system.data_bytes + system.result_bytes for system in self.systems)
        return self.kernel_bytes + sum(parts)

    @property
    def minutes(self) -> tuple[float, float, float]:
        """The whole campaign: low, expected, high."""
        return tuple(
            getattr(self, f"other_{name}") + sum(getattr(system, name) for system in self.systems)
            for name in ("minutes_low", "minutes", "minutes_high")
        )


def plan(cfg: Config, *, results: Path = Path("results"), data: Path = Path("data"), cores: int | None = None) -> Plan:
    """Reckon what a campaign of this configuration takes, from the last one in `results` or a recorded one.

    cores: those that Snakemake gets (None: all of this machine's).
    """
    cores = cores or os.cpu_count() or 1
    devices = {label: _device(label, cfg, results) for label in sorted(cfg.devices)}
    recorded = choose.recorded(cfg.recorded, REPOSITORY / "results" / "recorded")
    pasts = {
        label: past.find(str(device["device_kind"]), device, results, recorded) for label, device in devices.items()
    }
    design = work.design_of(cfg)
    counted = beside.jobs(cfg, devices)
    other = beside.seconds(counted, cores) * (1 / 60)
    gpu_bytes = _gpu_bytes(cfg)
    systems = [
        _system(
            name,
            cfg,
            design,
            data,
            {label: (str(devices[label]["device_kind"]), pasts[label]) for label in devices},
            gpu_bytes,
        )
        for name in cfg.systems
    ]
    return Plan(
        preset=cfg.preset,
        sessions=design.sessions,
        rounds=design.rounds,
        devices={label: str(device["device_key"]) for label, device in devices.items()},
        device_kinds={label: str(device["device_kind"]) for label, device in devices.items()},
        learned_from={label: found.origin for label, found in pasts.items()},
        cores=cores,
        systems=systems,
        beside=counted,
        other_minutes_low=other.low,
        other_minutes=other.expected,
        other_minutes_high=other.high,
        kernel_bytes=counted.get("build_kernel", 0) * beside.BUILT_BYTES,
    )


def need(planned: Plan) -> Need:
    """What `frugal.doctor` compares this machine with."""
    most = max((system.device_memory_bytes for system in planned.systems), default=0)
    return Need(
        disk_bytes=planned.disk_bytes + SLACK_BYTES,
        ram_bytes=int(max(CPU_BASE, most if planned.on_cpu else 0)),
        gpu_bytes=most,
    )


def write(planned: Plan, path: Path) -> None:
    """Write `json_text`, beside and renamed."""
    with publishing(path) as file:
        file.write(json_text(planned).encode())


def json_text(planned: Plan) -> str:
    """The plan as JSON: its fields by name, and the whole campaign's minutes."""
    names = ("minutes_low", "minutes", "minutes_high")
    total = dict(zip(names, planned.minutes, strict=True))
    return json.dumps(asdict(planned) | {"total": total}, indent=1, sort_keys=True) + "\n"


def text(planned: Plan) -> str:
    """The plan for a person: a table of systems, and what the whole takes."""
    head = ("system", "cases", "arms", "jobs", "minutes", "download", "results", "memory", "half-width of intervals")
    rows = [
        (
            system.system,
            str(system.cases),
            str(system.arms),
            str(system.jobs),
            _minutes(system.minutes_low, system.minutes, system.minutes_high),
            _gb(system.download_bytes),
            _gb(system.data_bytes + system.result_bytes),
            f"{system.device_memory_bytes / GIB:.1f} GiB",
            _half_width(system, planned.sessions),
        )
        for system in planned.systems
    ]
    other = _minutes(planned.other_minutes_low, planned.other_minutes, planned.other_minutes_high)
    rows.append(("all else", "", "", str(sum(planned.beside.values())), other, "", _gb(planned.kernel_bytes), "", ""))
    rows.append(("together", "", "", "", _minutes(*planned.minutes), "", "", "", ""))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    machines = ", ".join(
        f"{label} ({key}; learned from {planned.learned_from[label]})" for label, key in planned.devices.items()
    )
    lines = [
        f"preset {planned.preset}: sessions {planned.sessions}, rounds {planned.rounds}, on {machines}",
        "",
        *(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        ),
        "",
        "all else: " + ", ".join(f"{count} × {rule}" for rule, count in planned.beside.items()),
        f"disk: {_gb(planned.disk_bytes)} in all",
    ]
    return "\n".join(lines)


def _device(label: str, cfg: Config, results: Path) -> Mapping[str, object]:
    """The device file of a label where the workflow has asked already, else what this machine is."""
    path = results / "device" / f"{label}.json"
    if path.is_file():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise FrugalError(f"{path} is no device file: delete it and run again") from None
    kind = cfg.devices[label].kind
    try:
        return provenance.device_record(kind)
    except FrugalError:
        if kind != "cuda":
            raise
        # a cluster's head node plans for a GPU that it does not have
        return {"device_kind": "cuda", "device_key": "an NVIDIA GPU", "gpu_name": None, "capability": "9.0"}


def _gpu_bytes(cfg: Config) -> float:
    """The memory of the GPU that is here; infinite where there is none, or where the labels name other machines."""
    if set(cfg.devices) == {"local"} and cfg.devices["local"].kind != "cpu":
        with suppress(FrugalError):
            return (find_gpu("auto") or {}).get("mem_bytes") or math.inf
    return math.inf


def _system(
    name: str,
    cfg: Config,
    design: Design,
    data: Path,
    labels: Mapping[str, tuple[str, past.Past]],
    gpu_bytes: float,
) -> SystemPlan:
    """One system on all machines. gpu_bytes: the memory of a GPU."""
    total, samples, jobs, memory = Span(), 0.0, 0, 0.0
    found: list[float] = []
    for kind, known in labels.values():
        made = work.of_system(name, cfg, kind)
        cases = [case for part in made.experiments.values() for case in part]
        controls = work.controls(cfg.preset, kind, gpu_bytes)
        for experiment, part in made.experiments.items():
            terms = known.terms_of(experiment)
            total += session_seconds(part, controls, design, kind, terms) * design.sessions
        side = (made.side_jobs + made.side_processes) * known.terms.side_job_s
        side += made.side_flop / (known.terms.flops * EFFICIENCY)
        total += Span(0.5 * side, side, 2.0 * side)
        blocks = sum(len(regimes) for case in cases for regimes in case.arms) * design.rounds * design.sessions
        samples += blocks * known.terms.samples
        jobs += made.side_jobs + design.sessions * len(made.experiments)
        memory = max(memory, _memory(made, [*cases, *controls], kind))
        found += known.sd_session.get(name, ())
    half, half_90 = _half_widths(found, design.sessions)
    minutes = total * (1 / 60)
    return SystemPlan(
        system=name,
        cases=len(cases),
        arms=sum(len(case.arms) for case in cases),
        jobs=jobs,
        minutes_low=minutes.low,
        minutes=minutes.expected,
        minutes_high=minutes.high,
        samples=samples,
        download_bytes=beside.download_bytes(cfg, data) if name == "cusnn" else 0,
        data_bytes=beside.data_bytes(cfg) if name == "cusnn" else 0,
        result_bytes=beside.result_bytes(name, samples),
        device_memory_bytes=int(memory),
        half_width=half,
        half_width_90=half_90,
    )


def _memory(made: work.Work, cases: Sequence[work.Case], kind: str) -> float:
    """What the largest case takes of the device's memory (on a CPU: of the machine's)."""
    largest = made.resident_bytes + max((case.memory_bytes for case in cases), default=0.0)
    if kind == "cpu":
        return CPU_BASE + largest
    return GPU_BASE + max(made.resident_bytes + CEILINGS, largest + WORKSPACE)


def _half_widths(sd_session: Sequence[float], sessions: int) -> tuple[float | None, float | None]:
    """exp(t·s/√P) − 1, Student's t at 97.5 % and P − 1 degrees of freedom: of the median s, and of the ninth decile."""
    if sessions < 2 or len(sd_session) < 2:
        return None, None
    deciles = quantiles(sd_session, n=10, method="inclusive")
    t = stats.t_quantile(0.975, sessions - 1)
    return tuple(math.expm1(t * s / math.sqrt(sessions)) for s in (deciles[4], deciles[8]))


def _half_width(system: SystemPlan, sessions: int) -> str:
    if sessions < 2:
        return "none: one session"
    if system.half_width is None:
        return "not known yet"
    return f"±{system.half_width:.1%} (nine in ten below ±{system.half_width_90:.1%})"


def _minutes(low: float, expected: float, high: float) -> str:
    return f"{expected:.1f} ({low:.1f} to {high:.1f})"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
