"""Logs: what they hold, how they become graphs, both formats, and every kind of damage."""

import gzip
import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from frugal.dtr import Instruction, Log, LogError, chain, read_log
from frugal.dtr.graph import COMPUTE, GET, PIN, RELEASE

PUBLISHED = Path(os.environ.get("FRUGAL_TEST_DATA", "")) / "dtr" / "logs"
needs_published = pytest.mark.skipif(
    not (os.environ.get("FRUGAL_TEST_DATA") and PUBLISHED.is_dir()),
    reason="FRUGAL_TEST_DATA names no folder with dtr/logs (the artifact's logs, which may not be redistributed)",
)

# specs of the published logs: operators, constants, tensors, storages, time, bytes of constants
COUNTS = {
    "resnet32": (286, 223, 696, 680, 291905487, 35584920),
    "inceptionv4": (1258, 1049, 3206, 3118, 636429561, 239640948),
    "transformer": (2821, 333, 3457, 1904, 276259118, 263197248),
    "lstm": (7926, 137, 8319, 5376, 769458833, 194424928),
    "treelstm": (6825, 134, 7213, 4872, 120490892, 2000800),
}

LINES = [
    '{"INSTRUCTION":"RELEASE","NAME":"before"}',
    '{"ANNOTATION":"START","INSTRUCTION":"ANNOTATE"}',
    '{"INSTRUCTION":"CONSTANT","NAME":"w"}',
    '{"INSTRUCTION":"MEMORY","MEMORY":"40","NAME":"w"}',
    '{"ARGS":["w","w"],"INSTRUCTION":"CALL","NAME":"mul","RESULT":["a"],"TIME":"7"}',
    '{"INSTRUCTION":"MEMORY","MEMORY":"40","NAME":"a"}',
    '{"ALIAS":"-1","INSTRUCTION":"ALIAS","NAME":"a"}',
    '{"ARGS":["a"],"INSTRUCTION":"CALL","NAME":"t","RESULT":["v"],"TIME":"2"}',
    '{"INSTRUCTION":"MEMORY","MEMORY":"40","NAME":"v"}',
    '{"ALIAS":"0","INSTRUCTION":"ALIAS","NAME":"v"}',
    '{"DST":"c","INSTRUCTION":"COPY","SRC":"v"}',
    '{"ANNOTATION":"BACKWARD","INSTRUCTION":"ANNOTATE"}',
    '{"ARGS":["w","v"],"INSTRUCTION":"MUTATE","MUTATE":[1],"NAME":"add_","TIME":"5"}',
    '{"DST":"a","INSTRUCTION":"COPY_FROM","SRC":"v"}',
    '{"INSTRUCTION":"RELEASE","NAME":"before"}',
    '{"INSTRUCTION":"RELEASE","NAME":"c"}',
]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def small(tmp_path):
    return read_log(write(tmp_path / "small.log", LINES))


def test_a_log_becomes_a_graph(small):
    graph = small.graph
    # tensors: w 0, a 1, v 2 (view of a), the mutated copy of v 3, of the size of v's storage though v itself is a view
    assert graph.op_cost.tolist() == [0, 7, 2, 5]
    assert graph.op_constant.tolist() == [True, False, False, False]
    assert graph.tensor_storage.tolist() == [0, 1, 1, 2]
    assert graph.tensor_size.tolist() == [40, 40, 0, 40]
    assert graph.op_total.tolist() == [40, 40, 0, 40]
    assert graph.storage_size.tolist() == [40, 40, 40]
    assert [graph.op_in[a:b].tolist() for a, b in zip(graph.op_in_ptr, graph.op_in_ptr[1:], strict=False)] == [
        [], [0, 0], [1], [0, 2]
    ]  # fmt: skip
    # w is read twice by the product: two copies of its output among its children
    assert [graph.child[a:b].tolist() for a, b in zip(graph.child_ptr, graph.child_ptr[1:], strict=False)] == [
        [1, 1, 3], [2], [3], []
    ]  # fmt: skip
    assert [graph.member[a:b].tolist() for a, b in zip(graph.member_ptr, graph.member_ptr[1:], strict=False)] == [
        [0], [1, 2], [3]
    ]  # fmt: skip
    assert list(zip(graph.action.tolist(), graph.target.tolist(), strict=True)) == [
        (COMPUTE, 0), (PIN, 0),  # a constant is pinned
        (COMPUTE, 1), (COMPUTE, 2),
        (GET, 2),  # c = v
        (COMPUTE, 3), (RELEASE, 2),  # v now denotes tensor 3; c still 2
        (RELEASE, 1), (GET, 3),  # a = v
        (RELEASE, 2),  # c; the name `before` was born before the log
        (PIN, 0), (PIN, 3), (PIN, 3),  # w, a and v still denote something, c is released
    ]  # fmt: skip


