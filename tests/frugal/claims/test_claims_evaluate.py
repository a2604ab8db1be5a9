"""From tables to rows of `claims`: which sessions count, what is reduced, and each reason for having no verdict."""

import json
import math

import numpy as np
import pytest
from claim_rows import EMPTY, H200, campaign, claim, judged, pair, row, run, tables
from scipy import stats as sps

from frugal import claims, records


def t_interval(logs):
    """Student's t over sessions, on the logarithm, as a textbook has it."""
    half = sps.t.ppf(0.975, len(logs) - 1) * np.std(logs, ddof=1) / math.sqrt(len(logs))
    return math.exp(np.mean(logs) - half), math.exp(np.mean(logs) + half)


THREE = {"a": [2.0, 2.2, 2.4], "b": [4.0, 4.2, 3.8], "c": [8.0, 8.8, 8.4]}


# ---- values and intervals --------------------------------------------------------------------------------------------


def test_a_geometric_mean_is_formed_in_each_session_and_its_interval_is_over_sessions():
    found = judged(claim(), campaign(THREE))
    sessions = [np.mean([math.log(THREE[case][k]) for case in THREE]) for k in range(3)]
    assert found["measured"] == pytest.approx(math.exp(np.mean(sessions)), rel=1e-12)
    assert (found["low"], found["high"]) == pytest.approx(t_interval(sessions), rel=1e-12)
    assert (found["n_rows"], found["n_sessions"], found["ci_method"]) == (3, 3, "t_sessions")
    assert found["verdict"] == "reproduced"


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [("mean_of_ratios_paper", np.mean), ("mean_abs", np.mean), ("median", np.median), ("min", np.min), ("max", np.max)],
)
def test_other_reductions_of_ratios(reduce, expected):
    found = judged(claim(measure={"reduce": reduce}), campaign(THREE))
    sessions = [math.log(expected([THREE[case][k] for case in THREE])) for k in range(3)]
    assert found["measured"] == pytest.approx(math.exp(np.mean(sessions)), rel=1e-12)
    assert (found["low"], found["high"]) == pytest.approx(t_interval(sessions), rel=1e-12)


def test_a_ratio_of_sums_weighs_slow_cases_more_than_a_geometric_mean():
    runs = [run(0), run(1)]
    rows = [row(one, "short", arm, value) for one in runs for arm, value in (("sparse", 1.0), ("dense", 4.0))]
    rows += [row(one, "long", arm, value) for one in runs for arm, value in (("sparse", 10.0), ("dense", 10.0))]
    here = tables(runs, rows, [pair("short"), pair("long")])
    assert judged(claim(measure={"reduce": "ratio_of_sums"}), here)["measured"] == pytest.approx(14 / 11)
    assert judged(claim(), here)["measured"] == pytest.approx(2.0)


def test_a_weight_counts_a_row_as_often_as_its_axis_says_and_once_without_it():
    runs = [run(0), run(1)]
    rows = []
    for one in runs:
        for case, ratio, axes in (("a", 2.0, {"layers_of_shape": 3}), ("b", 32.0, {})):
            rows += [row(one, case, "sparse", 1.0, axes=axes), row(one, case, "dense", ratio, axes=axes)]
    here = tables(runs, rows, [pair("a"), pair("b")])
    found = judged(claim(measure={"weight": "axes.layers_of_shape"}), here)
    assert found["measured"] == pytest.approx((2.0**3 * 32.0) ** (1 / 4))


def test_a_rank_correlation_is_taken_over_cases_in_each_session():
    ratios = {"a": [1.0, 1.1], "b": [2.0, 2.1], "c": [3.0, 1.5]}
    runs = [run(0), run(1)]
    rows = [
        row(one, case, arm, value if arm == "dense" else 1.0, h=h)
        for (case, values), h in zip(ratios.items(), (56, 28, 14), strict=True)
        for one, value in zip(runs, values, strict=True)
        for arm in ("sparse", "dense")
    ]
    made = claim(
        comparator="trend", locator={"value": None},
        measure={"reduce": "spearman", "against": "h", "test": {"op": "lt", "value": 0}},
    )  # fmt: skip
    found = judged(made, tables(runs, rows, [pair(case) for case in ratios]))
    # Ranks by falling size: session 0 in order (-1), session 1 with the last two exchanged (-0.5).
    assert found["measured"] == pytest.approx(-0.75)
    assert found["low"] == -1.0
    assert found["expected"] == 0


