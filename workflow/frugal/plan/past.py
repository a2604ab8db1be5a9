"""What an earlier campaign on such a device tells of the next: how long blocks and all around them take, how noisy.

Where there is none, the constants below stand in: they were read in the same way from this project's own campaigns, on
two shared cores (`smoke`) and on an H200 (`quick` and `headline`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean, median

import pyarrow as pa
import pyarrow.compute as pc

from frugal import hardware, records
from frugal.errors import FrugalError
from frugal.timing.design import Design

from .minutes import Terms, longest_s, shortest_s

BUILT_IN = {
    "cpu": Terms(
        start_s=10.0,
        arm_s=0.03,
        fill={"cold": 0.95, "graph": 0.6, "wall": 0.4, "hot": 0.6},
        side_job_s=4.0,
        flops=1e11,
        bytes_per_s=2e10,
        samples=130.0,
    ),
    "cuda": Terms(
        start_s=10.0,
        arm_s=0.05,
        fill={"cold": 0.05, "graph": 0.01, "graph_rotated": 0.05, "hot": 0.1, "wall": 0.5},
        side_job_s=6.0,
        flops=2e13,
        bytes_per_s=1e12,
        samples=400.0,
    ),
}
BUILT_IN_ARMS = {"cpu": {}, "cuda": {"networks": 0.9}}
PROCESS_S = 4.0  # before a session's row of `runs` begins: Python, torch, Numba
SIDE_PROCESS_S = 2.0  # the same of a job that compiles nothing
_BLOCK = ("run_id", "case_id", "arm", "regime", "l2", "block")


@dataclass(frozen=True)
class Past:
    """`origin`: whose rows these are; `sd_session`: by system, the standard deviations over sessions of the comparisons
    of time (of ln of the ratio); `arm_s`: by experiment, `Terms.arm_s` of its sessions."""

    origin: str
    terms: Terms
    sd_session: Mapping[str, Sequence[float]] = field(default_factory=dict)
    arm_s: Mapping[str, float] = field(default_factory=dict)

    def terms_of(self, experiment: str) -> Terms:
        """The terms of a session of that experiment: a network takes longer to prepare than a layer."""
        return replace(self.terms, arm_s=self.arm_s.get(experiment, self.terms.arm_s))


def find(kind: str, device: Mapping[str, object], results: Path, recorded: Iterable[Path]) -> Past:
    """The last campaign of these results on a device of this kind, else a recorded one, else what is built in.

    Rates come from the device's own sessions, else from its datasheet, else they are those of the campaign. The noise
    comes from the first of these campaigns that had two sessions at least.
    """
    folders = {"earlier results": results} | {f"recorded {folder.name}": folder for folder in recorded}
    # Read no further than needed: a recorded campaign has millions of samples.
    campaigns = (past for name, folder in folders.items() if (past := learn(folder, kind, name)) is not None)
    first = next(campaigns, Past("built in", BUILT_IN[kind], arm_s=BUILT_IN_ARMS[kind]))
    noise = first.sd_session or next((past.sd_session for past in campaigns if past.sd_session), {})
    terms = first.terms
    listed = hardware.lookup(str(device.get("gpu_name"))) if kind == "cuda" else None
    if listed is not None and first.origin != "earlier results":
        terms = replace(terms, flops=listed.flops_fp32, bytes_per_s=listed.bytes_per_s)
    return replace(first, terms=terms, sd_session=noise)


def learn(folder: Path, kind: str, name: str) -> Past | None:
    """What the campaign called `name` tells; None where it timed nothing on such a device, or cannot be read."""
    try:
        runs = records.read(folder, "runs")
        measurements = records.read(folder, "measurements", ("case_id", "system"))
        samples = records.read(folder, "samples", (*_BLOCK, "metric", "start_ns"))
    except FrugalError:
        return None
    timed = _timed_runs(runs, measurements, samples, kind)
    if not timed:
        return None
    learned = [_of_session(run, part) for run, part in timed]
    regimes = {regime for one in learned for regime in one.fill}
    arms: dict[str, list[float]] = {}
    for (run, _), one in zip(timed, learned, strict=True):
        arms.setdefault(str(run["experiment"]), []).append(one.arm_s)
    built_in = BUILT_IN[kind]
    terms = Terms(
        start_s=fmean(one.start_s for one in learned),
        arm_s=median(one.arm_s for one in learned),
        fill=dict(built_in.fill) | {r: fmean(o.fill[r] for o in learned if r in o.fill) for r in regimes},
        side_job_s=_side_job_s(runs, timed) or built_in.side_job_s,
        flops=_rate(runs, kind, "flops_fp32") or built_in.flops,
        bytes_per_s=_rate(runs, kind, "copy_bytes_per_s") or built_in.bytes_per_s,
        samples=fmean(one.samples for one in learned),
    )
    of_experiments = {experiment: fmean(seconds) for experiment, seconds in arms.items()}
    return Past(name, terms, _sd_session(folder, runs, kind), dict(BUILT_IN_ARMS[kind]) | of_experiments)


@dataclass(frozen=True)
class _Learned:
    start_s: float
    arm_s: float
    fill: Mapping[str, float]
    samples: float


def _timed_runs(
    runs: pa.Table, measurements: pa.Table, samples: pa.Table, kind: str
) -> list[tuple[Mapping[str, object], list[Mapping[str, object]]]]:
    """(run, its blocks) of each session that timed something else than controls; sessions with energy are left out:
    what lies between their blocks is no overhead."""
    controls = pc.equal(measurements["system"], "control")
    own = set(measurements.filter(pc.invert(controls))["case_id"].to_pylist())
    if not len(samples):
        return []
    energetic = set(samples.filter(pc.not_equal(samples["metric"], "time"))["run_id"].to_pylist())
    timed = set(samples["run_id"].unique().to_pylist()) - energetic
    # One that was stopped and went on later, perhaps on another boot's clock, has a gap that is no overhead either.
    whole = {run["run_id"] for run in runs.to_pylist() if not run["process_restarts"]} & timed
    found = []
    for run in runs.to_pylist():
        if run["device_kind"] != kind or run["run_id"] not in (whole or timed) or not run["started_at"]:
            continue
        part = samples.filter(pc.equal(samples["run_id"], run["run_id"]))
        grouped = part.group_by(list(_BLOCK)).aggregate(
            [("start_ns", "min"), ("start_ns", "max"), ("start_ns", "count")]
        )
        blocks = grouped.to_pylist()
        if any(block["case_id"] in own for block in blocks):
            found.append((run, blocks))
    return found


def _of_session(run: Mapping[str, object], blocks: Sequence[Mapping[str, object]]) -> _Learned:
    design = _design(run)
    fill: dict[str, list[float]] = {}
    inside = 0.0
    for block in blocks:
        first, last, count = (block[f"start_ns_{what}"] for what in ("min", "max", "count"))
        sample_s = (last - first) * 1e-9 / max(1, count - 1)
        seconds = sample_s * count
        least, most = shortest_s(sample_s, design), longest_s(sample_s, design)
        share = (seconds - least) / (most - least) if most > least else 0.0
        regime = "graph_rotated" if block["l2"] == "rotated" else block["regime"]
        fill.setdefault(regime, []).append(min(1.0, max(0.0, share)))
        inside += seconds + max(design.block_warmup_s, sample_s)
    span = (max(b["start_ns_max"] for b in blocks) - min(b["start_ns_min"] for b in blocks)) * 1e-9
    cases = {block["case_id"] for block in blocks}
    arms = {(block["case_id"], block["arm"]) for block in blocks}
    on_gpu = run["device_kind"] == "cuda"
    around = span - inside - len(cases) * (design.load_s if on_gpu else 0.0)
    elapsed = (run["finished_at"] - run["started_at"]).total_seconds()
    warm = design.warmup_gpu_s if on_gpu else design.warmup_cpu_s
    return _Learned(
        start_s=max(0.0, PROCESS_S + elapsed - span - warm),
        arm_s=max(0.0, around / len(arms)),
        fill={regime: fmean(shares) for regime, shares in fill.items()},
        samples=fmean(block["start_ns_count"] for block in blocks),
    )


def _design(run: Mapping[str, object]) -> Design:
    """The design of a recorded session; keys that its version did not have are the preset's."""
    timing = json.loads(str(run["config_json"])).get("timing", {})
    known = {f.name for f in fields(Design)} - {"preset", "sessions", "regimes", "threads", "affinity"}
    return Design.of(str(run["preset"]), **{name: value for name, value in timing.items() if name in known})


