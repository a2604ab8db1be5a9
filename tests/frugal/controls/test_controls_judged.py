"""What a session's rows must show for its controls to pass."""

from __future__ import annotations

import pytest

from frugal import controls, hardware
from frugal.controls import wanted
from frugal.records import canonical_json
from tests.frugal.record_rows import a_row, a_run, blocks

HEADLINE, SMOKE = ("headline", "cuda"), ("smoke", "cpu")


def pair(experiment, base, ours, regime="graph", **given):
    """Rows and samples of two arms, a block of 6 equal samples in each of two rounds."""
    rows, samples = [], {}
    for arm, role, rounds in (("first", "baseline", base), ("second", "ours", ours)):
        row = a_row(
            **{"system": "control", "experiment": experiment, "case_id": experiment, "arm": arm, "role": role,
               "regime": regime, "l2": None, "value": rounds[0]} | given
        )  # fmt: skip
        rows.append(row)
        samples[row.key] = blocks(*([value] * 6 for value in rounds))
    return rows, samples


def wrong(**statuses):
    every = dict.fromkeys(wanted.WRONG, "incorrect") | statuses
    return [
        a_row(system="control", experiment="wrong", case_id="wrong", arm=arm, role="control", regime="wall", l2=None,
              status=status, value=None if status == "incorrect" else 1.0)
        for arm, status in every.items() if status is not None
    ]  # fmt: skip


def session(preset="headline", kind="cuda", run=None, **changes):
    """Judge a session in which every control is right, but for `changes`: experiment → (rows, samples)."""
    work = float(wanted.work(preset, kind))
    parts = {
        "null": pair("null", [1.0, 1.0], [1.0, 1.0]),
        "planted": pair("planted", [1.0, 1.0], [work, work]),
        "planted_copy": pair("planted_copy", [2.0, 2.0], [2 * work, 2 * work], regime="cold"),
        "wrong": (wrong(), {}),
    } | changes  # fmt: skip
    rows = [row for of_part, _ in parts.values() for row in of_part]
    samples = {key: taken for _, of_part in parts.values() for key, taken in of_part.items()}
    return controls.judge([a_row(value=1e-9), *rows], samples, preset, kind, run)


def colours(judged):
    return {name: outcome["colour"] for name, outcome in judged.outcomes.items()}


@pytest.mark.parametrize("preset", ["smoke", "quick", "sweep", "headline"])
@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_controls_that_show_what_was_planted_pass(preset, kind):
    judged = session(preset, kind)
    assert judged.passed
    assert colours(judged) == dict.fromkeys(("null", "planted", "planted_copy", "wrong"), "green")
    assert judged.outcomes["planted"]["measured"] == pytest.approx(1 / float(wanted.work(preset, kind)), rel=1e-12)
    assert canonical_json(judged.outcomes)  # it is kept as JSON


def test_more_is_planted_where_less_can_be_seen():
    assert [float(wanted.work(p, "cuda")) for p in ("smoke", "quick", "sweep", "headline")] == [2, 1.2, 1.02, 1.02]
    assert [float(wanted.work(p, "cpu")) for p in ("smoke", "quick", "sweep", "headline")] == [2, 1.2, 1.2, 1.2]


@pytest.mark.parametrize(
    ("where", "ratio", "green"),
    [
        (HEADLINE, 1.049, True), (HEADLINE, 1.051, False), (HEADLINE, 0.953, True), (HEADLINE, 0.951, False),
        (SMOKE, 1.99, True), (SMOKE, 2.01, False), (SMOKE, 0.51, True), (SMOKE, 0.49, False),
    ],
)  # fmt: skip
def test_equal_arms_must_be_about_equal(where, ratio, green):
    judged = session(*where, null=pair("null", [ratio, ratio], [1.0, 1.0]))
    outcome = judged.outcomes["null"]
    assert outcome["measured"] == pytest.approx(ratio, rel=1e-12)
    assert (outcome["colour"] == "green") == green
    assert outcome["words"].startswith("two names of one function")


PLANTED = [
    (HEADLINE, 1.02, True), (("quick", "cuda"), 1.2, True), (("quick", "cuda"), 1.34, False),
    (("quick", "cuda"), 1.08, False), (SMOKE, 1.41, True), (SMOKE, 1.39, False), (SMOKE, 2.99, True),
    (SMOKE, 3.01, False),
]  # fmt: skip
LOOP = [(HEADLINE, 1.0251, True), (HEADLINE, 1.0252, False), (HEADLINE, 1.0150, True), (HEADLINE, 1.0149, False)]
COPIES = [(HEADLINE, 1.0355, True), (HEADLINE, 1.0356, False), (HEADLINE, 1.0050, True), (HEADLINE, 1.0049, False)]


@pytest.mark.parametrize(
    ("name", "where", "slower", "green"),
    [
        *(("planted", *case) for case in [*PLANTED, *LOOP]),
        *(("planted_copy", *case) for case in [*PLANTED, *COPIES]),
    ],
)
def test_planted_work_must_be_found_at_its_size(name, where, slower, green):
    judged = session(*where, **{name: pair(name, [1.0, 1.0], [slower, slower])})
    assert (judged.outcomes[name]["colour"] == "green") == green