def test_count_share_and_all_test_each_row():
    def value(**measure):
        return judged(claim(measure=measure), campaign(THREE))["measured"]

    test = {"column": "ratio", "op": "ge", "value": 4.0}
    assert value(reduce="count") == 3
    assert value(reduce="count", test=test) == pytest.approx((2 + 2 + 1) / 3)
    assert value(reduce="share", test=test) == pytest.approx((2 + 2 + 1) / 9)
    assert value(reduce="all", test=test) == 0
    assert value(reduce="all", test=test | {"value": 2.0}) == 1
    # One failure in one session is enough.
    assert value(reduce="all", test=test | {"value": 2.1}) == 0


def test_of_several_baselines_of_a_case_the_best_over_all_sessions_stands_in_each():
    runs = [run(0), run(1), run(2)]
    first, second = [3.0, 3.0, 3.0], [2.0, 2.0, 4.0]  # geometric means 3 and 2.52: the second, also in session 2
    rows = []
    for one, a, b in zip(runs, first, second, strict=True):
        rows += [row(one, "a", "sparse", 1.0), row(one, "a", "nchw", a), row(one, "a", "nhwc", b)]
    here = tables(runs, rows, [pair("a", "nchw"), pair("a", "nhwc")])
    measure = {"where": {"baseline": ["nchw", "nhwc"]}, "per_case": "min", "reduce": "only"}
    assert judged(claim(measure=measure), here)["measured"] == pytest.approx(16 ** (1 / 3))
    assert judged(claim(measure=measure | {"per_case": "max"}), here)["measured"] == pytest.approx(3.0)


def test_the_best_baseline_is_found_among_those_that_have_values():
    runs = [run(0), run(1)]
    rows = []
    for one in runs:
        rows += [row(one, "a", "sparse", 1.0), row(one, "a", "nchw", 3.0)]
        rows.append(row(one, "a", "nhwc", None, status="unsupported", reason="no such layout"))
    here = tables(runs, rows, [pair("a", "nchw"), pair("a", "nhwc")])
    measure = {"where": {"baseline": ["nchw", "nhwc"]}, "per_case": "min", "reduce": "only"}
    assert judged(claim(measure=measure), here)["measured"] == pytest.approx(3.0)


def test_higher_is_better_turns_the_ratio_over():
    runs = [run(0), run(1)]
    given = {"metric": "throughput", "higher_is_better": True}
    rows = [row(one, "a", arm, value, **given) for one in runs for arm, value in (("sparse", 30.0), ("dense", 10.0))]
    here = tables(runs, rows, [pair("a", metric="throughput")])
    assert judged(claim(measure={"reduce": "only"}), here)["measured"] == pytest.approx(3.0)
    assert judged(claim(measure={"reduce": "ratio_of_sums"}), here)["measured"] == pytest.approx(3.0)


def over(**given):
    measure = {"table": "measurements", "where": {"arm": "sparse"}, "over": {"arm": "dense"}, "column": "value"}
    return claim(measure=measure | given)


def test_rows_over_other_rows_are_the_ratio_that_a_comparison_would_be():
    here = campaign(THREE)
    as_pairs, as_rows = judged(claim(), here), judged(over(), tables_without_pairs(here))
    assert [as_rows[name] for name in ("measured", "low", "high")] == pytest.approx(
        [as_pairs[name] for name in ("measured", "low", "high")]
    )


def tables_without_pairs(here):
    return claims.Tables(here.runs, here.measurements, here.comparisons.slice(0, 0))


def test_rows_may_be_set_over_another_metric_of_their_own_arm():
    runs = [run(0), run(1)]
    rows = [
        row(one, case, "planned", value, metric=metric, regime=None, l2=None)
        for one in runs
        for case, measured in (("a", 4.0), ("b", 5.0))
        for metric, value in (("peak_total", measured), ("peak_predicted", 6.0))
    ]
    found = judged(
        over(where={"metric": "peak_total"}, over={"metric": "peak_predicted"}, reduce="min"), tables(runs, rows)
    )
    assert found["measured"] == pytest.approx(6 / 5)


def test_text_that_ends_in_a_star_stands_for_all_that_begin_so():
    runs = [run(0), run(1)]
    rows = [
        row(one, case, arm, value)
        for one in runs
        for case, ours in (("a", "planned@budget_mib=64"), ("b", "planned@budget_mib=128"))
        for arm, value in ((ours, 2.0), ("planner", 7.0), ("dense", 6.0))
    ]
    found = judged(over(where={"arm": "planned@*"}, reduce="geomean"), tables(runs, rows))
    assert (found["measured"], found["n_rows"]) == (pytest.approx(3.0), 2)
    found = judged(over(where={"arm": "dense"}, over={"arm": "planned@*"}, reduce="geomean"), tables(runs, rows))
    assert found["measured"] == pytest.approx(1 / 3)


