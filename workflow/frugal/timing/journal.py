"""The journal of a session: what is finished survives a killed process.

A text file beside the job file: a header line, then one line a finished case, each with a checksum before its JSON. It
is flushed to the disk after each case and deleted when the job file is written. A last line that was cut off by a kill
is dropped; a journal with any other damage, or whose header is another session's, is discarded as a whole.

The process that supervises a session writes into it too: which arm of which case ended the process (`blame`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from frugal.errors import FrugalError
from frugal.records import Measurement, RowKey, Sample, canonical_json
from frugal.timing.faults import Fault
from frugal.timing.result import CaseResult

_SAMPLE_FIELDS = tuple(f.name for f in dataclasses.fields(Sample))


class Journal:
    """Finished cases by case_id in `finished`; `restarts` counts the processes that worked on it before.

    `columns`: those of the session's row that were known when the last case was finished.
    `blames`: by case_id the arms, with their faults, that ended an earlier process and are not to be run again.
    """

    def __init__(self, path: str | Path, header: Mapping[str, object], say: Callable[[str], None]) -> None:
        """Open `<path>.partial`, or begin it anew with one line to `say` where it is damaged or another session's."""
        self.path = journal_of(path)
        self.finished: dict[str, CaseResult] = {}
        self.blames: dict[str, dict[str, Fault]] = {}
        self.columns: dict[str, float | None] = {}
        self.restarts = 0
        key = hashlib.sha256(canonical_json(header).encode()).hexdigest()
        try:
            self._read(key)
        except FileNotFoundError:
            self._begin(key)
        except _Discarded as why:
            say(f"{self.path.name}: {why}: discarded, the session starts anew")
            self.finished, self.blames, self.columns, self.restarts = {}, {}, {}, 0
            self._begin(key)
        else:
            self.restarts += 1
            _append(self.path, {"restart": self.restarts})

    def add(self, case_id: str, result: CaseResult, columns: Mapping[str, float | None] | None = None) -> None:
        """Keep a finished case, and columns of the session's row, which a process without a case left does not read."""
        samples = [[list(key), [_values(s) for s in taken]] for key, taken in result.samples.items()]
        rows = [dataclasses.asdict(row) for row in result.rows]
        _append(self.path, {"case_id": case_id, "rows": rows, "samples": samples, "run": dict(columns or {})})
        self.finished[case_id] = result

    def close(self) -> None:
        """The job file is written: the journal has done its work."""
        self.path.unlink(missing_ok=True)

    def _begin(self, key: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(_line({"journal": 1, "key": key}))

    def _read(self, key: str) -> None:
        data = self.path.read_bytes()
        lines = data.splitlines(keepends=True)
        records = []
        for number, line in enumerate(lines):
            record = _parse(line)
            if record is None:
                if number == 0 or number < len(lines) - 1:
                    raise _Discarded(f"line {number + 1} is damaged")
                with self.path.open("r+b") as file:  # a kill in the middle of the last write
                    file.truncate(len(data) - len(line))
                break
            records.append(record)
        if not records:
            raise _Discarded("it is empty")
        if records[0].get("key") != key:
            raise _Discarded("it belongs to another design, device or version of the code")
        try:
            for record in records[1:]:
                self._take(record)
        except (KeyError, TypeError, ValueError):
            raise _Discarded("its rows have other columns") from None

    def _take(self, record: Mapping) -> None:
        if "restart" in record:
            self.restarts = int(record["restart"])
            return
        if "blame" in record:
            self.blames.setdefault(record["blame"], {})[record["arm"]] = Fault(record["status"], record["reason"])
            return
        rows = [Measurement(**row) for row in record["rows"]]
        samples = {
            RowKey(*key): [Sample(**dict(zip(_SAMPLE_FIELDS, values, strict=True))) for values in taken]
            for key, taken in record["samples"]
        }
        self.finished[record["case_id"]] = CaseResult(rows, samples)
        self.columns = record["run"]


class _Discarded(FrugalError):
    pass


def journal_of(path: str | Path) -> Path:
    """The journal of the session whose job file is `path`."""
    return Path(f"{path}.partial")


def blame(path: str | Path, case_id: str, arm: str, fault: Fault) -> None:
    """Note, for the next process of the session of `path`, that this arm ended the last one. No process may run it."""
    journal = journal_of(path)
    data = journal.read_bytes()
    if not data.endswith(b"\n"):  # the process ended in the middle of a write
        with journal.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)
    _append(journal, {"blame": case_id, "arm": arm, "status": fault.status, "reason": fault.reason})


def _values(sample: Sample) -> list[object]:
    return [getattr(sample, name) for name in _SAMPLE_FIELDS]


def _append(journal: Path, record: Mapping[str, object]) -> None:
    with journal.open("ab") as file:
        file.write(_line(record))
        file.flush()
        os.fsync(file.fileno())


def _line(record: Mapping[str, object]) -> bytes:
    text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    return hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n"


def _parse(line: bytes) -> dict | None:
    check, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or hashlib.sha256(text).hexdigest()[:16].encode() != check:
        return None
    return json.loads(text)
