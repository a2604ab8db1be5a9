"""Every arm of ours against every baseline: ratios over sessions, Holm in a family, verdicts.

A session is one process (a `run_id`). In each round of a session the two arms have a block each; the block's value is
the median of its samples, excluded ones left out. Metrics without samples (bytes, FLOPs, accuracy) take the row's
value as their session's only round. Arms are compared only within equal device, case, regime, l2 and metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from frugal import stats
from frugal.block_medians import Block, block_values
from frugal.records import Comparison, RecordError, RowKey, table_of

# Presets whose few sessions cannot carry a finer verdict (docs/methodology.md, "Design of an experiment").
COARSE_MARGIN = {"smoke": 0.05, "quick": 0.05}
# Energy that was integrated from a moving average of power is good for no finer difference.
POWER_POLL_MARGIN = 0.05
MEASURED = ("ok", "unstable")
TIME_WORDS = ("FASTER", "SLOWER")
OTHER_WORDS = ("BETTER", "WORSE")
# Kernels run in these; in `wall` (whole steps, searches) the device's clock is not what a time is made of.
CLOCKED_REGIMES = ("cold", "hot", "graph")


@dataclass
class _Session:
    """One arm's row in one session: its status, where its energy comes from, and its block values by round."""

    status: str
    launch_bound: bool
    energy_source: str | None
    blocks: Mapping[int, Block]


@dataclass
class _Arm:
    name: str
    role: str
    sessions: dict[str, _Session] = field(default_factory=dict)  # by run_id


@dataclass
class _Group:
    """All arms that may be compared with each other."""

    device_key: str
    case_id: str
    regime: str | None
    l2: str | None
    metric: str
    system: str
    experiment: str
    layer: str | None
    higher_is_better: bool
    arms: dict[str, _Arm] = field(default_factory=dict)


@dataclass
class _Pair:
    """A comparison before the family is known."""

    group: _Group
    candidate: _Arm
    baseline: _Arm
    best: bool
    ratio: stats.Ratio
    cycles: stats.Ratio | None
    shift: float | None
    withheld: str | None  # the reason code for which no verdict may be given
    margin: float
    expects_clock: bool
    power_polled: bool

    @property
    def family(self) -> str:
        return f"{self.group.experiment}/{self.baseline.name}/{self.group.regime or 'none'}"


def compare(
    measurements: pa.Table,
    samples: pa.Table,
    runs: pa.Table,
    *,
    margin_kernel: float = 0.01,
    margin_end_to_end: float = 0.02,
    clock_shift_min: float = 0.002,
) -> pa.Table:
    """The table `comparisons` from the tables of the same names (frugal.records.SCHEMAS), sorted.

    One row for each (device, case, regime, l2, metric) and each arm of role `ours` against each of role `baseline`,
    also where nothing could be compared (ratio null). The margin is `margin_kernel` for rows with a layer and
    `margin_end_to_end` for others, and never finer than 5 % in presets smoke and quick. With one session the bounds
    are the least and greatest ratio of its rounds (`range_of_rounds`), `conditional` is true and the verdict null.
    No verdict either (and this reason code): an arm was `incorrect` in a session, a session's controls were red
    (`control_failed`), a row is `unstable` or `launch_bound`, or energies that were integrated from power readings
    differ by less than 5 % (`power_poll`). Holm's correction is taken over a family, the comparisons of one experiment
    with one baseline in one regime, for each device and system apart.
    RecordError when a row's session is missing in `runs`.
    """
    sessions = {row["run_id"]: row for row in runs.to_pylist()}
    margins = (margin_kernel, margin_end_to_end)
    pairs = [
        pair
        for group in _groups(measurements, block_values(samples), sessions)
        for pair in _pairs(group, sessions, margins)
    ]
    p_holm = _holm_by_family(pairs, [pair.ratio.p_raw for pair in pairs])
    p_cycles = _holm_by_family(pairs, [pair.cycles.p_raw if pair.cycles else None for pair in pairs])
    rows = [_row(*each, clock_shift_min) for each in zip(pairs, p_holm, p_cycles, strict=True)]
    rows.sort(key=lambda row: (row.device_key, row.system, row.experiment, row.case_id, row.metric, row.regime or "",
                               row.l2 or "", row.candidate, row.baseline))  # fmt: skip
    return table_of("comparisons", rows)