def test_a_difference_is_our_value_less_theirs():
    runs = [run(0), run(1)]
    given = {"metric": "accuracy", "higher_is_better": True}
    rows = [row(one, "a", "sparse", value, **given) for one, value in zip(runs, (0.78, 0.77), strict=True)]
    rows += [row(one, "a", "dense", 0.79, **given) for one in runs]
    found = judged(over(difference=True, reduce="only"), tables(runs, rows))
    assert found["measured"] == pytest.approx(-0.015)
    half = sps.t.ppf(0.975, 1) * np.std([-0.01, -0.02], ddof=1) / math.sqrt(2)
    assert (found["low"], found["high"]) == pytest.approx((-0.015 - half, -0.015 + half))


def test_further_values_stand_beside_and_change_no_verdict():
    made = claim(measure={"beside": [{"name": "least", "reduce": "min"}, {"name": "greatest", "reduce": "max"}]})
    found, alone = judged(made, campaign(THREE)), judged(claim(), campaign(THREE))
    beside = json.loads(found["beside_json"])
    assert [entry["name"] for entry in beside] == ["least", "greatest"]
    assert beside[0]["value"] == pytest.approx((2.0 * 2.2 * 2.4) ** (1 / 3))
    assert (found["verdict"], found["measured"]) == (alone["verdict"], alone["measured"])


def test_conditions_select_by_value_list_range_and_none():
    runs = [run(0), run(1)]
    rows = [
        row(one, case, arm, ratio if arm == "dense" else 1.0, h=h, layer=layer, axes={"weights": weights})
        for one in runs
        for case, ratio, h, layer, weights in (
            ("a", 2.0, 56, "one", "trained"), ("b", 3.0, 28, "two", "random"), ("c", 5.0, 14, None, "trained"),
        )
        for arm in ("sparse", "dense")
    ]  # fmt: skip
    here = tables(runs, rows, [pair(case) for case in "abc"])

    def value(**where):
        found = judged(claim(measure={"reduce": "geomean", "where": where}), here)
        return found["measured"] and round(found["measured"], 9)

    assert value(h=28) == 3
    assert value(h={"ge": 28, "le": 28}) == 3
    assert value(h={"le": 20}) == 5
    assert value(h=[14, 28]) == pytest.approx(math.sqrt(15))
    assert value(layer=None) == 5
    assert value(**{"axes.weights": "random"}) == 3
    assert value(**{"axes.no_such_axis": 1}) is None


# ---- sessions --------------------------------------------------------------------------------------------------------


def test_a_session_without_all_rows_is_left_out_and_counted():
    found = judged(claim(), campaign({"a": [2.0, 2.2, None], "b": [4.0, 4.4, 4.2]}))
    assert found["measured"] == pytest.approx(math.exp(np.mean(np.log([2.0, 2.2, 4.0, 4.4]))))
    assert found["n_sessions"] == 2
    assert "session 2 left out" in found["reason"]
    assert "1 timeout (too slow)" in found["reason"]


def test_a_deterministic_claim_stands_on_one_session_and_another_does_not():
    here = campaign({"a": [2.0]}, run_changes={"preset": "smoke"})
    found = judged(claim(needs={}), here)
    assert (found["verdict"], found["low"], found["high"]) == ("reproduced", found["measured"], found["measured"])
    assert found["ci_method"] == "exact"
    noisy = judged(claim(needs={"preset": "smoke"}), here)
    assert (noisy["verdict"], noisy["low"], noisy["ci_method"]) == ("not_comparable", None, "none")


def test_sessions_that_do_not_differ_are_exact():
    found = judged(claim(), campaign({"a": [2.5, 2.5, 2.5]}))
    assert (found["low"], found["high"], found["ci_method"]) == (2.5, 2.5, "exact")


# ---- no verdict ------------------------------------------------------------------------------------------------------


def not_run(made, here, *words):
    found = judged(made, here)
    assert found["verdict"] == "not_run"
    assert found["measured"] is None
    for word in words:
        assert word in found["reason"]
    return found


def test_nothing_measured_at_all_is_a_row_without_a_device():
    found = not_run(claim(), EMPTY, "snakemake --cores all --config preset=quick -- claims")
    assert (found["device_key"], found["preset"], found["n_rows"]) == (None, None, 0)


def test_no_row_says_what_to_type():
    other = claim(measure={"where": {"network": "vgg16"}}, needs={"device_kind": "cuda", "preset": "quick"})
    not_run(other, campaign(THREE), "snakemake --workflow-profile gpu --config preset=quick -- claims")
    not_run(claim(measure={"where": {"network": "vgg16"}}, command="make sense"), campaign(THREE), "type `make sense`")


