"""What cannot be meant is refused while it is read, with one sentence that says what is wrong and what is allowed."""

import re

import pytest
import yaml
from claim_rows import claim

from frugal.claims import ClaimError, command, load
from frugal.claims.load import PAPER_FOLDER

GOOD = {
    "id": "cusnn.made_up", "origin": "paper", "statement": "Ours is twice as fast", "comparator": "at_least",
    "locator": {"where": "page 1", "hardware": "V100", "value": 2.0}, "needs": {"preset": "quick"},
    "measure": {"table": "comparisons", "where": {"candidate": "sparse"}, "column": "ratio", "reduce": "geomean"},
}  # fmt: skip
PAPER = {"row": {"model": "densenet169", "variant": "cuDNN", "metric": "time_per_image"}}


def changed(changes: dict) -> dict:
    """GOOD with changes at dotted keys; `None` stands for itself, `...` takes a key out."""
    made = yaml.safe_load(yaml.safe_dump(GOOD))
    for place, value in changes.items():
        *path, last = place.split("/")
        part = made
        for step in path:
            part = part.setdefault(step, {})
        if value is ...:
            del part[last]
        else:
            part[last] = value
    return made


def refused(tmp_path, *entries) -> list[str]:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(list(entries)))
    with pytest.raises(ClaimError) as problem:
        load(path)
    return str(problem.value).split("\n")


def test_the_good_one_is_good(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([GOOD]))
    assert [made.id for made in load(path)] == ["cusnn.made_up"]


