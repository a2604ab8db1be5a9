"""workflow/claims.yaml as it is committed: every published claim is there, its number is the published one, and what it
names exists."""

import csv
import re
import shlex
from pathlib import Path

import pytest
import yaml

from frugal import claims, config, figures

ROOT = Path(__file__).resolve().parents[3]
LOADED = claims.load()
WRITTEN = yaml.safe_load((ROOT / "workflow" / "claims.yaml").read_text())

# The claims of the method's own list: what each says, typed by hand.
PUBLISHED = {
    "sft.exact": 1e-7, "sft.reach.vgg16": 20480, "sft.reach.darknet19": 20480, "sft.overhead.vgg16": 1.31,
    "sft.flops.planned": 1.05, "cusnn.e2e.densenet169.time": 1.262, "cusnn.e2e.densenet169.energy": 1.16,
    "cusnn.layers.resnet152": 3.135, "cusnn.layers.shape": None, "cusnn.breakeven": 0.6, "folded.throughput.max": 2.5,
    "folded.utilisation.max": 2.8, "folded.accuracy": 0.5, "dtr.slowdown.inceptionv4": 1.252,
    "dtr.slowdown.transformer.budget42": 1.189, "dtr.slowdown.transformer.budget24": 1.596,
    "dtr.slowdown.treelstm": 2.087, "dtr.reach.resnet1202": 1.4, "dtr.linear.bound": 3.0,
    "syno.speed.a100.inductor": 1.60, "syno.speed.a100.tvm": 1.47, "syno.speed.mobile.cpu": 2.06,
    "syno.speed.mobile.gpu": 1.72, "syno.accuracy.resnet18": -0.01, "syno.imagenet.operator1": 0.978 / 0.762,
}  # fmt: skip


def test_every_published_claim_stands_there_with_its_value():
    found = {claim.id: claim.locator.value for claim in LOADED}
    assert set(PUBLISHED) <= set(found)
    for name, value in PUBLISHED.items():
        assert found[name] == (None if value is None else pytest.approx(value, rel=5e-3)), name


def test_goals_of_ours_are_named_as_such():
    for claim in LOADED:
        assert (".ours." in claim.id or claim.id == "sft.flops.planned") == (claim.origin == "ours"), claim.id


WITH_PAPER = [entry for entry in WRITTEN if "paper" in entry["locator"]]


@pytest.mark.parametrize("entry", WITH_PAPER, ids=lambda entry: entry["id"])
def test_a_value_is_that_of_its_rows_among_the_published_numbers(entry):
    with (ROOT / "workflow" / "paper" / f"{entry['id'].split('.')[0]}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def total(selections):
        if selections is None:
            return 1.0
        values = []
        for selection in selections if isinstance(selections, list) else [selections]:
            exact = {key: text for key, text in selection.items() if key != "parameters"}
            (row,) = [
                row for row in rows
                if exact.items() <= row.items() and selection.get("parameters", "") in row["parameters"]
            ]  # fmt: skip
            assert row["source"]
            values.append(float(row["value"]))
        return sum(values)

    paper = entry["locator"]["paper"]
    # The digits that are written are those of the published number.
    written = entry["locator"]["value"]
    digits = len(str(written).partition(".")[2])
    assert round(total(paper["row"]) / total(paper.get("over")), digits) == pytest.approx(written)


def test_every_row_of_published_numbers_has_its_source_and_a_number():
    files = sorted((ROOT / "workflow" / "paper").glob("*.csv"))
    assert [path.stem for path in files] == ["cusnn", "dtr", "folded", "sft", "syno"]
    for path in files:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                assert row["system"] == path.stem
                assert row["source"]
                assert row["metric"]
                assert row["unit"] or row["metric"] in ("lr", "weight_decay")
                float(row["value"])


def test_every_figure_that_is_named_is_drawn():
    named = {claim.figure for claim in LOADED} - {None}
    assert named
    assert named <= set(figures.NAMES)


@pytest.mark.parametrize("line", sorted({claims.command(claim) for claim in LOADED}))
def test_every_command_is_one_that_snakemake_and_the_configuration_take(line, monkeypatch):
    from snakemake.cli import parse_args, parse_config

    monkeypatch.chdir(ROOT)
    word, *argv = shlex.split(line)
    assert word == "snakemake"
    _, arguments = parse_args(argv)
    assert set(arguments.targets) == {"claims"}
    loaded = config.load(parse_config(arguments.config))
    wanted = re.search(r"preset=(\w+)", line)
    if wanted:
        assert loaded.preset == wanted[1]


def test_no_claim_is_pending_that_is_measured():
    # A reason in words stands until the system measures it; then it must go.
    recorded = claims.Tables.read(ROOT / "results" / "recorded" / "nvidia-h200")
    pending = {claim.id for claim in LOADED if claim.pending}
    found = claims.evaluate(LOADED, recorded).to_pylist()
    assert [row["claim_id"] for row in found if row["claim_id"] in pending and row["n_rows"]] == []


def test_arithmetic_means_of_ratios_have_the_geometric_one_beside_them():
    for claim in LOADED:
        if claim.measure.reduce == "mean_of_ratios_paper":
            assert "geomean" in {part.reduce for part in claim.measure.beside}, claim.id


def test_a_statement_rounds_its_published_number_and_says_no_other():
    said = {}
    for claim in LOADED:
        match = re.search(r"([\d.]+\d) times (?:faster|the|\(geo)", claim.statement)
        if match and claim.origin != "ours":
            said[claim.id] = float(match[1])
    assert len(said) > 8
    values = {claim.id: claim.locator.value for claim in LOADED}
    assert said == {name: pytest.approx(values[name], rel=5e-3) for name in said}
