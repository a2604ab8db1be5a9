"""Which controls of a session came out as they must."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from frugal import hardware
from frugal.controls import wanted
from frugal.records import Measurement, RowKey, Run, Sample
from frugal.timing.rounds import ratio_by_round

GREEN, YELLOW, RED = "green", "yellow", "red"


@dataclass(frozen=True)
class Judged:
    """`passed` is false when a control is red: no row of that session then gets a verdict.

    `outcomes`: a control's name → {colour: green, yellow or red; measured: a number or null; unit: its unit; wanted:
    [least, greatest] or null; words: one sentence}. Yellow is out of bounds where that alone says nothing against the
    session.
    """

    passed: bool
    outcomes: dict[str, dict[str, object]] = field(default_factory=dict)


def judge(
    rows: Iterable[Measurement],
    samples: Mapping[RowKey, Sequence[Sample]],
    preset: str,
    device_kind: str,
    run: Run | None = None,
) -> Judged:
    """The outcome of each control from a session's rows and samples; rows of other systems are passed over.

    device_kind: `cuda` or `cpu`. With `run`, whose ceilings are filled in by then, also `copy` (the copy's share of the
    datasheet's bandwidth, its own where no datasheet is known) and `peak` (in fp32), neither of which can be red.
    """
    own = [row for row in rows if row.system == "control"]
    out = RED if wanted.may_be_red(preset, device_kind) else YELLOW
    loop, copies = (wanted.planted(name, preset, device_kind) for name in ("planted", "planted_copy"))
    share = wanted.work(preset, device_kind)
    more = f"ours has {float(share):g} times the baseline's work"
    outcomes = {
        "null": _pair(own, samples, "null", wanted.null(preset, device_kind), out, "two names of one function"),
        "planted": _pair(own, samples, "planted", loop, out, more),
        "planted_copy": _pair(own, samples, "planted_copy", copies, out, more),
        "wrong": _wrong([row for row in own if row.experiment == "wrong"]),
    }
    if run is not None:
        outcomes |= {"copy": _copy(run), "peak": _peak(run)}
    return Judged(all(outcome["colour"] != RED for outcome in outcomes.values()), outcomes)


def _pair(
    rows: Sequence[Measurement],
    samples: Mapping[RowKey, Sequence[Sample]],
    name: str,
    window: wanted.Window,
    out: str,
    about: str,
) -> dict[str, object]:
    """Ours against the baseline in each regime; the regime that is farthest from the middle counts."""
    own = [row for row in rows if row.experiment == name]
    bad = next((row for row in own if row.value is None), None)
    if bad is not None:
        return _outcome(out, None, window, f"{about}: {bad.arm} is {bad.status}: {bad.reason}")
    ratios = {}
    for row in own:
        if row.role == "baseline":
            beside = next(r for r in own if r.role == "ours" and r.key == row.key._replace(arm=r.arm))
            ratio = ratio_by_round(samples[row.key], samples[beside.key]).ratio
            if ratio is None:
                return _outcome(out, None, window, f"{about}: no round in {row.regime} has samples of both")
            ratios[row.regime] = ratio
    if not ratios:
        return _outcome(out, None, window, f"{about}: not measured")
    middle = (window.low * window.high) ** 0.5
    worst = max(ratios.values(), key=lambda ratio: max(ratio / middle, middle / ratio))
    found = ", ".join(f"{ratio:.4f} in {regime}" for regime, ratio in ratios.items())
    words = f"{about}: baseline's time over ours is {found}; {window.low:.4f} to {window.high:.4f} must hold"
    return _outcome(GREEN if worst in window else out, worst, window, words)


def _wrong(rows: Sequence[Measurement]) -> dict[str, object]:
    caught = sorted({row.arm for row in rows if row.status == "incorrect"})
    missed = sorted({f"{row.arm} is {row.status}" for row in rows if row.status != "incorrect"})
    arms = {row.arm for row in rows}
    window = wanted.Window(len(wanted.WRONG), len(wanted.WRONG))
    if arms != set(wanted.WRONG):
        lost = ", ".join(sorted(set(wanted.WRONG) - arms))
        return _outcome(RED, len(caught), window, f"arms that compute wrongly on purpose: {lost} not measured")
    words = "arms that compute wrongly on purpose: " + (", ".join(missed) or "each is called incorrect")
    return _outcome(RED if missed else GREEN, len(caught), window, words)


def _copy(run: Run) -> dict[str, object]:
    rate = run.copy_bytes_per_s
    if rate is None:
        return _outcome(YELLOW, None, None, "copy bandwidth: not measured")
    listed = hardware.lookup(run.gpu_name) if run.gpu_name else None
    if listed is None:
        return _outcome(GREEN, rate, None, f"copy: {rate:.4g} bytes/s; no datasheet is known of this device", "B/s")
    share = rate / listed.bytes_per_s
    words = f"copy: {rate:.4g} bytes/s, {share:.0%} of the datasheet's {listed.bytes_per_s:.4g}"
    return _outcome(GREEN if share in wanted.COPY else YELLOW, share, wanted.COPY, words)


def _peak(run: Run) -> dict[str, object]:
    rates = {"fp32": run.flops_fp32, "TF32": run.flops_tf32, "fp16": run.flops_fp16}
    found = ", ".join(f"{rate:.4g} FLOP/s in {name}" for name, rate in rates.items() if rate is not None)
    words = f"matrix product: {found or 'not measured'}"
    return _outcome(GREEN if found else YELLOW, run.flops_fp32, None, words, "FLOP/s")


def _outcome(
    colour: str, measured: float | None, window: wanted.Window | None, words: str, unit: str = "1"
) -> dict[str, object]:
    bounds = None if window is None else [window.low, window.high]
    return {"colour": colour, "measured": measured, "unit": unit, "wanted": bounds, "words": words}