@pytest.mark.parametrize("name", ["null", "planted", "planted_copy"])
def test_a_red_pair_fails_the_session_but_on_a_cpu_smoke_only_warns(name):
    off = pair(name, [9.0, 9.0], [1.0, 1.0])
    for where in (HEADLINE, ("quick", "cpu"), ("smoke", "cuda")):
        judged = session(*where, **{name: off})
        assert (judged.passed, judged.outcomes[name]["colour"]) == (False, "red")
    judged = session(*SMOKE, **{name: off})
    assert (judged.passed, judged.outcomes[name]["colour"]) == (True, "yellow")


def test_the_worse_of_two_regimes_counts():
    rows, samples = pair("null", [1.0, 1.0], [1.0, 1.0], regime="cold")
    more, further = pair("null", [1.2, 1.2], [1.0, 1.0], regime="graph")
    judged = session(null=(rows + more, samples | further))
    assert judged.outcomes["null"]["measured"] == pytest.approx(1.2, rel=1e-12)
    assert judged.outcomes["null"]["colour"] == "red"
    assert "1.0000 in cold, 1.2000 in graph" in judged.outcomes["null"]["words"]


def test_a_ratio_is_that_of_the_rounds_and_leaves_excluded_samples_out():
    rows, samples = pair("null", [1.0, 4.0], [1.0, 4.0])  # a slow second round for both
    for taken in samples.values():
        taken[0].value, taken[0].flag = 1e6, "excluded"
    judged = session(null=(rows, samples))
    assert judged.outcomes["null"]["measured"] == pytest.approx(1.0, rel=1e-12)


def test_a_pair_whose_rounds_were_never_both_usable_is_red():
    rows, samples = pair("null", [1.0, 1.0], [1.0, 1.0])
    for number, taken in enumerate(samples.values()):
        for sample in taken:
            sample.flag = "excluded" if sample.round == number else sample.flag
    outcome = session(null=(rows, samples)).outcomes["null"]
    assert (outcome["colour"], outcome["measured"]) == ("red", None)
    assert "no round in graph" in outcome["words"]


@pytest.mark.parametrize("status", ["unsupported", "oom", "failed", "incorrect", "timeout"])
def test_a_control_that_could_not_be_measured_is_red(status):
    rows, _ = pair("planted", [1.0, 1.0], [1.02, 1.02])
    rows[1].status, rows[1].value, rows[1].reason = status, None, "it broke"
    judged = session(planted=(rows, {}))
    assert not judged.passed
    assert judged.outcomes["planted"]["measured"] is None
    assert judged.outcomes["planted"]["words"].endswith(f"second is {status}: it broke")


@pytest.mark.parametrize("name", ["null", "planted", "planted_copy", "wrong"])
def test_a_control_that_is_missing_is_red(name):
    judged = session(**{name: ([], {})})
    assert not judged.passed
    assert "not measured" in judged.outcomes[name]["words"]


@pytest.mark.parametrize("where", [HEADLINE, SMOKE])
@pytest.mark.parametrize("arm", wanted.WRONG)
@pytest.mark.parametrize("status", ["ok", "unstable", "failed", None])
def test_each_wrong_arm_must_be_called_incorrect_everywhere(where, arm, status):
    judged = session(*where, wrong=(wrong(**{arm: status}), {}))
    assert (judged.passed, judged.outcomes["wrong"]["colour"]) == (False, "red")
    assert arm in judged.outcomes["wrong"]["words"]
    assert judged.outcomes["wrong"]["measured"] == 2


@pytest.mark.parametrize(
    ("share", "colour"), [(0.69, "yellow"), (0.71, "green"), (0.99, "green"), (1.01, "yellow"), (None, "yellow")]
)
def test_a_copy_is_held_against_the_datasheet(share, colour):
    listed = hardware.lookup("NVIDIA H200").bytes_per_s
    run = a_run(gpu_name="NVIDIA H200", copy_bytes_per_s=None if share is None else share * listed)
    judged = session(run=run)
    assert judged.outcomes["copy"]["colour"] == colour
    assert judged.passed  # it warns and fails nothing
    if share is not None:
        assert judged.outcomes["copy"]["measured"] == pytest.approx(share, rel=1e-12)


def test_a_device_without_a_datasheet_has_its_rates_recorded():
    judged = session(run=a_run(gpu_name=None, copy_bytes_per_s=1e10, flops_fp32=1e11))
    assert colours(judged)["copy"] == colours(judged)["peak"] == "green"
    found = {name: (judged.outcomes[name]["measured"], judged.outcomes[name]["unit"]) for name in ("copy", "peak")}
    assert found == {"copy": (1e10, "B/s"), "peak": (1e11, "FLOP/s")}
    assert "1e+11 FLOP/s in fp32" in judged.outcomes["peak"]["words"]
