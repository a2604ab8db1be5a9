"""The documentation is true: generated parts are current, what it names exists, and the README's commands work.

A command of the README is run by CI as it stands (`CI`), or by a test below with stand-ins for what is dear
(`RUN_HERE`); one that is in neither fails. Calls of Snakemake are read with the pinned Snakemake's own parser and
checked against the workflow's configuration and targets; calls of make run the Makefile on stand-ins.
"""

import fnmatch
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from frugal import cli, commits, config, docs, provenance, records
from frugal.errors import FrugalError
from frugal.timing.design import PRESETS

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}

# The README's commands that .ci/run runs as they stand.
CI = {"make figures", "make test"}
# The README's commands that a test of this file runs, and which.
RUN_HERE = {
    "snakemake --cores all figures": "test_snakemake_commands",
    'make figures ARGS="--config preset=quick"': "test_make_hands_arguments_to_snakemake",
    "snakemake --cores all claims": "test_snakemake_commands",
    "snakemake --workflow-profile gpu -- figures": "test_snakemake_commands",
    "snakemake --cores all plan": "test_snakemake_commands",
    "snakemake --cores all doctor": "test_snakemake_commands",
    "snakemake --cores all report": "test_snakemake_commands",
    'make setup PIP_ARGS="--extra-index-url $TORCH_CPU_INDEX"': "test_make_hands_pip_its_options",
    "frugal image-to-bin photographs -o photographs.bin": "test_frugal_image_to_bin",
    'snakemake --cores all --config "data={images: photographs.bin}" -- figures': "test_snakemake_commands",
    'snakemake --cores all --config "cusnn={weights: weights}" -- figures': "test_snakemake_commands",
    "snakemake --cores all --config mirror=mirror -- figures": "test_snakemake_commands",
}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT[page], re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """The command lines of a page's bash blocks, comments left out."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    found = [re.sub(r"\s{2,}#.*", "", line).strip() for line in lines]
    return [line for line in found if line and not line.startswith("#")]


def prose(page: Path) -> str:
    """A page without fenced blocks and comments."""
    return re.sub(r"^```.*?^```|<!--.*?-->", "", TEXT[page], flags=re.DOTALL | re.MULTILINE)


# ---- generated parts -------------------------------------------------------------------------------------------------


def test_generated_files_are_current():
    assert [str(path.relative_to(ROOT)) for path in docs.stale(ROOT)] == []


def test_every_generated_part_stands_on_a_page():
    found = re.findall(r"<!-- generated: (.*?) -->", "".join(TEXT.values()))
    assert sorted(found) == sorted(docs.SECTIONS)


def test_a_change_of_the_code_or_of_a_table_is_noticed(tmp_path):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "page.md"
    page.write_text("before\n<!-- generated: presets -->\nold\n<!-- end -->\nafter\n")
    assert page in docs.stale(tmp_path)
    docs.write(tmp_path)
    assert docs.stale(tmp_path) == []
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    for name, design in PRESETS.items():
        assert re.search(rf"`{name}` \| {design.sessions} \| {design.rounds} \|", text)
    page.write_text(text.replace("| `smoke` | 1 |", "| `smoke` | 2 |"))
    assert docs.stale(tmp_path) == [page]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<!-- generated: prests -->\n<!-- end -->\n", "there is nothing to generate called 'prests'"),
        ("<!-- generated: presets -->\nno end\n", "has no `<!-- end -->` after it"),
    ],
)
def test_bad_markers_end_in_a_sentence(text, sentence):
    with pytest.raises(docs.DocsError, match=re.escape(sentence)):
        docs.filled(text, "page.md")


def test_check_says_what_to_type(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("<!-- generated: presets -->\n<!-- end -->\n")
    monkeypatch.chdir(tmp_path)
    assert docs.main(["--check"]) == 1
    assert "docs/page.md: not what the code says now: call `make docs`" in capsys.readouterr().err
    assert docs.main(["--write"]) == 0
    assert docs.main(["--check"]) == 0


def test_every_column_stands_in_output_md_with_its_meaning():
    # Independent of the generator: the meanings are looked for in the page as it is committed.
    text = TEXT[ROOT / "docs" / "output.md"]
    for table in records.SCHEMAS:
        part = text.split(f"<!-- generated: columns of {table} -->")[1].split("<!-- end -->")[0]
        for column, meaning in records.meanings(table).items():
            assert f"| `{column}` |" in part
            assert meaning.replace("|", "\\|") in part


# ---- what is named exists --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    broken = []
    for target in targets:
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub forms them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# Folders and files at the top that a run does not make: a path below them that a page names must be there.
COMMITTED = re.compile(
    r"(?:workflow|kernels|envs|tests|docs|profiles|data/sources\.yaml|config\.yaml|Makefile|Dockerfile|Snakefile|"
    r"pyproject\.toml|\.ci|README\.md|LICENSE)(?:/[\w./*-]*)?"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_committed_paths_that_are_named_exist(page):
    spans = [span for span in re.findall(r"`([^`\n]+)`", prose(page)) if COMMITTED.fullmatch(span)]
    assert [span for span in spans if not list(ROOT.glob(span.rstrip("/")))] == []


def test_every_file_that_a_rule_writes_is_in_output_md_and_no_other():
    named = {path for path in documented_paths() if "recorded" not in path and path != "data/sources.yaml"}
    written = rule_outputs()
    assert [rule for rule in written if not fnmatch.filter(named, rule)] == []
    assert [path for path in named if not any(fnmatch.fnmatchcase(path, rule) for rule in written)] == []


def documented_paths() -> set[str]:
    """The paths in the first column of the tables of docs/output.md, `<name>` as `*`; further endings are expanded."""
    paths = set()
    for cell in re.findall(r"^\| (`(?:results|data)/[^|]*) \|", TEXT[ROOT / "docs" / "output.md"], re.MULTILINE):
        first, *endings = re.findall(r"`([^`]+)`", cell)
        paths |= {first, *(first.removesuffix(Path(first).suffix) + ending for ending in endings)}
    assert paths
    return {re.sub(r"<\w+>", "*", path) for path in paths}


def rule_outputs() -> set[str]:
    """What stands under `output:` in the rules, as patterns of paths."""
    found = set()
    for rules in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        text = rules.read_text(encoding="utf-8")
        for _, block in re.findall(r"^( +)output:\n((?:\1    .*\n)+)", text, re.MULTILINE):
            strings = re.findall(r'f?"([^"]*)"', re.sub(r"caption=.*|category=.*|labels=.*", "", block))
            prefixes = strings if "multiext(" not in block else [strings[0] + ending for ending in strings[1:]]
            found |= {path.replace("{RAW}", "<results>/raw/{preset}") for path in prefixes}
    assert found
    return {re.sub(r"\{+\w+\}+", "*", path).replace("<results>", "results") for path in found}


def test_every_profile_is_described():
    for profile in sorted(path.name for path in (ROOT / "workflow" / "profiles").iterdir()):
        assert f"| `{profile}` |" in TEXT[ROOT / "docs" / "usage.md"]


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for text in TEXT.values() for name in re.findall(r"`make ([a-z-]+)", text)}
    named |= {words[1] for page in PAGES for words in map(str.split, commands(page)) if words[0] == "make"}
    assert named <= targets


def test_figures_named_are_those_that_are_drawn():
    from frugal.figures import NAMES

    named = re.findall(r"`((?:cusnn|sft|dtr|method)_\w+)`", TEXT[ROOT / "docs" / "output.md"])
    assert set(named) == set(NAMES)


# ---- commands --------------------------------------------------------------------------------------------------------


def test_every_command_of_the_readme_is_run():
    found = set(commands(README))
    assert found == CI | set(RUN_HERE), "a command of README.md is neither run by CI nor by a test of this file"
    ci = [line.split("|")[0].split("2>")[0].strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert set(ci) >= CI
    assert {name for name in RUN_HERE.values() if name not in globals()} == set()


SNAKEMAKE = sorted({line for page in PAGES for line in commands(page) if line.startswith("snakemake ")})


@pytest.mark.parametrize("line", SNAKEMAKE)
def test_snakemake_commands(line, tmp_path, monkeypatch):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "my.yaml").write_text("preset: quick\n")
    (tmp_path / "profiles").symlink_to(ROOT / "workflow" / "profiles")
    (tmp_path / "Snakefile").write_text("")
    monkeypatch.chdir(tmp_path)
    check_snakemake(shlex.split(line)[1:])


def check_snakemake(argv: list[str]) -> dict:
    """Read a command line as the pinned Snakemake does; targets and configuration must be ours; returns the latter."""
    from snakemake.cli import parse_args, parse_config

    _, arguments = parse_args(argv)
    given = parse_config(arguments.config)
    config.load(given)
    rules = set(re.findall(r"^rule (\w+):", (ROOT / "workflow" / "Snakefile").read_text(), re.MULTILINE))
    assert set(arguments.targets) <= rules
    assert arguments.targets
    return given


def test_the_gpu_profile_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert check_snakemake(["--workflow-profile", "gpu", "--", "figures"]) == {"preset": "quick"}


def stand_in(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def make(*arguments: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    """Call make in a copy of what it looks at; returns its output."""
    for name in ("Makefile", "pyproject.toml", "envs"):
        (folder / name).symlink_to(ROOT / name)
    done = subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, env={**os.environ, **(environment or {})}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_hands_arguments_to_snakemake(tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    stand_in(tmp_path / ".venv/bin/snakemake", f'printf "%s\\n" "$@" > {shlex.quote(str(notes))}')
    stand_in(tmp_path / ".venv/bin/frugal", "exit 0")
    (tmp_path / ".venv/.installed").touch()
    (line,) = [line for line, test in RUN_HERE.items() if test == "test_make_hands_arguments_to_snakemake"]
    make(*shlex.split(line)[1:], folder=tmp_path)
    monkeypatch.chdir(ROOT)
    argv = notes.read_text().splitlines()
    assert argv[:2] == ["--cores", "all"]
    assert check_snakemake(argv) == {"preset": "quick"}


def test_make_hands_pip_its_options(tmp_path):
    (line,) = [line for line, test in RUN_HERE.items() if test == "test_make_hands_pip_its_options"]
    notes = tmp_path / "notes"
    stand_in(tmp_path / "noting", f'printf "%s\\n" "$@" > {shlex.quote(str(notes))}')
    venv = f'mkdir -p "$3/bin" && cp {shlex.quote(str(tmp_path / "noting"))} "$3/bin/python"'
    # -c is the check of the version, which is real
    python = f'if [ "$1" = -c ]; then exec {shlex.quote(sys.executable)} "$@"; fi\n{venv}'
    stand_in(tmp_path / "python", python)
    options = os.path.expandvars(line.replace("$TORCH_CPU_INDEX", "file:///wheels"))
    make(*shlex.split(options)[1:], f"PYTHON={tmp_path / 'python'}", folder=tmp_path)
    argv = notes.read_text().splitlines()
    assert argv[:3] == ["-m", "pip", "install"]
    assert argv[argv.index("--extra-index-url") + 1] == "file:///wheels"
    assert argv[argv.index("--constraint") + 1] == "envs/constraints.txt"
    assert (tmp_path / ".venv/.installed").exists()


def test_frugal_image_to_bin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photographs").mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (300, 260, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photographs/noise.png")
    for line in frugal_commands("image-to-bin"):
        assert cli.main(shlex.split(line)[1:]) == 0
        assert Path("photographs.bin").stat().st_size == 3 * 224 * 224 * 4
    assert "noise.png: converted" in capsys.readouterr().out


def test_frugal_migrate(results, monkeypatch, capsys):
    monkeypatch.chdir(results)
    table = pq.read_table("results/runs.parquet")
    old = table.drop_columns("flops_fp16").replace_schema_metadata(
        {**table.schema.metadata, b"schema_version": b"1.0.0"}
    )
    for line in frugal_commands("migrate"):
        pq.write_table(old, "results/runs.parquet")
        assert cli.main(shlex.split(line)[1:]) == 0
        assert pq.read_table("results/runs.parquet").schema.equals(table.schema, check_metadata=True)
        assert "1 of 3 files rewritten" in capsys.readouterr().out


def test_frugal_compare(monkeypatch, capsys):
    # what it measures is tested in tests/frugal/commits and tests/workflow; here, that it takes these words
    asked = []

    def noted(base, head, **options):
        asked.append((base, head, options["preset"], options["overrides"]))
        raise FrugalError("nothing is measured here")

    monkeypatch.setattr(commits, "compare", noted)
    for line in frugal_commands("compare"):
        assert cli.main(shlex.split(line)[1:]) == 2
        assert "nothing is measured here" in capsys.readouterr().err
        _, head, preset, overrides = asked[-1]
        assert (head, preset in PRESETS) == ("HEAD", True)
        given = {}
        for text in overrides:
            key, value = text.split("=")
            section, name = key.split(".")
            given.setdefault(section, {})[name] = yaml.safe_load(value)
        config.load(given)


def test_every_frugal_command_is_run():
    named = {line.split()[1] for page in PAGES for line in commands(page) if line.startswith("frugal ")}
    assert {name for name in named if f"test_frugal_{name.replace('-', '_')}" not in globals()} == set()


def frugal_commands(name: str) -> list[str]:
    """The lines of the documentation that call this command of frugal; at least one."""
    found = [line for page in PAGES for line in commands(page) if line.startswith(f"frugal {name} ")]
    assert found
    return found


# ---- Python ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """A folder as a run leaves it, with one comparison of made-up times."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    given = {
        "run_id": provenance.new_ulid(), "session": 0, "started_at": start, "finished_at": start, "preset": "smoke",
        "device_key": "cpu-made-up-2c", "network": "resnet50", "layer": "layer1.0.conv2", "regime": "wall",
        "metric": "time", "status": "ok", "value": 0.002, "case_id": "0" * 16, "config_json": "{}",
        "controls_json": "{}", "doctor_json": "{}", "axes_json": "{}",
        "ratio": 2.0, "ratio_low": 1.9, "ratio_high": 2.1, "best_baseline": True,
    }  # fmt: skip
    plain = {"string": "made-up", "int32": 1, "int64": 1, "double": 1.0, "bool": False}
    for table in ("runs", "measurements", "comparisons"):
        row = {
            f.name: given.get(f.name, None if f.nullable else plain.get(str(f.type))) for f in records.SCHEMAS[table]
        }
        made = records.SCHEMAS[table].empty_table().from_pylist([row], schema=records.SCHEMAS[table])
        records.write_table(tmp_path / "results" / f"{table}.parquet", made, table)
    (tmp_path / "photographs").mkdir()
    Image.fromarray(np.zeros((300, 260, 3), np.uint8)).save(tmp_path / "photographs" / "black.png")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_of_the_docs_runs(page, results):
    # one process a page: the examples of a page may build on each other
    code = "\n".join(blocks(page, "python"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=results, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    # usage.md: 4 images of 30² places, 8 filters of 27 weights, and 10 of 7200; the first convolution has no dgrad
    expected = {
        "README.md": ["resnet50"],
        "output.md": ["cpu-made-up-2c"],
        "usage.md": [
            "no verdict follows",
            "forward 1065600, gradients 288000 of data and 1065600 of weights",
            "of 2 convolutions replaced; results differ by ",
            "(1, 32, 16, 16) (1, 32, 16, 16)",
            "of 16.0 MiB",
            "untiled, 147 MiB would wait for the backward pass",
            "epoch 1: loss ",
            "the smallest that works is ",
            "80% of the peak: ok, ",
            "step 2: loss ",
            " short: give a larger budget or a smaller batch",
        ],
    }
    assert [text for text in expected[page.name] if text not in done.stdout] == []