def _groups(
    measurements: pa.Table, blocks: Mapping[tuple[str, RowKey], Mapping[int, Block]], sessions: Mapping[str, dict]
) -> list[_Group]:
    names = ["run_id", *RowKey._fields, "system", "experiment", "layer", "role", "status", "value", "higher_is_better",
             "launch_bound", "energy_source"]  # fmt: skip
    groups: dict[tuple, _Group] = {}
    for row in measurements.select(names).to_pylist():
        run = sessions.get(row["run_id"])
        if run is None:
            raise RecordError(f"measurements has run_id {row['run_id']}, which runs lacks: aggregate both again")
        key = RowKey(*(row[name] for name in RowKey._fields))
        group = groups.setdefault(
            (run["device_key"], key._replace(arm="")),
            _Group(run["device_key"], key.case_id, key.regime, key.l2, key.metric, row["system"], row["experiment"],
                   row["layer"], row["higher_is_better"]),
        )  # fmt: skip
        arm = group.arms.setdefault(key.arm, _Arm(key.arm, row["role"]))
        of_row = blocks.get((row["run_id"], key))
        if of_row is None:
            of_row = {} if row["value"] is None else {0: Block(row["value"], None)}
        # Ratios are taken of logarithms: what is not greater than 0 (no zeros at all, say) has none.
        usable = {} if row["status"] not in MEASURED else {r: b for r, b in of_row.items() if b.value > 0}
        arm.sessions[row["run_id"]] = _Session(row["status"], bool(row["launch_bound"]), row["energy_source"], usable)
    return list(groups.values())


def _pairs(group: _Group, runs: Mapping[str, dict], margins: tuple[float, float]) -> Iterator[_Pair]:
    ours = [arm for arm in group.arms.values() if arm.role == "ours"]
    baselines = [arm for arm in group.arms.values() if arm.role == "baseline"]
    best = _best(baselines, group.higher_is_better)
    margin = margins[0] if group.layer is not None else margins[1]
    for baseline in baselines:
        for candidate in ours:
            both = sorted(candidate.sessions.keys() & baseline.sessions.keys())
            paired = [(run_id, _rounds(candidate, baseline, run_id)) for run_id in both]
            paired = [(run_id, rounds) for run_id, rounds in paired if rounds]
            presets = {runs[run_id]["preset"] for run_id in candidate.sessions | baseline.sessions}
            kinds = {runs[run_id]["device_kind"] for run_id, _ in paired}
            clocked = group.metric == "time" and group.regime in CLOCKED_REGIMES
            cycles, shift = _in_cycles(paired) if clocked else (None, None)
            rows = (arm.sessions[run_id] for arm in (candidate, baseline) for run_id, _ in paired)
            polled = any(row.energy_source == "power_poll" for row in rows)
            yield _Pair(
                group,
                candidate,
                baseline,
                best is baseline,
                stats.paired_ratio(
                    [[b.value for b, _ in rounds] for _, rounds in paired],
                    [[c.value for _, c in rounds] for _, rounds in paired],
                    group.higher_is_better,
                ),
                cycles,
                shift,
                _withheld(candidate, baseline, [runs[run_id] for run_id, _ in paired]),
                max([margin, *(COARSE_MARGIN.get(preset, 0.0) for preset in presets), POWER_POLL_MARGIN * polled]),
                clocked and kinds == {"cuda"},
                polled,
            )


def _rounds(candidate: _Arm, baseline: _Arm, run_id: str) -> list[tuple[Block, Block]]:
    ours, theirs = candidate.sessions[run_id].blocks, baseline.sessions[run_id].blocks
    return [(theirs[number], ours[number]) for number in sorted(ours.keys() & theirs.keys())]


def _in_cycles(paired: list[tuple[str, list[tuple[Block, Block]]]]) -> tuple[stats.Ratio | None, float | None]:
    """The ratio in clock cycles, and the mean |ln f_B - ln f_C|; None unless every block has a clock."""
    pairs = [pair for _, rounds in paired for pair in rounds]
    if not pairs or any(block.sm_hz is None for pair in pairs for block in pair):
        return None, None
    ratio = stats.paired_ratio(
        [[b.value * b.sm_hz for b, _ in rounds] for _, rounds in paired],
        [[c.value * c.sm_hz for _, c in rounds] for _, rounds in paired],
    )
    return ratio, sum(abs(math.log(b.sm_hz / c.sm_hz)) for b, c in pairs) / len(pairs)


