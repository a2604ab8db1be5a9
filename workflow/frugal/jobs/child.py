"""The process that measures. It is started by frugal.jobs.parent, which hands it a job on standard input."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from frugal.errors import FrugalError
from frugal.jobs.job import Job
from frugal.jobs.messages import Announcer
from frugal.processes import bind, die_with_parent, sentence_of
from frugal.timing.faults import DeviceLost

if TYPE_CHECKING:
    from frugal.timing import Arm, Case, Device


def main(descriptor: int, parent: int) -> int:
    """Measure the job on standard input and say on the pipe `descriptor` what happens; the exit status."""
    die_with_parent(signal.SIGKILL, parent)
    os.set_inheritable(descriptor, False)  # it is not for what the arms may start
    faulthandler.enable()  # a crash leaves the stack in the log
    signal.signal(signal.SIGTERM, _leave)
    tell = Announcer(descriptor)
    try:
        job = Job.from_json(sys.stdin.read())
        bind(job.timing.get("affinity"))  # type: ignore[arg-type]  # before torch starts threads
        _measure(job, tell)
    except DeviceLost as lost:
        tell.lost(lost)
    except Exception as problem:
        if not isinstance(problem, FrugalError | OSError):
            traceback.print_exc()
        tell.error(sentence_of(problem))
    else:
        tell.done()
        return 0
    return 1


def _leave(number: int, frame: object) -> None:
    """Unwind, so that no file is left half-written; what does not get here in time is killed."""
    sys.exit(128 + number)


def _measure(job: Job, tell: Announcer) -> None:
    from frugal import controls, doctor, provenance
    from frugal.records import Run, canonical_json
    from frugal.timing import device_of, run_session
    from frugal.timing.ceilings import ceilings
    from frugal.timing.session import Rows, Samples

    design = job.design()
    record = json.loads(Path(job.device).read_text(encoding="utf-8"))
    machine = device_of(record)
    run = provenance.collect(
        machine,
        experiment=job.experiment,
        preset=job.preset,
        session=job.session,
        sessions_planned=job.sessions,
        threads=design.threads,
        config_json=job.config_json,
        campaign_id=job.campaign_id,
    )
    run.doctor_json = doctor.quick(machine)

    def judge(run: Run, rows: Rows, samples: Samples) -> dict[str, object]:
        judged = controls.judge(rows, samples, job.preset, machine.kind, run)
        for name, outcome in judged.outcomes.items():
            if outcome["colour"] != "green":
                tell.say(f"WARN: control {name} is {outcome['colour']}: {outcome['words']}")
        return {"controls_passed": judged.passed, "controls_json": canonical_json(judged.outcomes)}

    run_session(
        _cases(job, machine, record, tell),
        design,
        job.session,
        machine,
        run,
        Path(job.out),
        on_progress=tell.say,
        log=job.log,
        monitor=tell,
        calibrate=ceilings,
        judge=judge,
    )


def _cases(job: Job, machine: Device, record: dict, tell: Announcer) -> Iterator[tuple[Case, list[Arm]]]:
    """The job's own cases, then the controls, each made known to the parent by its short name."""
    from frugal import controls

    host = None
    for case, arms in _named(job.cases)(machine, record, tell.say, **job.arguments):
        tell.labels[case.case_id] = case.label
        host = f"{case.system}/{case.experiment}"
        yield case, arms
    if host is not None:
        for case, arms in controls.cases(machine, job.preset, host, job.kernels):
            tell.labels[case.case_id] = case.label
            yield case, arms


def _named(path: str) -> Callable[..., Iterable]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
