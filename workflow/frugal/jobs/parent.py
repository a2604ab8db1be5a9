"""The process that watches: starts children, ends what hangs, and blames the arm whose step it was."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from frugal import doctor, provenance
from frugal.clock import Clock, SystemClock
from frugal.errors import FrugalError
from frugal.jobs.job import Job
from frugal.jobs.oom import oom_kills
from frugal.jobs.process import Ended, Process
from frugal.timing.faults import Fault, one_line
from frugal.timing.journal import blame, journal_of

Say = Callable[[str], None]
# What the process did itself, whatever was killed for want of memory beside it.
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
BLAMES_MAX = 2  # of one arm in one case: the first takes it out, so a further one means that the journal is not kept


@dataclass(frozen=True)
class Step:
    """What an arm was doing when its process ended or was ended, and the fault that its rows carry."""

    case_id: str
    label: str
    arm: str
    words: str
    deadline_ns: int = 0
    limit_s: float = 0.0


def measure(job: Job, say: Say = print, *, clock: Clock | None = None, root: Path = Path("/")) -> None:
    """Measure one session in child processes and write its job file; what was finished before a kill is kept.

    Output of the children goes to this process's standard output, their progress to `say`. An arm that hangs beyond
    its limit (timing.case_timeout_s, timing.first_call_timeout_s), ends its process or kills the device's context is
    blamed: its rows of that case get the status `timeout`, `oom` or `failed` with the reason, and another child goes on
    with the rest. Ctrl-C and SIGTERM end the child and blame nobody.

    Raises FrugalError where this machine is another one than the device file's, where the preset is not offered on it,
    for what the child refuses, and where a child ends outside of any arm's step. `clock` and `root` (of the file
    system, for the counter of the out-of-memory killer) are for tests.
    """
    clock = clock or SystemClock()
    record = provenance.check_device(job.device)
    doctor.admit(job.preset, record["device_kind"], bool(job.timing.get("force")))
    job.design()
    blames: Counter[tuple[str, str]] = Counter()
    with _sigterm_unwinds():
        while (found := _one_process(job, say, clock, root)) is not None:
            step, fault = found
            blames[step.case_id, step.arm] += 1
            if blames[step.case_id, step.arm] > BLAMES_MAX:
                raise FrugalError(
                    f"{step.label}: {step.arm} ended {BLAMES_MAX + 1} processes ({fault.reason}), though it is left "
                    f"out after the first: delete {journal_of(job.out)} and run again"
                )
            blame(job.out, step.case_id, step.arm, fault)
            say(f"WARN: {step.label}: {step.arm}: {fault.status}: {fault.reason}; a new process goes on without it")


def _one_process(job: Job, say: Say, clock: Clock, root: Path) -> tuple[Step, Fault] | None:
    """None when a child has written the job file, else who is to be blamed for its end."""
    kills = oom_kills(root)
    step: Step | None = None
    with Process(job) as process:
        while True:
            message = process.message(clock, step.deadline_ns if step else None)
            if message is None:
                assert step is not None
                process.stop()
                return step, Fault("timeout", f"{step.words}: not done within {step.limit_s:g} s")
            if isinstance(message, Ended):
                return _death(message, step, kills, oom_kills(root))
            if "say" in message:
                say(message["say"])
            elif "begin" in message:
                limit_s = float(message["limit_s"])
                step = _step(message, message["begin"], clock.ns() + round(limit_s * 1e9), limit_s)
            elif "idle" in message:
                step = None
            else:
                process.settle()
                return _last_word(message, step)


def _last_word(message: dict, step: Step | None) -> tuple[Step, Fault] | None:
    """As `_one_process`, for the message after which a child ends: done, error or lost."""
    if "done" in message:
        return None
    if "error" in message:
        raise FrugalError(message["error"])
    words = step.words if step else "a step"
    return _step(message, words), Fault(message["status"], one_line(f"{words}: {message['lost']}"))


def _step(message: dict, words: str, deadline_ns: int = 0, limit_s: float = 0.0) -> Step:
    return Step(message["case_id"], message["label"], message["arm"], words, deadline_ns, limit_s)


def _death(ended: Ended, step: Step | None, before: int | None, after: int | None) -> tuple[Step, Fault]:
    """Whose fault it is that a child ended by itself."""
    if -ended.status not in CRASHES and before is not None and after is not None and after > before:
        status, how = "oom", "the system ended the process for want of memory"
    elif ended.status < 0:
        status, how = "failed", f"the process was ended by {_signal(-ended.status)}"
    else:
        status, how = "failed", f"the process ended with status {ended.status}"
        how += f": {ended.last_line}" if ended.last_line else ""
    if step is None:
        mend = "give it more memory, or a smaller case, and run again" if status == "oom" else "run again"
        raise FrugalError(
            f"the session stopped outside of any implementation's step ({one_line(how)}): what was finished is kept, "
            f"so {mend}"
        )
    return step, Fault(status, one_line(f"{step.words}: {how}"))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM ends this process through its `finally` blocks, which end the child. Only a main thread can ask that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