def test_a_system_or_a_part_of_one_that_is_not_measured_yet_says_so():
    not_run(claim(id="syno.made_up"), EMPTY, "frugal does not measure syno yet")
    pending = claim(measure={"where": {"network": "vgg16"}}, pending="frugal does not time whole networks yet")
    assert not_run(pending, campaign(THREE))["reason"] == "frugal does not time whole networks yet"
    assert judged(claim(pending="not yet"), campaign(THREE))["verdict"] == "reproduced"


def test_a_device_of_another_kind_without_rows_is_told_where_to_go():
    here = campaign(THREE, "cpu-made-up-2c", {"device_kind": "cpu", "gpu_name": None, "cpu_model": "Made Up 1"})
    made = claim(measure={"where": {"baseline": "cudnn_fp32"}}, needs={"device_kind": "cuda", "preset": "quick"})
    not_run(made, here, "needs a cuda device", "Made Up 1", "--workflow-profile gpu")


@pytest.mark.parametrize(
    ("ratios", "why"), [(THREE, "preset quick is below headline"), ({"a": [None, None]}, "2 timeout (too slow)")]
)
def test_a_device_of_another_kind_with_rows_is_told_that_first(ratios, why):
    here = campaign(ratios, "cpu-made-up-2c", {"device_kind": "cpu", "gpu_name": None, "cpu_model": "Made Up 1"})
    found = not_run(claim(needs={"device_kind": "cuda", "preset": "headline"}), here, why, "preset=headline")
    assert found["reason"].startswith("it needs a cuda device, unlike Made Up 1; ")


def test_only_with_more_than_one_row_says_how_many():
    not_run(claim(measure={"reduce": "only"}), campaign(THREE), "3 rows are selected")


def test_a_wrong_result_in_any_session_withholds_the_claim():
    here = campaign({"a": [2.0, 2.1, 2.2]})
    broken = here.measurements.to_pylist()
    broken[0] |= {"status": "incorrect", "reason": "off by one", "value": None}
    not_run(claim(), tables(here.runs.to_pylist(), broken, [pair("a")]), "wrong results: 1 incorrect (off by one)")


def test_values_in_no_session_name_the_statuses():
    not_run(claim(), campaign({"a": [2.0, 2.0], "b": [None, None]}), "all 2 rows", "2 timeout (too slow)")


def test_values_that_are_unstable_in_every_session_want_more_of_them():
    here = campaign({"a": [2.0, 2.1]})
    rows = [r | {"status": "unstable", "reason": "spread"} if r["arm"] == "sparse" else r
            for r in here.measurements.to_pylist()]  # fmt: skip
    shaky = tables(here.runs.to_pylist(), rows, [pair("a")])
    not_run(claim(), shaky, "2 unstable (spread); raise timing.sessions, and type `snakemake")
    assert "timing.sessions" not in not_run(claim(), campaign({"a": [None, None]}))["reason"]


def test_a_baseline_that_is_missing_in_a_session_is_no_value():
    here = campaign({"a": [2.0, 2.1, 2.2]})
    rows = [r for r in here.measurements.to_pylist() if (r["arm"], r["session"]) != ("dense", 1)]
    found = judged(claim(), tables(here.runs.to_pylist(), rows, [pair("a")]))
    assert found["n_sessions"] == 2
    assert "1 missing" in found["reason"]


def test_an_unstable_row_has_a_value_and_no_say():
    here = campaign({"a": [2.0, 2.1, 2.2]})
    rows = here.measurements.to_pylist()
    rows[1] |= {"status": "unstable", "reason": "spread"}
    found = judged(claim(), tables(here.runs.to_pylist(), rows, [pair("a")]))
    assert found["n_sessions"] == 2
    assert "1 unstable (spread)" in found["reason"]


def test_a_preset_below_the_one_that_is_needed_says_which():
    not_run(claim(needs={"preset": "headline"}), campaign(THREE), "preset quick is below headline", "preset=headline")
    assert judged(claim(needs={"preset": "smoke"}), campaign(THREE))["verdict"] == "reproduced"
    cpu = claim(needs={"preset": "headline", "device_kind": "cpu"})
    not_run(cpu, campaign(THREE), "below headline, which it needs on a cpu device")


def test_a_mean_of_logarithms_of_zero_is_a_fault_of_the_query():
    rows = [row(run(session), "a", "sparse", value) for session, value in enumerate((0.0, 1.0))]
    measure = {"table": "measurements", "where": {"arm": "sparse"}, "column": "value"}
    not_run(claim(measure=measure), tables([run(0), run(1)], rows), "geomean of 0", "mend the claim's query")


