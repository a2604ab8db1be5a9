"""A child process and the three things that are read of it: its messages, its output, and its end."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from frugal.clock import Clock
from frugal.errors import FrugalError
from frugal.jobs import child
from frugal.jobs.job import Job
from frugal.processes import THREAD_VARIABLES, python_path
from frugal.provenance.sources import library

GRACE_S = 5.0  # from SIGTERM to SIGKILL
GONE_S = 60.0  # a process that the GPU's driver holds ends when the driver lets it go
LOOK_S = 1.0  # how often the clock is looked at while a step lasts
_DRAIN_S = 2.0  # for what is left in the pipes of a process that has ended


@dataclass(frozen=True)
class Ended:
    """The exit status (minus the signal's number) and the last line that it wrote."""

    status: int
    last_line: str


class Process:
    """A child at work on a job; a context manager at whose end nothing of it is left."""

    def __init__(self, job: Job) -> None:
        self._events: queue.SimpleQueue[dict | Ended] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._last_line = ""
        reader, writer = os.pipe()
        call = f"import sys; from {child.__name__} import main; sys.exit(main({writer}, {os.getpid()}))"
        with tempfile.TemporaryFile() as given:  # no pipe: a child that dies at once must not leave us writing
            given.write(job.to_json().encode())
            given.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", call],  # -P: a torch.py in the working folder is not torch
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writer,),
                env=_environment(job),
                start_new_session=True,  # a Ctrl-C in the terminal is the parent's, which then ends the child
            )
        os.close(writer)
        assert self._process.stdout is not None
        readers = [
            threading.Thread(target=self._messages, args=(os.fdopen(reader, "rb"),), daemon=True),
            threading.Thread(target=self._output, args=(self._process.stdout,), daemon=True),
        ]
        for thread in [*readers, threading.Thread(target=self._wait, args=(readers,), daemon=True)]:
            thread.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *problem: object) -> None:
        self.stop()

    def message(self, clock: Clock, deadline_ns: int | None) -> dict | Ended | None:
        """The next message, or the end; None when nothing has come for LOOK_S after the clock has passed the deadline.

        So that a message which is on its way, while this process was held up itself, still counts.
        """
        while True:
            passed = deadline_ns is not None and clock.ns() >= deadline_ns
            with suppress(queue.Empty):
                return self._events.get(timeout=None if deadline_ns is None else LOOK_S)
            if passed:
                return None

    def settle(self) -> None:
        """Let a child that has said its last word end by itself, so that all of its output is relayed."""
        with suppress(queue.Empty):
            while not isinstance(self._events.get(timeout=GRACE_S), Ended):
                pass

    def stop(self) -> None:
        """End the child: SIGTERM, so that it removes its half-written files, then SIGKILL, also to what it started."""
        if not self._ended.is_set():
            self._process.terminate()
            self._ended.wait(GRACE_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if not self._ended.wait(GONE_S):
            raise FrugalError(
                f"process {self._process.pid} does not end, not even by SIGKILL: the GPU's driver holds it; wait until "
                "it is gone, or restart the machine, and run again"
            )

    def _wait(self, readers: list[threading.Thread]) -> None:
        status = self._process.wait()
        self._ended.set()
        for thread in readers:  # what it has started may keep the pipes open
            thread.join(_DRAIN_S)
        self._events.put(Ended(status, self._last_line))

    def _messages(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                if line.endswith(b"\n"):
                    self._events.put(json.loads(line))

    def _output(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                text = line.decode(errors="replace")
                self._last_line = text.strip() or self._last_line
                sys.stdout.write(text)
                sys.stdout.flush()


def _environment(job: Job) -> dict[str, str]:
    """This process's, with the library where we found it, the job's threads, and output that is not held back."""
    threads = dict.fromkeys(THREAD_VARIABLES, str(job.own_threads))
    return os.environ | threads | {"PYTHONPATH": python_path(library()), "PYTHONUNBUFFERED": "1"}
