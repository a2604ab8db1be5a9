"""Comparisons against a plain pandas computation of the same ratios, and every reason why no verdict is given."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_rows import a_row, a_run
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from frugal import records
from frugal.compare import compare
from frugal.records import RecordError, table_of

ROUNDS = 2


class Campaign:
    """Rows and samples of several sessions, as the three tables that compare takes."""

    def __init__(self):
        self.runs, self.rows, self.samples = [], [], []

    def run(self, session, **given):
        run = a_run(**{"run_id": f"01R{session}", "session": session, **given})
        self.runs.append(run)
        return run

    def row(self, run, rounds, sm_hz=None, **given):
        """A row and its samples: a list of values for each round, all at one clock."""
        row = a_row(run_id=run.run_id, session=run.session, **given)
        self.rows.append(row)
        self.samples += [
            {"run_id": run.run_id, **row.key._asdict(), "session": run.session, "round": number, "position": 0,
             "block": number, "index": index, "start_ns": index, "value": value, "sm_hz": sm_hz, "flag": "ok"}
            for number, values in enumerate(rounds)
            for index, value in enumerate(values)
        ]  # fmt: skip
        return row

    def tables(self):
        return (
            table_of("measurements", self.rows),
            pa.Table.from_pylist(self.samples, schema=records.SCHEMAS["samples"]),
            table_of("runs", self.runs),
        )

    def compare(self, **given):
        return compare(*self.tables(), **given).to_pylist()


def two_arms(ours, theirs, change=lambda run, arm: {}, clocks=(None, None), run=lambda session: {}, **given):
    """Sessions of [round] values: our arm and a baseline, one comparison."""
    campaign = Campaign()
    for session, (mine, base) in enumerate(zip(ours, theirs, strict=True)):
        this = campaign.run(session, **run(session))
        for arm, role, rounds, clock in (("sparse", "ours", mine, clocks[0]), ("cudnn", "baseline", base, clocks[1])):
            # six samples a block around its value, so that its median is that value and clocks have their polls
            values = [[x * f for f in (0.5, 0.9, 1.0, 1.0, 1.1, 9.0)] for x in rounds]
            campaign.row(this, values, clock, arm=arm, role=role, **given, **change(session, arm))
    return campaign


SESSIONS = [[1.0, 1.001], [1.002, 1.0], [0.999, 1.0], [1.001, 1.001]]
FASTER = [[x / 1.5 for x in rounds] for rounds in SESSIONS[::-1]]


# --- against an independent computation


def random_campaign(seed, sessions=4, cases=3):
    rng = np.random.default_rng(seed)
    campaign = Campaign()
    arms = [("ours_a", "ours"), ("ours_b", "ours"), ("base_a", "baseline"), ("base_b", "baseline"), ("null", "control")]
    for session in range(sessions):
        run = campaign.run(session)
        for case in range(cases):
            for regime, l2 in (("cold", None), ("graph", "resident"), ("graph", "rotated")):
                for arm, role in arms:
                    if rng.random() < 0.1:
                        continue  # an arm may be missing in a session
                    blocks = [rng.lognormal(0, 0.3, rng.integers(1, 12)).tolist() for _ in range(ROUNDS)]
                    campaign.row(run, blocks, arm=arm, role=role, case_id=f"{case:016x}", regime=regime, l2=l2)
    for sample in campaign.samples[:: rng.integers(5, 9)]:
        sample["flag"] = "excluded"
    return campaign


def plainly(campaign):
    """The same comparisons by pandas and the formulas of the method."""
    names = ["run_id", "case_id", "arm", "regime", "l2", "metric"]
    samples = pd.DataFrame(campaign.samples)
    samples = samples[samples.flag != "excluded"].fillna({"l2": "-"})
    block = samples.groupby([*names, "round"])["value"].median().map(math.log)
    roles = {row.arm: row.role for row in campaign.rows}
    rows = []
    for (case, regime, l2, metric), group in block.groupby(["case_id", "regime", "l2", "metric"]):
        wide = group.unstack("arm")
        arms = {row.arm for row in campaign.rows if (row.case_id, row.regime, row.l2 or "-") == (case, regime, l2)}
        means = wide.groupby("run_id").mean().mean()
        best = means[[arm for arm in means.index if roles[arm] == "baseline"]].idxmin()
        for ours in sorted(arm for arm in arms if roles[arm] == "ours"):
            for base in sorted(arm for arm in arms if roles[arm] == "baseline"):
                ratios = (wide[base] - wide[ours]).dropna()
                v = ratios.groupby("run_id").mean()
                half = student.ppf(0.975, len(v) - 1) * v.std() / math.sqrt(len(v))
                rows.append(
                    {
                        "case_id": case, "regime": regime, "l2": l2, "metric": metric, "candidate": ours,
                        "baseline": base, "n_sessions": len(v), "n_rounds": len(ratios),
                        "ratio": math.exp(v.mean()), "ratio_low": math.exp(v.mean() - half),
                        "ratio_high": math.exp(v.mean() + half),
                        "p_raw": 2 * student.sf(abs(v.mean()) / (v.std() / math.sqrt(len(v))), len(v) - 1),
                        "sd_session": v.std(), "best_baseline": base == best,
                        "family": f"layers/{base}/{regime}",
                    }
                )  # fmt: skip
    frame = pd.DataFrame(rows)
    frame["p_holm"] = frame.groupby("family")["p_raw"].transform(lambda p: multipletests(p, method="holm")[1])
    return frame


@pytest.mark.parametrize("seed", range(5))
def test_ratios_intervals_and_holm_against_pandas(seed):
    campaign = random_campaign(seed)
    expected = plainly(campaign)
    found = pd.DataFrame(campaign.compare()).fillna({"l2": "-"})
    key = ["case_id", "regime", "l2", "metric", "candidate", "baseline"]
    found, expected = (frame.sort_values(key).reset_index(drop=True) for frame in (found, expected))
    assert len(found) == len(expected) == 3 * 3 * 4
    exact = [*key, "n_sessions", "n_rounds", "family", "best_baseline"]
    pd.testing.assert_frame_equal(found[exact], expected[exact], check_dtype=False)
    close = ["ratio", "ratio_low", "ratio_high", "p_raw", "p_holm", "sd_session"]
    # the two sum in another order: about 1e-15 in the logarithms, more in p values of the far tail
    pd.testing.assert_frame_equal(found[close], expected[close], rtol=1e-9)
    assert set(found["device_key"]) == {"nvidia-h200-9.0-132sm"}


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 100), st.floats(min_value=1e-6, max_value=1e3), st.randoms(use_true_random=False))
def test_order_of_rows_and_scale_of_time_change_nothing(seed, factor, rng):
    campaign = random_campaign(seed, sessions=3, cases=1)
    before = campaign.compare()
    rng.shuffle(campaign.rows)
    rng.shuffle(campaign.samples)
    for sample in campaign.samples:
        sample["value"] *= factor
    after = campaign.compare()
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        for name, value in one.items():
            # A time is rounded once when scaled, which p values of the far tail and small spreads magnify.
            assert other[name] == (pytest.approx(value, rel=1e-8, abs=1e-12) if isinstance(value, float) else value)


def test_swapping_the_roles_inverts_the_ratio_and_the_verdict():
    (one,) = two_arms(FASTER, SESSIONS).compare()
    (other,) = two_arms(SESSIONS, FASTER).compare()
    assert (one["verdict"], other["verdict"]) == ("FASTER", "SLOWER")
    assert one["ratio"] * other["ratio"] == pytest.approx(1, rel=1e-12)
    assert one["ratio_low"] * other["ratio_high"] == pytest.approx(1, rel=1e-12)


# --- sessions


def test_one_session_gives_the_range_of_its_rounds_and_no_verdict():
    (row,) = two_arms([[1.0, 2.0]], [[3.0, 3.0]]).compare()
    assert (row["ratio_low"], row["ratio_high"]) == pytest.approx((1.5, 3.0))
    assert row["ratio"] == pytest.approx(math.sqrt(1.5 * 3.0))
    assert (row["ci_method"], row["conditional"], row["verdict"], row["reason_code"]) == (
        "range_of_rounds", True, None, "few_sessions",
    )  # fmt: skip
    assert (row["n_sessions"], row["n_rounds"], row["p_raw"], row["p_holm"], row["mde"]) == (1, 2, None, None, None)


def test_a_pair_that_never_met_keeps_its_row():
    campaign = Campaign()
    run = campaign.run(0)
    campaign.row(run, [[1.0], [1.0]], arm="sparse", role="ours")
    campaign.row(run, [], arm="cudnn", role="baseline", status="oom", value=None)
    (row,) = campaign.compare()
    assert (row["ratio"], row["ratio_low"], row["n_sessions"], row["ci_method"]) == (None, None, 0, "none")
    assert (row["verdict"], row["reason_code"], row["best_baseline"]) == (None, "few_sessions", False)


def test_a_round_that_one_arm_lacks_is_no_pair():
    (row,) = two_arms([[1.0, 1.0], [1.0]], [[2.0, 4.0], [2.0, 9.0]]).compare()
    assert (row["n_sessions"], row["n_rounds"]) == (2, 3)
    assert row["ratio"] == pytest.approx(math.exp((math.log(2 * 4) / 2 + math.log(2)) / 2))


def test_sessions_are_processes_not_indices():
    # Two jobs of session 0 measured one arm each: their blocks never stood side by side.
    campaign = Campaign()
    campaign.row(campaign.run(0, run_id="01A"), [[1.0]], arm="sparse", role="ours")
    campaign.row(campaign.run(0, run_id="01B"), [[2.0]], arm="cudnn", role="baseline")
    (row,) = campaign.compare()
    assert (row["n_sessions"], row["ratio"]) == (0, None)


def test_devices_regimes_and_l2_are_kept_apart():
    campaign = Campaign()
    for number, key in enumerate(("cpu-some-2c", "nvidia-h200-9.0-132sm")):
        run = campaign.run(number, device_key=key)
        for regime, l2 in (("graph", "resident"), ("graph", "rotated"), ("wall", None)):
            value = 1.0 + number
            campaign.row(run, [[value]], arm="sparse", role="ours", regime=regime, l2=l2)
            campaign.row(run, [[value * 2]], arm="cudnn", role="baseline", regime=regime, l2=l2)
    found = campaign.compare()
    assert [(r["device_key"][:3], r["regime"], r["l2"]) for r in found] == [
        (device, regime, l2)
        for device in ("cpu", "nvi")
        for regime, l2 in (("graph", "resident"), ("graph", "rotated"), ("wall", None))
    ]
    assert {r["n_sessions"] for r in found} == {1}
    assert [r["ratio"] for r in found] == pytest.approx([2.0] * 6)


def test_the_same_family_on_another_device_does_not_correct_this_one():
    rng = np.random.default_rng(1)
    campaign = Campaign()
    for number, key in enumerate(("cpu-some-2c",) * 3 + ("nvidia-h200-9.0-132sm",) * 3):
        run = campaign.run(number, device_key=key)
        for arm, role in (("sparse", "ours"), ("cudnn", "baseline")):
            campaign.row(run, [[rng.lognormal(0, 0.1)]], arm=arm, role=role)
    assert all(row["p_holm"] == row["p_raw"] for row in campaign.compare())


# --- metrics without samples


def values(metric, ours, theirs, higher_is_better):
    campaign = Campaign()
    for session, (mine, base) in enumerate(zip(ours, theirs, strict=True)):
        run = campaign.run(session)
        for arm, role, value in (("sparse", "ours", mine), ("dense", "baseline", base)):
            campaign.row(
                run, [], arm=arm, role=role, metric=metric, regime=None, l2=None, value=value,
                higher_is_better=higher_is_better,
            )  # fmt: skip
    return campaign


def test_deterministic_metrics_are_exact():
    (row,) = values("flops", [50.0] * 3, [100.0] * 3, False).compare()
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == pytest.approx((2.0, 2.0, 2.0))
    assert (row["ci_method"], row["verdict"], row["family"]) == ("exact", "BETTER", "layers/dense/none")


def test_higher_is_better_inverts():
    (row,) = values("accuracy", [0.90, 0.91, 0.90], [0.60, 0.60, 0.61], True).compare()
    assert row["ratio"] == pytest.approx(1.5, rel=0.01)
    assert row["verdict"] == "BETTER"
    (worse,) = values("accuracy", [0.60, 0.60, 0.61], [0.90, 0.91, 0.90], True).compare()
    assert worse["verdict"] == "WORSE"


@pytest.mark.parametrize(("metric", "higher_is_better", "best"), [("accuracy", True, "a"), ("bytes", False, "b")])
def test_the_best_baseline_depends_on_the_direction(metric, higher_is_better, best):
    campaign = Campaign()
    run = campaign.run(0)
    for arm, role, value in (("x", "ours", 0.7), ("a", "baseline", 0.9), ("b", "baseline", 0.6)):
        campaign.row(
            run, [], arm=arm, role=role, metric=metric, regime=None, value=value, higher_is_better=higher_is_better
        )
    assert [row["baseline"] for row in campaign.compare() if row["best_baseline"]] == [best]


def test_a_value_of_zero_has_no_ratio():
    (row,) = values("sparsity", [0.0, 0.0], [0.5, 0.5], True).compare()
    assert (row["ratio"], row["n_sessions"], row["reason_code"]) == (None, 0, "few_sessions")


# --- why there is no verdict, or another one


def test_each_withheld_verdict_says_why_and_keeps_its_ratio():
    def one(**given):
        (row,) = two_arms(FASTER, SESSIONS, **given).compare()
        assert row["ratio"] is not None
        return row["verdict"], row["reason_code"]

    def in_session_2(**fault):
        return lambda session, arm: fault if (session, arm) == (2, "cudnn") else {}

    assert one() == ("FASTER", "no_clock")
    assert one(change=in_session_2(status="incorrect", value=None)) == (None, "incorrect")
    assert one(change=in_session_2(status="unstable")) == (None, "unstable")
    assert one(change=in_session_2(launch_bound=True)) == (None, "launch_bound")
    assert one(run=lambda session: {"controls_passed": session != 1}) == (None, "control_failed")


@pytest.mark.parametrize(
    ("times", "source", "verdict"),
    [
        (1.03, "counter", ("BETTER", "ci_above")),
        (1.03, "power_poll", ("SAME", "ci_inside_margin")),
        (1.0495, "power_poll", (None, "power_poll")),
        (1 / 1.0495, "power_poll", (None, "power_poll")),
        (1.2, "power_poll", ("BETTER", "ci_above")),
    ],
)
def test_power_readings_carry_no_difference_below_five_per_cent(times, source, verdict):
    ours = [[x / times for x in rounds] for rounds in SESSIONS[::-1]]
    given = {"metric": "energy_gross", "unit": "J", "energy_source": source}
    (row,) = two_arms(ours, SESSIONS, **given).compare()
    assert (row["verdict"], row["reason_code"]) == verdict
    assert row["ratio"] == pytest.approx(times, rel=2e-3)


def test_an_incorrect_session_is_not_compared():
    campaign = two_arms(
        FASTER, SESSIONS, change=lambda s, arm: {"status": "incorrect"} if (s, arm) == (1, "sparse") else {}
    )
    (row,) = campaign.compare()
    assert row["n_sessions"] == 3


def test_a_clock_that_moved_is_said_and_a_gain_in_cycles_stands():
    # 10 % faster only because the clock was 10 % higher: in cycles both are the same.
    faster = [[x / 1.1 for x in rounds] for rounds in SESSIONS[::-1]]
    (row,) = two_arms(faster, SESSIONS, clocks=(1.98e9, 1.8e9)).compare()
    assert row["ratio"] == pytest.approx(1.1, rel=0.01)
    assert row["ratio_cycles"] == pytest.approx(1.0, rel=0.01)
    assert row["ratio_cycles_low"] < 1 < row["ratio_cycles_high"]
    assert (row["verdict"], row["reason_code"]) == ("CLOCK_SHIFT", "clock_shift")
    (row,) = two_arms(FASTER, SESSIONS, clocks=(1.98e9, 1.8e9)).compare()
    assert (row["verdict"], row["reason_code"]) == ("FASTER", "ci_above")
    (row,) = two_arms(faster, SESSIONS, clocks=(1.98e9, 1.8e9)).compare(clock_shift_min=0.2)
    assert row["verdict"] == "FASTER"


def test_clocks_are_for_kernels_on_a_gpu():
    (row,) = two_arms(FASTER, SESSIONS, clocks=(1.98e9, 1.8e9), regime="wall", l2=None).compare()
    assert (row["ratio_cycles"], row["reason_code"]) == (None, "ci_above")
    (row,) = two_arms(FASTER, SESSIONS, run=lambda s: {"device_kind": "cpu", "device_key": "cpu-some-2c"}).compare()
    assert (row["ratio_cycles"], row["verdict"], row["reason_code"]) == (None, "FASTER", "ci_above")


def test_too_few_polls_are_no_clock():
    campaign = two_arms(FASTER, SESSIONS, clocks=(1.98e9, 1.8e9))
    for sample in campaign.samples:
        if sample["index"] >= 4:
            sample["sm_hz"] = None
    (row,) = campaign.compare()
    assert (row["ratio_cycles"], row["reason_code"]) == (None, "no_clock")


@pytest.mark.parametrize(
    ("preset", "layer", "margin"),
    [
        ("headline", "conv1", 0.01), ("headline", None, 0.02), ("sweep", "conv1", 0.01), ("quick", "conv1", 0.05),
        ("quick", None, 0.05), ("smoke", "conv1", 0.05),
    ],
)  # fmt: skip
def test_margins(preset, layer, margin):
    (row,) = two_arms(FASTER, SESSIONS, run=lambda session: {"preset": preset}, layer=layer).compare()
    assert row["margin"] == margin


def test_margins_are_arguments():
    close = [[x * 1.03 for x in rounds] for rounds in SESSIONS]
    (row,) = two_arms(close, SESSIONS).compare(margin_kernel=0.1)
    assert (row["verdict"], row["margin"]) == ("SAME", 0.1)
    (row,) = two_arms(close, SESSIONS, layer=None).compare(margin_end_to_end=0.001)
    assert (row["verdict"], row["margin"]) == ("SLOWER", 0.001)


def test_a_lost_run_and_empty_tables():
    measurements, samples, runs = two_arms(FASTER, SESSIONS).tables()
    with pytest.raises(RecordError, match="run_id 01R0, which runs lacks"):
        compare(measurements, samples, runs.slice(1))
    empty = compare(measurements.slice(0, 0), samples.slice(0, 0), runs)
    assert (empty.num_rows, empty.schema.equals(records.SCHEMAS["comparisons"])) == (0, True)