def _withheld(candidate: _Arm, baseline: _Arm, used: list[dict]) -> str | None:
    rows = [row for arm in (candidate, baseline) for row in arm.sessions.values()]
    if any(row.status == "incorrect" for row in rows):
        return "incorrect"
    if any(not run["controls_passed"] for run in used):
        return "control_failed"
    if any(row.status == "unstable" for row in rows):
        return "unstable"
    if any(row.launch_bound for row in rows):
        return "launch_bound"
    return None


def _best(baselines: list[_Arm], higher_is_better: bool) -> _Arm | None:
    """The baseline with the best mean of session values, a session's value being the mean ln of its blocks."""
    means = {}
    for arm in baselines:
        values = [
            math.fsum(math.log(block.value) for block in row.blocks.values()) / len(row.blocks)
            for row in arm.sessions.values()
            if row.blocks
        ]
        if values:
            means[arm.name] = math.fsum(values) / len(values) * (-1 if higher_is_better else 1)
    return min(
        (arm for arm in baselines if arm.name in means), key=lambda arm: (means[arm.name], arm.name), default=None
    )


def _holm_by_family(pairs: list[_Pair], p: list[float | None]) -> list[float | None]:
    members: dict[tuple[str, str, str], list[int]] = {}
    for index, pair in enumerate(pairs):
        members.setdefault((pair.group.device_key, pair.group.system, pair.family), []).append(index)
    corrected: list[float | None] = [None] * len(pairs)
    for indices in members.values():
        for index, value in zip(indices, stats.holm([p[index] for index in indices]), strict=True):
            corrected[index] = value
    return corrected


def _row(pair: _Pair, p_holm: float | None, p_cycles: float | None, clock_shift_min: float) -> Comparison:
    group, ratio, cycles = pair.group, pair.ratio, pair.cycles
    conditional = ratio.n_sessions < 2
    said = _verdict(pair, p_holm, p_cycles, clock_shift_min, conditional)
    by_round = ratio.n_sessions == 1
    return Comparison(
        case_id=group.case_id,
        device_key=group.device_key,
        system=group.system,
        experiment=group.experiment,
        regime=group.regime,
        l2=group.l2,
        metric=group.metric,
        candidate=pair.candidate.name,
        baseline=pair.baseline.name,
        n_sessions=ratio.n_sessions,
        n_rounds=ratio.n_rounds,
        ratio=ratio.ratio,
        ratio_low=ratio.round_low if by_round else ratio.low,
        ratio_high=ratio.round_high if by_round else ratio.high,
        ci_method="range_of_rounds" if by_round else ratio.method,
        ratio_cycles=cycles.ratio if cycles else None,
        ratio_cycles_low=cycles.low if cycles else None,
        ratio_cycles_high=cycles.high if cycles else None,
        margin=pair.margin,
        mde=ratio.mde,
        p_raw=ratio.p_raw,
        p_holm=p_holm,
        family=pair.family,
        sd_session=ratio.sd_session,
        sd_round=ratio.sd_round,
        verdict=said.word,
        reason_code=said.reason_code,
        conditional=conditional,
        best_baseline=pair.best,
    )


def _verdict(
    pair: _Pair, p_holm: float | None, p_cycles: float | None, clock_shift_min: float, conditional: bool
) -> stats.Verdict:
    if pair.withheld:
        return stats.Verdict(None, pair.withheld)
    cycles = stats.Cycles(pair.cycles, p_cycles, pair.shift) if pair.cycles and pair.shift is not None else None
    words = TIME_WORDS if pair.group.metric == "time" else OTHER_WORDS
    said = stats.verdict(pair.ratio, pair.margin, p_holm, cycles, conditional, clock_shift_min, words)
    if said.word in words and pair.power_polled and abs(math.log(pair.ratio.ratio)) < math.log1p(POWER_POLL_MARGIN):
        return stats.Verdict(None, "power_poll")
    if said.word in words and pair.expects_clock and cycles is None:
        return stats.Verdict(said.word, "no_clock")
    return said
