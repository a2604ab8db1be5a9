"""The log format of the published artifact: one JSON object a line, all values strings except lists.

`CONSTANT{NAME}`, then `MEMORY{NAME,MEMORY}`; `CALL{NAME,ARGS,RESULT,TIME}`, then for each result `MEMORY` and
`ALIAS{NAME,ALIAS}` ("-1", or the index of the argument that it is a view of); `MUTATE{NAME,ARGS,MUTATE,TIME}`;
`COPY{DST,SRC}`; `COPY_FROM{DST,SRC}`; `RELEASE{NAME}`; `ANNOTATE{ANNOTATION}` (START, BACKWARD). What stands before
the first START does not count. TIME in ns, MEMORY in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from frugal.dtr.errors import LogError
from frugal.dtr.logs import SCHEMA, Instruction, Log

_INT64 = 2**63 - 1
_KNOWN = "CONSTANT, CALL, MUTATE, MEMORY, ALIAS, COPY, COPY_FROM, RELEASE and ANNOTATE"


class _Lines:
    """The objects of a file one by one, with the line for messages."""

    def __init__(self, data: bytes, source: str) -> None:
        self.source = source
        try:
            self.texts = data.decode().split("\n")
        except UnicodeDecodeError as problem:
            raise LogError(
                f"{source} is neither Parquet nor JSON lines (byte {problem.start} is no text): name a log file"
            ) from problem
        while self.texts and not self.texts[-1].strip():
            self.texts.pop()
        try:  # one call for all lines is twice as quick as one a line
            self.objects = json.loads(f"[{','.join(self.texts)}]")
        except ValueError:
            self.objects = []
        if len(self.objects) != len(self.texts) or not all(type(item) is dict for item in self.objects):
            self.objects = [self._object(i, text) for i, text in enumerate(self.texts)]
        self.at = -1  # index of the current line

    def _object(self, index: int, text: str) -> dict:
        self.at = index
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if type(found) is not dict:
            raise self.error("one JSON object a line; the line is cut off or damaged")
        return found

    def error(self, expected: str) -> LogError:
        line = min(self.at, len(self.texts) - 1)
        text = self.texts[line] if self.texts else ""
        shown = text if len(text) <= 120 else text[:117] + "..."
        return LogError(f"{self.source}, line {line + 1}: {shown!r}: expected {expected}", where=line + 1)

    def get(self, key: str) -> str:
        """A text value of the current line."""
        value = self.objects[self.at].get(key)
        if type(value) is not str:
            raise self.error(f"{key} with a text")
        return value

    def names(self, key: str) -> list[str]:
        value = self.objects[self.at].get(key)
        if type(value) is not list or not all(type(name) is str for name in value):
            raise self.error(f"{key} with a list of names")
        return value

    def integer(self, key: str, least: int = 0) -> int:
        value = self.objects[self.at].get(key)
        try:
            number = int(value) if type(value) in (str, int) else None
        except ValueError:
            number = None
        if number is None or not least <= number <= _INT64:
            raise self.error(f"{key} with a whole number from {least} to 2^63 - 1")
        return number

    def positions(self) -> list[int]:
        value = self.objects[self.at].get("MUTATE")
        if type(value) is not list or not all(type(position) is int for position in value):
            raise self.error("MUTATE with a list of positions in ARGS")
        return value

    def follow(self, instruction: str, name: str) -> None:
        """Go on to the next line, which must be `instruction` of `name`."""
        self.at += 1
        item = self.objects[self.at] if self.at < len(self.objects) else {}
        if item.get("INSTRUCTION") != instruction or item.get("NAME") != name:
            raise self.error(f"{instruction} of {name} here or after it: the log is cut off or lines are missing")


def parse(data: bytes, source: str) -> Log:
    """Read the published format. Raises LogError with the line for what it cannot be, also as a program."""
    lines = _Lines(data, source)
    _skip_to_start(lines)
    spelled: dict[str, int] = {}  # name -> its integer, in order of first mention
    columns: dict[str, list] = {name: [] for name in ("instr", "op", "cost_ns", "phase", "line")}
    lists: dict[str, tuple[list, list]] = {  # values, and where each row's begin
        name: ([], [0]) for name in ("args", "results", "sizes", "aliases", "mutated")
    }
    phase = "forward"

    def add(instr: str, op: str, cost: int, **values: list) -> None:
        for name, value in zip(columns, (instr, op, cost, phase, line), strict=True):
            columns[name].append(value)
        for name, (flat, starts) in lists.items():
            flat += values.get(name, ())
            starts.append(len(flat))

    def ids(names: list[str]) -> list[int]:
        return [spelled.setdefault(name, len(spelled)) for name in names]

    while lines.at + 1 < len(lines.objects):
        lines.at += 1
        line = lines.at + 1
        match lines.objects[lines.at].get("INSTRUCTION"):
            case "RELEASE":
                add("release", "", 0, args=ids([lines.get("NAME")]))
            case "COPY" | "COPY_FROM" as instruction:
                add(instruction.lower(), "", 0, args=ids([lines.get("SRC")]), results=ids([lines.get("DST")]))
            case "CALL":
                op, args, results = lines.get("NAME"), lines.names("ARGS"), lines.names("RESULT")
                cost = lines.integer("TIME")
                sizes, aliases = [], []
                for name in results:
                    lines.follow("MEMORY", name)
                    sizes.append(lines.integer("MEMORY"))
                    lines.follow("ALIAS", name)
                    aliases.append(lines.integer("ALIAS", least=-1))
                add("call", op, cost, args=ids(args), results=ids(results), sizes=sizes, aliases=aliases)
            case "MUTATE":
                add("mutate", lines.get("NAME"), lines.integer("TIME"), args=ids(lines.names("ARGS")),
                    mutated=lines.positions())  # fmt: skip
            case "CONSTANT":
                name = lines.get("NAME")
                lines.follow("MEMORY", name)
                add("constant", "constant", 0, results=ids([name]), sizes=[lines.integer("MEMORY")])
            case "ANNOTATE":
                phase = "backward" if lines.get("ANNOTATION") == "BACKWARD" else phase
            case "MEMORY" | "ALIAS":
                raise lines.error("an instruction: MEMORY and ALIAS follow CONSTANT and CALL, one for each result")
            case _:
                raise lines.error(f"an INSTRUCTION out of {_KNOWN}")
    return _log(source, columns, lists, spelled)


def _skip_to_start(lines: _Lines) -> None:
    for index, item in enumerate(lines.objects):
        if item.get("INSTRUCTION") == "ANNOTATE" and item.get("ANNOTATION") == "START":
            lines.at = index
            return
    raise LogError(f"{lines.source} has no line ANNOTATE START: it is no log of one step, or it is cut off")


def _log(source: str, columns: dict[str, list], lists: dict[str, tuple[list, list]], spelled: dict[str, int]) -> Log:
    rows = len(columns["instr"])
    arrays = {name: pa.array(columns[name], SCHEMA.field(name).type) for name in ("instr", "op", "cost_ns", "phase")}
    arrays["seq"] = pa.array(np.arange(rows, dtype=np.int32))
    for name, (flat, starts) in lists.items():
        kind = SCHEMA.field(name).type
        arrays[name] = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(flat, kind.value_type), kind)
    made = [arrays[f.name] if f.name in arrays else pa.nulls(rows, f.type) for f in SCHEMA]
    log = Log(
        pa.Table.from_arrays(made, schema=SCHEMA), {}, source, np.asarray(columns["line"], np.int64), tuple(spelled)
    )
    log.check()
    return log


def lines_of(log: Log) -> Iterator[str]:
    """The lines of a log in the published format; name n is written `x<n>`."""

    def line(**fields: object) -> str:
        return json.dumps(fields, separators=(",", ":"))

    yield line(ANNOTATION="START", INSTRUCTION="ANNOTATE")
    backward = False
    for row in log.instructions():
        if row.phase == "backward" and not backward:
            backward = True
            yield line(ANNOTATION="BACKWARD", INSTRUCTION="ANNOTATE")
        yield from (line(**fields) for fields in _objects(row))


def _objects(row: Instruction) -> Iterator[dict[str, object]]:
    args, results = [f"x{name}" for name in row.args], [f"x{name}" for name in row.results]
    match row.instr:
        case "pin":
            return  # the published format has no such line
        case "release":
            yield {"INSTRUCTION": "RELEASE", "NAME": args[0]}
        case "copy" | "copy_from":
            yield {"DST": results[0], "INSTRUCTION": row.instr.upper(), "SRC": args[0]}
        case "mutate":
            yield {
                "ARGS": args, "INSTRUCTION": "MUTATE", "MUTATE": list(row.mutated), "NAME": row.op,
                "TIME": str(row.cost_ns),
            }  # fmt: skip
        case "constant":
            yield {"INSTRUCTION": "CONSTANT", "NAME": results[0]}
            yield {"INSTRUCTION": "MEMORY", "MEMORY": str(row.sizes[0]), "NAME": results[0]}
        case "call":
            yield {"ARGS": args, "INSTRUCTION": "CALL", "NAME": row.op, "RESULT": results, "TIME": str(row.cost_ns)}
            for name, size, alias in zip(results, row.sizes, row.aliases, strict=True):
                yield {"INSTRUCTION": "MEMORY", "MEMORY": str(size), "NAME": name}
                yield {"ALIAS": str(alias), "INSTRUCTION": "ALIAS", "NAME": name}
