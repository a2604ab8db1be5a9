"""Many comparisons at once: the chance of a single false claim in a figure stays below 5 %."""

import math

from simulated_campaigns import MATMUL, ORDINARY, at_most, draw, verdicts

FAMILIES, CASES = 200, 20
# A margin that leaves SAME no room: every verdict is a claim, or INCONCLUSIVE.
NO_MARGIN = {"margin_kernel": 1e-9}


def by_family(rows, key):
    return sum(any(key(row) for row in rows[start : start + CASES]) for start in range(0, len(rows), CASES))


def test_a_figure_of_twenty_equal_pairs_claims_falsely_in_five_percent_of_campaigns_at_most():
    found = verdicts(draw(1, ORDINARY, 5, families=FAMILIES, cases=CASES), **NO_MARGIN)
    assert {row["family"] for row in found} == {f"e{n}/cudnn/graph" for n in range(FAMILIES)}
    claimed = by_family(found, lambda row: row["verdict"] in ("FASTER", "SLOWER"))
    assert claimed <= at_most(0.05, FAMILIES)
    uncorrected = by_family(found, lambda row: row["p_raw"] < 0.05)
    assert uncorrected > at_most(0.05, FAMILIES)  # 1 - 0.95^20: 64 % of them would


def test_one_true_difference_among_nineteen_equal_pairs_is_found_and_named():
    logs = draw(2, MATMUL, 8, families=100, cases=CASES)
    logs[:, 7, ..., 1] += math.log(1.02)
    found = verdicts(logs)
    slower = [index % CASES for index, row in enumerate(found) if row["verdict"] == "SLOWER"]
    assert slower.count(7) == 100
    assert len(slower) - 100 <= at_most(0.05, 100)  # Holm bounds the chance of any other, whatever is true