def test_rows_that_are_compared_with_several_others_are_a_fault_of_the_query():
    not_run(over(over={"arm": ["dense", "sparse"]}), campaign(THREE), "`over` selects more than one row", "mend")


def test_a_rank_correlation_with_one_size_is_a_fault_of_the_query():
    made = claim(
        comparator="trend", locator={"value": None},
        measure={"reduce": "spearman", "against": "h", "test": {"op": "lt", "value": 0}},
    )  # fmt: skip
    not_run(made, campaign(THREE, h=14), "two different values of h", "mend")


def not_comparable(made, here, *words):
    found = judged(made, here)
    assert found["verdict"] == "not_comparable"
    assert found["measured"] is not None
    for word in words:
        assert word in found["reason"]


def test_failed_controls_name_their_sessions():
    here = campaign(THREE)
    runs = here.runs.to_pylist()
    runs[1] |= {"controls_passed": False}
    red = tables(runs, here.measurements.to_pylist(), [pair(case) for case in THREE])
    not_comparable(claim(), red, "failed controls in session 1")


def test_times_of_launches_are_no_times_of_kernels():
    not_comparable(claim(), campaign(THREE, launch_bound=True), "launch_bound")


def test_another_kind_of_device_or_another_device_is_shown_and_not_judged():
    cpu = campaign(THREE, "cpu-made-up-2c", {"device_kind": "cpu", "gpu_name": None, "cpu_model": "Made Up 1"})
    not_comparable(claim(needs={"device_kind": "cuda", "preset": "quick"}), cpu, "Made Up 1 is a cpu device, not cuda")
    not_comparable(claim(needs={"preset": "quick", "hardware": "A100"}), campaign(THREE), "A100 only", "NVIDIA H200")
    assert judged(claim(needs={"preset": "quick", "hardware": "h200"}), campaign(THREE))["verdict"] == "reproduced"


def test_what_is_shown_only_is_never_judged():
    not_comparable(claim(shown_only="another baseline"), campaign(THREE), "another baseline")


# ---- campaigns -------------------------------------------------------------------------------------------------------


def test_campaigns_are_kept_apart_also_on_the_same_model_of_device():
    here, there = campaign({"a": [3.0, 3.0]}), campaign({"a": [1.0, 1.0]})
    found = claims.evaluate([claim(measure={"reduce": "max"})], here, {"nvidia-h200": there}).to_pylist()
    assert [(r["recorded"], r["device_key"], r["measured"], r["verdict"]) for r in found] == [
        (None, H200, 3.0, "reproduced"),
        ("nvidia-h200", H200, 1.0, "not_reproduced"),
    ]


def test_two_devices_of_one_campaign_have_a_row_each():
    gpu = campaign({"a": [3.0, 3.0]})
    cpu = campaign({"a": [2.5, 2.5]}, "cpu-made-up-2c", {"device_kind": "cpu", "gpu_name": None})
    both = claims.Tables(*(
        type(a).from_batches([*a.to_batches(), *b.to_batches()])
        for a, b in zip((gpu.runs, gpu.measurements, gpu.comparisons), (cpu.runs, cpu.measurements, cpu.comparisons),
                        strict=True)
    ))  # fmt: skip
    found = claims.evaluate([claim(measure={"reduce": "max"})], both).to_pylist()
    assert {r["device_key"]: r["measured"] for r in found} == {"cpu-made-up-2c": 2.5, H200: 3.0}


def test_tables_that_do_not_belong_together_are_refused():
    here = campaign(THREE)
    with pytest.raises(records.RecordError, match="runs lacks"):
        claims.evaluate([claim()], tables([run(7)], here.measurements.to_pylist()))
    with pytest.raises(records.RecordError, match="measurements lacks"):
        claims.evaluate([claim()], tables([run(0)], [row(run(0), "a", "sparse", 1.0)], [pair("b")]))


def test_the_rows_can_be_written_and_say_what_was_asked(tmp_path):
    found = claims.evaluate([claim()], campaign(THREE))
    records.write_table(tmp_path / "claims.parquet", found, "claims")
    (back,) = records.read(tmp_path, "claims").to_pylist()
    assert json.loads(back["query_json"])["where"] == {"system": "cusnn", "candidate": "sparse", "baseline": "dense"}
    assert (back["paper_hardware"], back["expected"], back["expected_low"], back["unit"]) == ("V100", 2.0, 2.0, "1")
