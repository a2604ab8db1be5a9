"""From the sessions of two commits to verdicts: session k of one with session k of the other, arm by arm.

A session is a process, and its value of an arm the mean over its blocks of the logarithm of their medians; only
sessions are paired, since the blocks of two processes never stood side by side. Holm's correction is taken over all
pairs of the call: whoever merges on exit status 0 makes one decision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from frugal import records, stats
from frugal.block_medians import Block, block_values
from frugal.commits.repository import Commit
from frugal.compare import CLOCKED_REGIMES, COARSE_MARGIN, MEASURED
from frugal.errors import FrugalError
from frugal.records import RowKey

BROKEN = ("incorrect", "failed", "timeout", "oom", "skipped", "unsupported")
_NAMES = [*RowKey._fields, "system", "experiment", "network", "layer", "n", "role", "status", "launch_bound"]


class Margins(Protocol):
    """Of the configuration's section `timing`."""

    margin_kernel: float
    margin_end_to_end: float
    clock_shift_min: float


@dataclass(kw_only=True)
class Pair:
    """One arm in one regime at two commits. `ratio` above 1: the head is faster. Seconds are geometric means.

    `verdict`: SAME, FASTER, SLOWER, INCONCLUSIVE, CLOCK_SHIFT, or BROKEN where the head lost what the base could do;
    None where none may be given. `reason` is that of frugal.stats, or of what withholds a verdict.
    """

    case_id: str
    network: str | None
    layer: str | None
    n: int | None
    arm: str
    role: str
    regime: str
    l2: str | None
    base_s: float | None
    head_s: float | None
    margin: float
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    n_sessions: int = 0
    sd_session: float | None = None
    mde: float | None = None
    p_raw: float | None = None
    p_holm: float | None = None
    verdict: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """What two commits were found to differ by. `checks` are the baselines, whose code neither commit may have changed.

    `only_base`, `only_head`: arms of cases that the other commit does not measure.
    """

    base: Commit
    head: Commit
    experiment: str
    preset: str
    device_key: str
    n_sessions: int
    folder: Path
    pairs: list[Pair] = field(default_factory=list)
    checks: list[Pair] = field(default_factory=list)
    only_base: int = 0
    only_head: int = 0


@dataclass(frozen=True)
class _Session:
    """One arm's row of one session."""

    row: Mapping[str, object]
    blocks: Mapping[int, Block]
    controls_passed: bool

    def mean(self, of) -> float | None:
        """The mean over blocks of ln of(block); None without a usable block."""
        if self.row["status"] not in MEASURED or not self.blocks:
            return None
        values = [of(block) for block in self.blocks.values()]
        if any(value is None or value <= 0 for value in values):
            return None
        return math.fsum(map(math.log, values)) / len(values)

    @property
    def ln_s(self) -> float | None:
        return self.mean(lambda block: block.value)

    @property
    def ln_hz(self) -> float | None:
        return self.mean(lambda block: block.sm_hz)


_Arms = dict[RowKey, dict[int, _Session]]


def judge(
    commits: tuple[Commit, Commit],
    base_files: Sequence[Path],
    head_files: Sequence[Path],
    *,
    experiment: str,
    timing: Margins,
    folder: Path,
) -> Comparison:
    """The comparison of two commits from their job files, session by session.

    FrugalError for files of different machines or presets, and where the commits share no case.
    """
    runs = [records.read(path, "runs").to_pylist()[0] for path in [*base_files, *head_files]]
    keys, presets = ({run[name] for run in runs} for name in ("device_key", "preset"))
    if len(keys) > 1 or len(presets) > 1:
        found = ", ".join(sorted(keys | presets if len(presets) > 1 else keys))
        raise FrugalError(f"{folder} holds sessions of {found}, which cannot be paired: remove it and run again")
    base, head = (_arms(files, experiment) for files in (base_files, head_files))
    both = sorted(base.keys() & head.keys(), key=lambda key: tuple(part or "" for part in key))
    coarse = COARSE_MARGIN.get(runs[0]["preset"], 0.0)
    judged = []
    for key in both:
        row = next(iter(head[key].values())).row
        margin = max(timing.margin_kernel if row["layer"] is not None else timing.margin_end_to_end, coarse)
        judged.append(_pair(key, row, base[key], head[key], margin))
    ours = [found for found in judged if found[0].role == "ours"]
    if not ours:
        raise FrugalError(
            f"{commits[0]} and {commits[1]} measure no case of {experiment} in common: nothing can be compared"
        )
    checks = [found for found in judged if found[0].role == "baseline"]
    for family in (ours, checks):
        _say(family, timing.clock_shift_min)
    return Comparison(
        *commits, experiment, runs[0]["preset"], runs[0]["device_key"], len(base_files), folder,
        [pair for pair, *_ in ours], [pair for pair, *_ in checks], len(base.keys() - head.keys()),
        len(head.keys() - base.keys()),
    )  # fmt: skip