def _side_job_s(runs: pa.Table, timed: Sequence[tuple]) -> float | None:
    """Seconds of a job that has a row in `runs` and times nothing."""
    sessions = {run["run_id"] for run, _ in timed}
    devices = {run["device_key"] for run, _ in timed}
    others = [
        SIDE_PROCESS_S + run["wall_s"]
        for run in runs.to_pylist()
        if run["run_id"] not in sessions and run["device_key"] in devices and run["experiment"] == "sparsity"
    ]
    return fmean(others) if others else None


def _rate(runs: pa.Table, kind: str, column: str) -> float | None:
    found = [run[column] for run in runs.to_pylist() if run["device_kind"] == kind and run[column]]
    return median(found) if found else None


def _sd_session(folder: Path, runs: pa.Table, kind: str) -> dict[str, list[float]]:
    try:
        rows = records.read(folder, "comparisons").to_pylist()
    except FrugalError:
        return {}
    devices = {run["device_key"] for run in runs.to_pylist() if run["device_kind"] == kind}
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["metric"] != "time" or row["device_key"] not in devices:
            continue  # bytes are the same in every session
        if row["sd_session"] is not None and row["n_sessions"] > 1:
            found.setdefault(row["system"], []).append(row["sd_session"])
    return {system: sorted(values) for system, values in found.items() if system != "control"}
