"""What a child says to its parent: one JSON object a line, on a pipe of its own.

{"begin": step, "case_id": …, "label": …, "arm": …, "limit_s": …}, {"idle": true}: frugal.timing.monitor.
{"say": line}: progress. {"lost": reason, "case_id": …, "label": …, "arm": …, "status": …}: an arm killed the device.
{"error": sentence}: the session cannot go on. {"done": true}: the job file is written.
"""

from __future__ import annotations

import json
import os

from frugal.timing.faults import DeviceLost


class Announcer:
    """The child's end. Also its frugal.timing.monitor.Monitor. `labels` are the cases' short names, by case_id."""

    def __init__(self, descriptor: int) -> None:
        self.labels: dict[str, str] = {}
        self._descriptor = descriptor

    def begin(self, case_id: str, arm: str, step: str, limit_s: float) -> None:
        label = self.labels.get(case_id, case_id)
        self._send({"begin": step, "case_id": case_id, "label": label, "arm": arm, "limit_s": limit_s})

    def idle(self) -> None:
        self._send({"idle": True})

    def say(self, line: str) -> None:
        self._send({"say": line})

    def lost(self, lost: DeviceLost) -> None:
        label = self.labels.get(lost.case_id, lost.case_id)
        fault = {"lost": lost.fault.reason, "status": lost.fault.status}
        self._send(fault | {"case_id": lost.case_id, "label": label, "arm": lost.arm})

    def error(self, sentence: str) -> None:
        self._send({"error": sentence})

    def done(self) -> None:
        self._send({"done": True})

    def _send(self, message: dict[str, object]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]
