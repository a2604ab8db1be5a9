"""Claims as text."""

from claim_rows import EMPTY, campaign, claim

from frugal import claims
from frugal.claims.words import interval, said


def test_the_verdicts_as_a_person_reads_them():
    made = [
        claim(id="cusnn.good"),
        claim(id="cusnn.bad", locator={"value": 9.0}),
        claim(id="cusnn.ours.good", origin="ours"),
        claim(id="cusnn.ours.far", origin="ours", locator={"value": 9.0}),
        claim(id="folded.one", measure={"where": {"system": "folded"}}),
        claim(id="folded.two", measure={"where": {"system": "folded"}}),
    ]
    here = campaign({"a": [3.0, 3.1, 3.2]})
    text = claims.verdict_table(claims.evaluate(made, here, {"a100": here}))
    mine, other = text.split("\n\n")
    lines = [line.strip() for line in mine.split("\n")]
    assert lines[0] == "this machine (nvidia-h200-9.0-132sm)"
    assert lines[1] == "reproduced      cusnn.good       3.1 [2.86, 3.36] (at least 2)"
    assert [line.split("  ")[0] for line in lines[1:5]] == ["reproduced", "not reproduced", "met", "not met"]
    assert lines[5] == "not run, frugal does not measure folded yet: folded.one, folded.two"
    assert lines[6] == "published claims: 1 reproduced, 1 not reproduced, 2 not run; goals of ours: 1 met, 1 not met"
    # A recorded campaign says what it measured; what it did not is counted and needs no line.
    assert other.startswith("recorded on nvidia-h200-9.0-132sm (a100)")
    assert "does not measure" not in other


def test_nothing_measured_is_said():
    assert claims.verdict_table(claims.evaluate([claim()], EMPTY)).startswith("this machine (nothing measured)")


def test_a_goal_is_met_and_reproduces_nothing():
    assert [said(verdict, "ours") for verdict in claims.VERDICTS] == [
        "met", "partly met", "not met", "not run", "not comparable",
    ]  # fmt: skip
    assert said("not_reproduced", "paper") == "not reproduced"


def test_intervals_in_short():
    assert interval(5.5878, 5.3071, 5.8835) == "5.59 [5.31, 5.88]"
    assert interval(20480.0, 20480.0, 20480.0) == "20,480"
    assert interval(3e-7, None, None) == "3e-07"
    assert interval(None, None, None) == "—"


def test_the_definitions_of_a_system_name_its_claims_and_no_others():
    rows = claims.definitions(claims.load(), "dtr")
    assert len(rows) == sum(claim.system == "dtr" for claim in claims.load())
    assert all(row[0].startswith("`dtr.") for row in rows)
    (row,) = [row for row in rows if "slowdown.treelstm" in row[0]]
    assert row[3] == "at most 2.087, +10%"
    assert row[5] == "cuda, quick"