def test_phases_and_lines(small):
    assert small.table.column("phase").to_pylist() == ["forward"] * 4 + ["backward"] * 4
    assert small.lines.tolist() == [3, 5, 8, 11, 13, 14, 15, 16]


def test_both_formats_go_round(small, tmp_path):
    small.save(tmp_path / "small.dtrlog.parquet")
    own = read_log(tmp_path / "small.dtrlog.parquet")
    assert own.table.equals(small.table)
    for name in ("again.log", "again.log.gz"):
        own.to_jsonl(tmp_path / name)
        assert read_log(tmp_path / name).table.equals(small.table)
    text = (tmp_path / "again.log").read_text()
    # x0, x1, … for the names, and what stood before START is gone; every value is text except the lists
    objects = [json.loads(line) for line in text.splitlines()]
    published = [json.loads(line) for line in LINES[1:]]
    spelled = {name: f"x{i}" for i, name in enumerate(small.spelled)}
    renamed = json.loads(re.sub(r'"(w|a|v|c|before)"', lambda m: f'"{spelled[m[1]]}"', json.dumps(published)))
    assert objects == renamed
    assert gzip.decompress((tmp_path / "again.log.gz").read_bytes()).decode() == text


def test_own_format_keeps_what_the_published_one_loses(tmp_path):
    rows = [
        Instruction("constant", "constant", results=(4,), sizes=(8,), shapes=((2,),), dtypes=("float32",)),
        Instruction("call", "dropout", 12, (4,), (9,), (8,), (-1,), (), 64, ((2,),), ("float32",), True, False, "a.b"),
        Instruction("mutate", "add_", 3, (9,), mutated=(0,), phase="optimiser"),
    ]
    log = Log.of(rows, model="made up", seed="3")
    log.save(tmp_path / "x.dtrlog.parquet")
    own = read_log(tmp_path / "x.dtrlog.parquet")
    assert list(own.instructions()) == rows
    assert own.metadata == {"model": "made up", "seed": "3"}
    metadata = pq.read_metadata(tmp_path / "x.dtrlog.parquet")
    assert metadata.metadata[b"schema_version"] == b"1.0"
    assert metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize(
    ("change", "line", "sentence"),
    [
        (lambda x: [*x[:-1], x[-1][:20]], 16, "cut off or damaged"),
        (lambda x: x[:5], 5, "expected MEMORY of a"),
        (lambda x: x[:6], 6, "expected ALIAS of a"),
        (lambda x: [*x[:5], *x[6:]], 6, "expected MEMORY of a"),
        (lambda x: x[:3], 3, "expected MEMORY of w"),
        (lambda x: [x[0], *x[2:]], None, "no line ANNOTATE START"),
        (lambda x: [], None, "no line ANNOTATE START"),
        (lambda x: [line.replace('"ARGS":["a"]', '"ARGS":["lost"]') for line in x], 8, "name lost"),
        (lambda x: [line.replace('"ALIAS":"0"', '"ALIAS":"1"') for line in x], 8, "alias 1"),
        (lambda x: [line.replace('"ALIAS":"0"', '"ALIAS":"-2"') for line in x], 10, "from -1"),
        (lambda x: [line.replace('"TIME":"7"', '"TIME":"-7"') for line in x], 5, "TIME with a whole number from 0"),
        (lambda x: [line.replace('"TIME":"7"', '"TIME":"1e3"') for line in x], 5, "TIME with a whole number"),
        (lambda x: [line.replace('"40"', '"-40"', 1) for line in x], 4, "MEMORY with a whole number from 0"),
        (lambda x: [line.replace('"40"', f'"{2**63}"', 1) for line in x], 4, "2^63 - 1"),
        (lambda x: [line.replace('"40"', f'"{2**62}"') for line in x], 5, "cannot be bytes"),
        (lambda x: [line.replace('"DST":"c"', '"DST":"w"') for line in x], 11, "name w a second time"),
        (lambda x: [line.replace('"DST":"a"', '"DST":"new"') for line in x], 14, "name new"),
        (lambda x: [line.replace('"MUTATE":[1]', '"MUTATE":[2]') for line in x], 13, "mutated position 2"),
        (lambda x: [line.replace('"MUTATE":[1]', '"MUTATE":["1"]') for line in x], 13, "list of positions"),
        (lambda x: [line.replace('"INSTRUCTION":"COPY"', '"INSTRUCTION":"MOVE"') for line in x], 11, "CONSTANT, CALL"),
        (lambda x: [*x[:4], x[3], *x[4:]], 5, "MEMORY and ALIAS follow"),
        (lambda x: [line.replace('"RESULT":["a"]', '"RESULT":"a"') for line in x], 5, "RESULT with a list of names"),
        (lambda x: [*x[:10], "[1]", *x[10:]], 11, "one JSON object a line"),
        (lambda x: [*x[:10], x[10] + "," + x[10], *x[11:]], 11, "one JSON object a line"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path, change, line, sentence):
    path = write(tmp_path / "bad.log", change(list(LINES)))
    with pytest.raises(LogError, match=re.escape(sentence)) as caught:
        read_log(path)
    assert caught.value.where == line
    assert str(caught.value).startswith(str(path))
    assert line is None or f"line {line}:" in str(caught.value)


def test_files_that_are_no_logs(tmp_path):
    (tmp_path / "cut.log.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    chain(3).save(tmp_path / "whole.dtrlog.parquet")
    data = (tmp_path / "whole.dtrlog.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[:-100])
    damaged = bytearray(data)
    damaged[10] ^= 0xFF
    (tmp_path / "flipped.parquet").write_bytes(damaged)
    table = pq.read_table(tmp_path / "whole.dtrlog.parquet")
    later = {**table.schema.metadata, b"schema_version": b"2.0"}
    pq.write_table(table.replace_schema_metadata(later), tmp_path / "later.parquet")
    pq.write_table(table.drop_columns("sizes"), tmp_path / "less.parquet")
    for name, sentence in {
        "missing": "cannot be read",
        "cut.log.gz": "cut off gzip",
        "noise": "neither Parquet nor JSON lines",
        "foreign.parquet": "no log of frugal.dtr",
        "cut.parquet": "is damaged",
        "flipped.parquet": "is damaged",
        "later.parquet": "schema version 2.0, this frugal reads 1.x: update frugal",
        "less.parquet": "lacks the columns sizes",
    }.items():
        with pytest.raises(LogError, match=re.escape(sentence)):
            read_log(tmp_path / name)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (Instruction("call", "f", 1, (), (0,), (8,), ()), "lists do not fit"),
        (Instruction("call", "f", 1, (7,), (0,), (8,), (-1,)), "the name 7"),
        (Instruction("call", "f", 1, (), (0, 0), (8, 8), (-1, -1)), "the name 0 a second time"),
        (Instruction("call", "f", -1, (), (0,), (8,), (-1,)), "is -1"),
        (Instruction("call", "f", 1, (), (0,), (-8,), (-1,)), "is -8"),
        (Instruction("jump"), "'jump' is not known"),
        (Instruction("mutate", "f", 1, ()), "lists do not fit"),
        (Instruction("call", "f", 2**63, (), (0,), (8,), (-1,)), "cannot"),
    ],
)
def test_instructions_that_cannot_be(row, sentence):
    with pytest.raises(LogError, match=re.escape(sentence)):
        Log.of([row])


def test_the_chain():
    # f0, f1, f2; b2 of nothing; b1 of f0 and b2; b0 of b1: §8's order, releases between
    rows = [(row.instr, row.args, row.results) for row in chain(3).instructions()]
    assert rows == [
        ("call", (), (0,)), ("call", (0,), (1,)), ("call", (1,), (2,)),
        ("release", (2,), ()), ("call", (), (3,)),
        ("release", (1,), ()), ("call", (0, 3), (4,)), ("release", (3,), ()),
        ("release", (0,), ()), ("call", (4,), (5,)), ("release", (4,), ()),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="n is at least 1"):
        chain(0)


@needs_published
@pytest.mark.parametrize("name", COUNTS)
def test_published_logs(name, tmp_path):
    log = read_log(PUBLISHED / f"{name}.log.gz")
    graph = log.graph
    constants = graph.op_first[:-1][graph.op_constant]
    assert (
        int((~graph.op_constant).sum()), int(graph.op_constant.sum()), len(graph.tensor_op), len(graph.storage_size),
        int(graph.op_cost.sum()), int(graph.tensor_size[constants].sum()),
    ) == COUNTS[name]  # fmt: skip
    log.save(tmp_path / "own.parquet")
    log.to_jsonl(tmp_path / "again.log.gz")
    assert read_log(tmp_path / "own.parquet").table.equals(log.table)
    assert read_log(tmp_path / "again.log.gz").table.equals(log.table)
