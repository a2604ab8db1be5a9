"""Each claim against each machine that measured: rows, value, interval, verdict, reason."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from frugal import records
from frugal.claims.judge import Said, bounds, judge
from frugal.claims.models import Claim
from frugal.claims.query import Machine, Tables, machines, select
from frugal.claims.reduce import Estimate, Rows, estimate
from frugal.claims.words import PRESETS
from frugal.config.models import System

MEASURED_SYSTEMS: tuple[str, ...] = typing.get_args(System)


def evaluate(claims: Sequence[Claim], here: Tables, recorded: Mapping[str, Tables] | None = None) -> pa.Table:
    """The table `claims`: one row a claim and device, of this machine's campaign and of each recorded one (by name).

    A campaign's rows are never mixed with another's, also where the device is the same model. Where a campaign has
    measured nothing at all, its claims are one row each without a device. RecordError for tables that do not belong
    together.
    """
    rows = []
    for name, tables in [(None, here), *(recorded or {}).items()]:
        found = machines(tables, name)
        for claim in claims:
            rows += [_row(claim, machine, name) for machine in found or [None]]
    return records.table_of("claims", rows)


def command(claim: Claim) -> str:
    """What to type to measure a claim (again)."""
    if claim.command is not None:
        return claim.command
    where = "--workflow-profile gpu" if claim.needs.device_kind == "cuda" else "--cores all"
    preset = claim.needs.preset
    given = f" --config preset={preset}" if preset not in (None, "smoke") else ""
    return f"snakemake {where}{given} -- claims"


def _row(claim: Claim, machine: Machine | None, recorded: str | None) -> records.Claim:
    rows, found, beside = None, None, []
    try:
        rows = select(claim.measure, machine) if machine is not None else None
        said = _why_no_rows(claim, machine, recorded) if rows is None else _not_run(claim, rows, machine)
        if said is None:
            parts = (claim.measure, *claim.measure.beside)
            found, *others = [estimate(part, rows, claim.needs.preset is None) for part in parts]
            beside = [_beside(part.name, other) for part, other in zip(claim.measure.beside, others, strict=True)]
            said = _not_comparable(claim, rows, machine) or judge(claim, found)
            said = Said(said.verdict, said.reason + _left_out(rows))
    except ValueError as problem:
        said = Said("not_run", f"{problem}: mend the claim's query")
    limits = bounds(claim)
    return records.Claim(
        claim_id=claim.id,
        system=claim.system,
        origin=claim.origin,
        statement=claim.statement,
        locator=claim.locator.where,
        note=claim.locator.note,
        paper_hardware=claim.locator.hardware,
        expected=limits.expected,
        expected_low=limits.low,
        expected_high=limits.high,
        trend_bound=limits.trend,
        unit=claim.locator.unit,
        comparator=claim.comparator,
        measured=found.value if found else None,
        low=found.low if found else None,
        high=found.high if found else None,
        ci_method=found.method if found else "none",
        n_rows=len(rows.keys) if rows else 0,
        n_sessions=len(found.sessions) if found else 0,
        recorded=recorded,
        device_key=machine.device_key if machine else None,
        preset=_least(rows.presets) if rows and rows.presets else None,
        verdict=said.verdict,
        reason=said.reason,
        command=command(claim),
        figure=claim.figure,
        query_json=records.canonical_json(claim.measure.model_dump(exclude_none=True, exclude_defaults=True)),
        beside_json=records.canonical_json(beside),
    )


def _why_no_rows(claim: Claim, machine: Machine | None, recorded: str | None) -> Said:
    advice = _advice(claim, recorded)
    if claim.system not in MEASURED_SYSTEMS:
        return Said("not_run", f"frugal does not measure {claim.system} yet")
    if claim.pending is not None:
        return Said("not_run", claim.pending)
    if machine is not None and (elsewhere := _elsewhere(claim, machine)):
        return Said("not_run", f"{elsewhere}: there, {advice}")
    return Said("not_run", f"no row has been measured for it: {advice}")


def _not_run(claim: Claim, rows: Rows, machine: Machine) -> Said | None:
    """Why the rows that there are give nothing to judge; None where they do.

    Beside a wrong result, that the device is of another kind comes first: no other mending helps there.
    """
    advice, count, kind = _advice(claim, machine.recorded), len(rows.keys), claim.needs.device_kind
    if claim.measure.reduce == "only" and count != 1:
        return Said("not_run", f"{count} rows are selected where one alone is meant: mend the claim's query")
    wrong = rows.faults[rows.faults["status"].eq("incorrect")]
    if len(wrong):
        return Said("not_run", f"wrong results: {_faults(rows)}; mend the arm, then {advice}")
    first = f"{elsewhere}; " if (elsewhere := _elsewhere(claim, machine)) else ""
    if not rows.complete:
        # what is unstable in one session may be steady in another
        more = "raise timing.sessions, and " if set(rows.faults["status"]) == {"unstable"} else ""
        said = f"no session has a value for all {count} rows: {_faults(rows)}"
        return Said("not_run", f"{first}{said}; {more}{advice}")
    wanted, least = claim.needs.preset, _least(rows.presets)
    if wanted is not None and PRESETS.index(least) < PRESETS.index(wanted):
        where = f" on a {kind} device" if kind not in (None, machine.device_kind) else ""
        return Said("not_run", f"{first}preset {least} is below {wanted}, which it needs{where}: {advice}")
    return None


def _not_comparable(claim: Claim, rows: Rows, machine: Machine) -> Said | None:
    """Why a measured value cannot be judged; None where it can be."""
    needs = claim.needs
    if rows.red_controls:
        sessions = ", ".join(map(str, rows.red_controls))
        return Said("not_comparable", f"failed controls in session {sessions}: see controls_json in runs")
    if rows.launch_bound:
        return Said("not_comparable", "the host's launches, not the kernel, set the time (launch_bound)")
    if needs.device_kind is not None and needs.device_kind != machine.device_kind:
        return Said("not_comparable", f"{machine.hardware} is a {machine.device_kind} device, not {needs.device_kind}")
    if needs.hardware is not None and needs.hardware.lower() not in machine.hardware.lower():
        return Said("not_comparable", f"it means something on {needs.hardware} only, and this is {machine.hardware}")
    return Said("not_comparable", claim.shown_only) if claim.shown_only is not None else None


def _elsewhere(claim: Claim, machine: Machine) -> str:
    """That the claim needs a device of another kind; empty where it does not."""
    kind = claim.needs.device_kind
    return "" if kind in (None, machine.device_kind) else f"it needs a {kind} device, unlike {machine.hardware}"


def _advice(claim: Claim, recorded: str | None) -> str:
    where = "" if recorded is None else "to measure it here, "
    return f"{where}type `{command(claim)}`"


def _least(presets: Iterable[str]) -> str:
    return min(presets, key=PRESETS.index)


def _faults(rows: Rows) -> str:
    """`3 rows unsupported (cpu_no_graph), 1 oom (…)`: statuses with the first reason of each."""
    said = []
    for status, own in rows.faults.groupby("status", sort=True):
        reason = next((text for text in own["reason"] if text), "")
        said.append(f"{len(own)} {status}" + (f" ({reason})" if reason else ""))
    return ", ".join(said) or "rows are missing in some sessions"


def _left_out(rows: Rows) -> str:
    left = [session for session in rows.value if session not in rows.complete]
    if not left:
        return ""
    names = ", ".join(f"{session:.0f}" for session in left)
    return f"; session {names} left out, where rows have no value: {_faults(rows)}"


def _beside(name: str, found: Estimate) -> dict[str, object]:
    return {"name": name, "value": found.value, "low": found.low, "high": found.high}
