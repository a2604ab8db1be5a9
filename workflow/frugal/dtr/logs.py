"""What a program did, instruction by instruction: the logs that the simulator replays.

A `Log` is an Arrow table with a row an instruction. Names are the program's variables, as integers; several names may
denote one tensor. The format of its own is Parquet (`<name>.dtrlog.parquet`); the JSON lines of the published artifact
(M. Kirisame et al., "Dynamic Tensor Rematerialization", ICLR 2021) are read and written by `frugal.dtr.published`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from frugal.dtr.errors import LogError
from frugal.files import publishing

if TYPE_CHECKING:
    from frugal.dtr.graph import Graph
    from frugal.dtr.sim import Baseline

SCHEMA_VERSION = "1.0"  # major: refused at reading; minor: columns added
VERSION_KEY, TABLE_KEY, TABLE = b"schema_version", b"frugal.table", b"dtrlog"

KINDS = ("constant", "call", "mutate", "copy", "copy_from", "release", "pin")
PHASES = ("forward", "backward", "optimiser")

SCHEMA = pa.schema(
    [
        pa.field("seq", pa.int32(), nullable=False),
        pa.field("instr", pa.string(), nullable=False),
        pa.field("op", pa.string(), nullable=False),
        pa.field("cost_ns", pa.int64(), nullable=False),
        pa.field("workspace_bytes", pa.int64()),
        pa.field("args", pa.list_(pa.int32()), nullable=False),
        pa.field("results", pa.list_(pa.int32()), nullable=False),
        pa.field("sizes", pa.list_(pa.int64()), nullable=False),
        pa.field("aliases", pa.list_(pa.int32()), nullable=False),
        pa.field("mutated", pa.list_(pa.int32()), nullable=False),
        pa.field("shapes", pa.list_(pa.list_(pa.int64()))),
        pa.field("dtypes", pa.list_(pa.string())),
        pa.field("random", pa.bool_()),
        pa.field("batch_norm", pa.bool_()),
        pa.field("module", pa.string()),
        pa.field("phase", pa.string(), nullable=False),
    ]
)
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"


class Instruction(NamedTuple):
    """One instruction. `args` and `results` are names (integers from 0), `mutated` positions in `args`.

    constant: `results` is one name, which is there before the program starts and stays; `sizes` its bytes.
    call: an operator that reads `args` and makes `results`, in `cost_ns`; result i has `sizes[i]` bytes of its own, or
    is a view of argument `aliases[i]` (-1: of none). mutate: an operator that writes `args[p]` for p in `mutated`.
    copy: `results[0]` is a new name for `args[0]`'s tensor. copy_from: the known name `results[0]` now denotes
    `args[0]`'s tensor. release: the program drops the name `args[0]`. pin: `args[0]`'s tensor is made if it is not
    there, and stays, since its memory was handed out (the published format has no such line).
    workspace_bytes, shapes and dtypes (of the results), random, batch_norm, module: None where not recorded.
    """

    instr: str
    op: str = ""
    cost_ns: int = 0
    args: tuple[int, ...] = ()
    results: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    aliases: tuple[int, ...] = ()
    mutated: tuple[int, ...] = ()
    workspace_bytes: int | None = None
    shapes: tuple[tuple[int, ...], ...] | None = None
    dtypes: tuple[str, ...] | None = None
    random: bool | None = None
    batch_norm: bool | None = None
    module: str | None = None
    phase: str = "forward"


@dataclass(frozen=True, eq=False)
class Log:
    """A program's instructions. table: of SCHEMA. metadata: text by key (`model`, `sizes`, `seed`, `device_key`,
    `torch`, `cost_source`, `frugal.run`), as far as it is known. source: what messages call it.
    lines, spelled: of a file of JSON lines, the line of each row and what each name was written as."""

    table: pa.Table
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: str = "the log"
    lines: np.ndarray | None = field(default=None, repr=False)
    spelled: tuple[str, ...] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, instructions: Iterable[Instruction], **metadata: str) -> Log:
        """A log from its instructions; `metadata` as the attribute. Raises LogError for a program that cannot be."""
        columns = list(zip(*instructions, strict=True)) or [() for _ in Instruction._fields]
        given = dict(zip(Instruction._fields, columns, strict=True))
        given["seq"] = range(len(columns[0]))
        try:
            arrays = [pa.array(given[f.name], f.type) for f in SCHEMA]
        except (pa.ArrowException, OverflowError, TypeError) as problem:
            raise LogError(f"an instruction holds what its column cannot: {problem}") from problem
        log = cls(pa.Table.from_arrays(arrays, schema=SCHEMA), metadata, metadata.get("model", "the log"))
        log.check()
        return log

    def __len__(self) -> int:
        return self.table.num_rows

    def instructions(self) -> Iterator[Instruction]:
        """The instructions, in order; lists are tuples."""
        columns = [self.table.column(name).to_pylist() for name in Instruction._fields]
        for row in zip(*columns, strict=True):
            yield Instruction(*(_tuples(value) for value in row))

    @cached_property
    def graph(self) -> Graph:
        """Operators, tensors and storages as flat arrays. Raises LogError for a program that cannot be."""
        from frugal.dtr.graph import lower

        return lower(self)

    def check(self) -> None:
        """Raise LogError, with the line or the row, for a program that cannot be."""
        _ = self.graph

    @cached_property
    def _baseline(self) -> Baseline:
        from frugal.dtr.sim import measure_baseline

        return measure_baseline(self)

    def baseline(self) -> Baseline:
        """What the program needs without a budget: peak bytes (ratio 1.0), time, bytes of constants, bottleneck."""
        return self._baseline

    def save(self, path: str | Path) -> None:
        """Write `<name>.dtrlog.parquet` (zstd). Atomic."""
        metadata = {key.encode(): value.encode() for key, value in self.metadata.items()}
        metadata |= {VERSION_KEY: SCHEMA_VERSION.encode(), TABLE_KEY: TABLE}
        with publishing(path) as file:
            pq.write_table(
                self.table.replace_schema_metadata(metadata),
                file,
                compression="zstd",
                compression_level=9,
                write_page_checksum=True,
            )

    def to_jsonl(self, path: str | Path) -> None:
        """Write the published format, gzipped where `path` ends in .gz. Shapes, modules and phases but one are lost."""
        from frugal.dtr.published import lines_of

        text = "".join(line + "\n" for line in lines_of(self)).encode()
        with publishing(path) as file:
            # no name and no date inside, so that equal logs make equal files
            file.write(gzip.compress(text, mtime=0) if str(path).endswith(".gz") else text)


def read_log(path: str | Path) -> Log:
    """Read a log of ours (Parquet), or one of the published format (JSON lines, plain or gzipped), told by content.

    Raises LogError, with the line or the row, for a file that is damaged, cut off, of a later version, or a program
    that cannot be.
    """
    from frugal.dtr.published import parse

    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise LogError(f"{path} cannot be read ({problem.strerror}): name a log file") from problem
    if data[:4] == _PARQUET:
        return _read_parquet(path, data)
    if data[:2] == _GZIP:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, ValueError) as problem:
            raise LogError(
                f"{path} is a damaged or cut off gzip file ({problem}): fetch or write it again"
            ) from problem
    return parse(data, str(path))


def _read_parquet(path: Path, data: bytes) -> Log:
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        metadata = dict(file.schema_arrow.metadata or {})
        _refuse_version(path, metadata)
        missing = [f.name for f in SCHEMA if f.name not in file.schema_arrow.names]
        if missing:
            raise LogError(f"{path} is no log: it lacks the columns {', '.join(missing)}; capture or convert it again")
        table = file.read(columns=SCHEMA.names).replace_schema_metadata(None)
        table = table.select(SCHEMA.names).cast(SCHEMA)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise LogError(f"{path} is damaged ({str(problem).splitlines()[0]}): capture or convert it again") from problem
    own = (VERSION_KEY, TABLE_KEY, b"ARROW:schema")
    text = {key.decode(): value.decode(errors="replace") for key, value in metadata.items() if key not in own}
    log = Log(table.combine_chunks(), text, str(path))
    log.check()
    return log


def _refuse_version(path: Path, metadata: Mapping[bytes, bytes]) -> None:
    if metadata.get(TABLE_KEY) != TABLE:
        raise LogError(f"{path} is a Parquet file, but no log of frugal.dtr: name a file that Log.save wrote")
    found = metadata.get(VERSION_KEY, b"none").decode(errors="replace")
    if found.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise LogError(
            f"{path} has schema version {found}, this frugal reads {SCHEMA_VERSION.split('.')[0]}.x: update frugal, "
            "or capture it again"
        )


def _tuples(value: object) -> object:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def chain(n: int, cost: int = 1, size: int = 1) -> Log:
    """The chain of `n` layers and its backward pass, with operators of one cost (ns) and results of one size (bytes).

    f_i is made from f_{i-1}; b_{n-1} from nothing; b_j from f_{j-1} and b_{j+1}; a name is released after its last
    use (the paper's appendix A, as in the artifact's experiment). Raises ValueError for n < 1.
    """
    if n < 1 or cost < 0 or size < 0:
        raise ValueError(f"chain(n={n}, cost={cost}, size={size}): n is at least 1, cost and size at least 0")

    def call(name: int, args: tuple[int, ...], phase: str) -> Instruction:
        return Instruction("call", phase[0], cost, args, (name,), (size,), (-1,), phase=phase)

    def release(name: int) -> Instruction:
        return Instruction("release", args=(name,), phase="backward")

    made = [call(i, (i - 1,) if i else (), "forward") for i in range(n)]
    made += [release(n - 1), call(n, (), "backward")]
    for j in range(n - 2, -1, -1):
        gradient = 2 * n - 1 - j  # of f_j
        made += [
            release(j),
            call(gradient, ((j - 1,) if j else ()) + (gradient - 1,), "backward"),
            release(gradient - 1),
        ]
    return Log.of(made, model=f"chain{n}", sizes=f"n={n}")