def _arms(files: Sequence[Path], experiment: str) -> _Arms:
    """Row key -> session -> what was measured; times of the experiment alone, controls left out."""
    found: _Arms = {}
    for number, path in enumerate(files):
        blocks = block_values(records.read(path, "samples"))
        run = records.read(path, "runs").to_pylist()[0]
        for row in records.read(path, "measurements").select(_NAMES).to_pylist():
            if f"{row['system']}/{row['experiment']}" != experiment or row["metric"] != "time":
                continue
            key = RowKey(*(row[name] for name in RowKey._fields))
            session = _Session(row, blocks.get((run["run_id"], key), {}), run["controls_passed"])
            found.setdefault(key, {})[number] = session
    return found


_Judged = tuple[Pair, stats.Ratio, stats.Ratio | None, float]


def _pair(
    key: RowKey, row: Mapping, base: Mapping[int, _Session], head: Mapping[int, _Session], margin: float
) -> _Judged:
    """A pair without its verdict, its ratio, the same in clock cycles (None without clocks), and the clocks' shift."""
    met = [k for k in sorted(base.keys() & head.keys()) if base[k].ln_s is not None and head[k].ln_s is not None]
    logs = [base[k].ln_s - head[k].ln_s for k in met]
    ratio = stats.ratio_of_logs([np.array([value]) for value in logs])
    clocks = [(base[k].ln_hz, head[k].ln_hz) for k in met]
    cycles, shift = None, 0.0
    if met and key.regime in CLOCKED_REGIMES and all(None not in both for both in clocks):
        moved = [b - h for b, h in clocks]
        cycles = stats.ratio_of_logs([np.array([r + m]) for r, m in zip(logs, moved, strict=True)])
        shift = math.fsum(map(abs, moved)) / len(moved)
    pair = Pair(
        case_id=key.case_id, network=row["network"], layer=row["layer"], n=row["n"], arm=key.arm, role=row["role"],
        regime=key.regime or "", l2=key.l2, base_s=_geomean(base), head_s=_geomean(head), margin=margin,
        ratio=ratio.ratio, ratio_low=ratio.low, ratio_high=ratio.high, n_sessions=ratio.n_sessions,
        sd_session=ratio.sd_session, mde=ratio.mde, p_raw=ratio.p_raw,
    )  # fmt: skip
    pair.verdict, pair.reason = _withheld(base, head)
    return pair, ratio, cycles, shift


def _say(family: list[_Judged], clock_shift_min: float) -> None:
    """Correct for the size of the family and give each pair that may have one its verdict."""
    p_holm = stats.holm([ratio.p_raw for _, ratio, _, _ in family])
    p_cycles = stats.holm([cycles.p_raw if cycles else None for _, _, cycles, _ in family])
    for (pair, ratio, cycles, shift), p, p_in_cycles in zip(family, p_holm, p_cycles, strict=True):
        pair.p_holm = p
        if pair.reason:
            continue
        in_cycles = stats.Cycles(cycles, p_in_cycles, shift) if cycles else None
        said = stats.verdict(ratio, pair.margin, p, in_cycles, clock_shift_min=clock_shift_min)
        pair.verdict, pair.reason = said.word, said.reason_code


def _withheld(base: Mapping[int, _Session], head: Mapping[int, _Session]) -> tuple[str | None, str]:
    """BROKEN, or why no verdict may be given; ("", where one may."""
    before, after = ({str(session.row["status"]) for session in side.values()} for side in (base, head))
    for status in BROKEN:
        if status in after and not before & set(BROKEN):
            return "BROKEN", status
        if status in before:
            return None, f"base_{status}"
    every = [*base.values(), *head.values()]
    if not all(session.controls_passed for session in every):
        return None, "control_failed"
    if any(session.row["status"] == "unstable" for session in every):
        return None, "unstable"
    if any(session.row["launch_bound"] for session in every):
        return None, "launch_bound"
    return None, ""


def _geomean(sessions: Mapping[int, _Session]) -> float | None:
    found = [session.ln_s for session in sessions.values() if session.ln_s is not None]
    return math.exp(math.fsum(found) / len(found)) if found else None