OVER = {"measure/table": "measurements", "measure/column": "value", "measure/over": {"arm": "dense"}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"measure/where": {"candidat": "x"}}, "comparisons has no such column"),
        ({"measure/where": {"arm.tile": 4}}, "column = arm.tile: comparisons has no such column"),
        ({"measure/table": "comparison"}, "measure.table: input should be 'comparisons' or 'measurements', unlike"),
        ({"measure/reduce": "mean"}, "measure.reduce: input should be 'only', 'geomean'"),
        ({"measure/column": "verdict"}, "table comparisons: the column must be ratio"),
        ({"measure/table": "measurements", "measure/where": {"arm": "x"}, "measure/column": "arm"}, "numeric column"),
        ({"measure/weight": "layer_count"}, "column = layer_count: comparisons has no such column"),
        ({"measure/where": {"n": "one"}}, "where: n holds a number, which 'one' is not"),
        ({"measure/where": {"candidate": 1}}, "where: candidate holds a text, which 1 is not"),
        ({"measure/where": {"n": {"from": 1}}}, "measure.where.n: a condition is a value, a list"),
        ({"measure/where": {"n": {}}}, "a range needs ge, le or both"),
        ({"measure/where": {}}, "measure.where: dictionary should have at least 1 item"),
        ({"measure/reduce": "spearman"}, "spearman needs `against: <column>`"),
        ({"measure/against": "h"}, "spearman needs `against: <column>`, and nothing else takes it"),
        ({"measure/reduce": "all"}, "reduce: all needs `test: {column, op, value}`"),
        ({"measure/test": {"column": "ratio", "op": "gt", "value": 1}}, "geomean tests no single rows"),
        ({"measure/reduce": "share", "measure/test": {"column": "mde", "op": "gt", "value": 1}}, "test.column = mde"),
        ({"measure/reduce": "min", "measure/weight": "n"}, "reduce: min takes no `weight`"),
        ({"measure/over": {"arm": "x"}}, "`over` stays out: each row is a pair"),
        (OVER | {"measure/where": {"arm": "x"}, "measure/column": "max_rel_err"}, "`over` compares measured values"),
        ({"measure/difference": True}, "difference needs `over`"),
        ({"measure/table": "measurements", "measure/where": {"arm": "x"}, "measure/column": "value",
          "measure/reduce": "ratio_of_sums"}, "ratio_of_sums needs pairs"),
        ({"measure/per_case": "mean"}, "measure.per_case"),
        ({"comparator": "trend"}, "trend needs `measure.test: {op, value}` without a column"),
        ({"locator/value": ...}, "locator.value is missing"),
        ({"measure/test": {"op": "gt", "value": 1}}, "belongs to comparator trend, not to at_least"),
        ({"comparator": "equals", "tolerance": 0.1}, "equals takes no tolerance"),
        ({"tolerance": 1.5}, "tolerance: input should be less than 1, unlike 1.5"),
        ({"trend": {"at_most": 1}}, "at_least takes no such trend"),
        ({"comparator": "within", "trend": {"at_least": 1}}, "within takes no such trend"),
        ({"trend": {}}, "a trend has either at_least or at_most"),
        ({"locator/unit": "s"}, "locator.unit = s: an absolute quantity means something on the published hardware"),
        ({"id": "resnet.fast"}, "id: string should match pattern"),
        ({"origin": "blog"}, "origin: input should be 'paper', 'artifact' or 'ours'"),
        ({"statment": "x"}, "statment: there is no such key"),
        ({"statement": ...}, "statement: it is missing"),
        ({"needs/preset": "fast"}, "needs.preset: input should be 'smoke'"),
        ({"locator/paper": PAPER}, "locator.value = 2.0: cusnn.csv says 0.0158365: write that number"),
        ({"locator/paper": {"row": {"model": "densenet169"}}}, "locator.paper: 9 rows of cusnn.csv are"),
        ({"locator/paper": {"row": {"network": "densenet169"}}}, "cusnn.csv has no column network: use one of system"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_sentence(tmp_path, changes, sentence):
    (line,) = refused(tmp_path, changed(changes))
    assert line.startswith("claims.yaml: ")
    assert sentence in line
    assert "Value error" not in line


def test_every_claim_that_is_wrong_has_its_line(tmp_path):
    lines = refused(tmp_path, changed({"origin": "blog"}), GOOD, changed({"tolerance": 2, "id": "cusnn.other"}), 7)
    assert [re.match(r"claims\.yaml: ([\w.]+(?: \d)?)", line)[1] for line in lines] == [
        "cusnn.made_up", "cusnn.other", "claim 4",
    ]  # fmt: skip


def test_an_id_stands_once(tmp_path):
    assert refused(tmp_path, GOOD, GOOD) == ["claims.yaml: cusnn.made_up: two claims have this id: rename one"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a: [", "this is not YAML"), ("", "it must hold a list of claims"), ("{a: 1}", "it must hold a list of claims")],
)
def test_a_file_that_is_no_list_of_claims(tmp_path, text, sentence):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ClaimError, match=sentence) as problem:
        load(tmp_path / "claims.yaml")
    assert "\n" not in str(problem.value)


def test_files_that_are_missing_are_named(tmp_path):
    with pytest.raises(ClaimError, match=r"claims\.yaml: there is no such file"):
        load(tmp_path / "claims.yaml")
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump([changed({"locator/paper": PAPER})]))
    with pytest.raises(ClaimError, match=r"there is no file cusnn\.csv"):
        load(tmp_path / "claims.yaml", tmp_path)


def test_a_published_value_is_the_files_own_number(tmp_path):
    over = PAPER | {"over": {**PAPER["row"], "variant": "cuSNN"}}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump([changed({"locator/paper": over, "locator/value": 1.262})]))
    (made,) = load(tmp_path / "claims.yaml", PAPER_FOLDER)
    assert made.locator.value == pytest.approx(0.0158365 / 0.0125457, rel=1e-12)


def test_the_command_follows_from_what_is_needed():
    assert command(claim(needs={})) == "snakemake --cores all -- claims"
    assert command(claim(needs={"device_kind": "cuda"})) == "snakemake --workflow-profile gpu -- claims"
    headline = claim(needs={"device_kind": "cuda", "preset": "headline"})
    assert command(headline) == "snakemake --workflow-profile gpu --config preset=headline -- claims"
