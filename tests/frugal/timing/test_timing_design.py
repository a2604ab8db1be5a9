"""The design of an experiment: presets, palindromes, seeds."""

import math
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

import frugal
import kernels
from frugal import stats
from frugal.timing import Arm, Design, DesignError, derive_seed, palindromes


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("smoke", (1, 2, 6, 0, 0.25, 0.5, 0.3)),
        ("quick", (3, 2, 10, 0.1, 1, 2, 0.5)),
        ("sweep", (5, 2, 20, 0.2, 1.5, 3, 1)),
        ("headline", (8, 2, 30, 0.25, 2, 3, 1)),
    ],
)
def test_presets_are_the_methods_table(preset, expected):
    d = Design.of(preset)
    found = (d.sessions, d.rounds, d.n_min, d.block_min_s, d.block_max_s, d.warmup_gpu_s, d.warmup_cpu_s)
    assert found == expected


def test_an_override_of_none_keeps_the_presets_value():
    d = Design.of("quick", sessions=None, rounds=4, regimes=["cold"])
    assert (d.sessions, d.rounds, d.regimes) == (3, 4, ("cold",))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rounds": 3}, "rounds must be even: a palindrome has two"),
        ({"rounds": 0}, "rounds must be even"),
        ({"n_min": 0}, "n_min = 0: it must be an integer >= 1"),
        ({"block_max_s": 0}, "must be greater than 0"),
        ({"block_min_s": -1}, "must be 0 or greater"),
        ({"block_max_s": float("nan")}, "must be greater than 0"),
        ({"regimes": ["warm"]}, "allowed are cold, hot, graph, graph_rotated, wall"),
        ({"regimes": []}, "regimes is empty"),
        ({"flush": "read"}, "write or write_read"),
        ({"threads": 0}, "threads"),
        ({"affinity": []}, "affinity is empty"),
        ({"round": 2}, "is not a field of a design"),
    ],
)
def test_a_design_that_cannot_be_run_is_one_sentence(given, words):
    with pytest.raises(DesignError, match=words):
        Design.of("smoke", **given)


def test_an_unknown_preset_lists_the_four():
    with pytest.raises(ValueError, match="smoke, quick, sweep, headline"):
        Design.of("fast")


@pytest.mark.parametrize("arms", range(2, 8))
@pytest.mark.parametrize("rounds", [2, 6])
def test_a_linear_drift_cancels_for_every_pair(arms, rounds):
    order = palindromes([f"a{i}" for i in range(arms)], rounds, random.Random(arms))
    slots = [name for names in order for name in names]
    log_times = {name: [] for name in set(slots)}
    for slot, name in enumerate(slots):  # 2 % from the first block to the last, in the logarithm that ratios live in
        own = math.log(1e-3 * (1 + int(name[1:])))
        log_times[name].append(own + math.log(1.02) * slot / (len(slots) - 1))
    for name, logs in log_times.items():
        ratio = stats.paired_ratio([[math.exp(x) for x in logs]], [[math.exp(x) for x in log_times["a0"]]])
        assert ratio.ratio == pytest.approx(1 + int(name[1:]), rel=1e-12)


def test_rounds_come_in_mirrored_pairs_and_both_orders_occur():
    rng = random.Random(1)
    seen = set()
    for _ in range(20):
        first, second = palindromes(["a", "b"], 2, rng)
        assert second == first[::-1]
        assert sorted(first) == ["a", "b"]
        seen.add("".join(first))
    assert seen == {"ab", "ba"}


def test_palindromes_refuse_what_is_none():
    with pytest.raises(ValueError, match="arms is empty"):
        palindromes([], 2, random.Random(0))
    with pytest.raises(DesignError, match="even"):
        palindromes(["a"], 3, random.Random(0))


def test_seeds_differ_by_phase_fit_a_record_and_are_the_same_everywhere():
    seeds = {derive_seed(1, "case", 0, phase) for phase in ("verify", "warm", "timed", "recheck")}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "case", 0, "timed") == 0x3B11283CA488962B >> 1  # printf "1|case|0|timed" | sha256sum


def test_planning_a_workflow_does_not_wait_for_torch():
    code = "import sys, frugal.timing.design; from frugal.timing import Arm, Case; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_else_takes_the_time():
    """One home for timed bodies and one for clocks: what is measured elsewhere would follow no method."""
    calls = re.compile(r"perf_counter|elapsed_time|time\.(time|monotonic|process_time)\b|timeit")
    root = Path(frugal.__file__).parent
    files = [*root.rglob("*.py"), *Path(kernels.__file__).parent.rglob("*.py")]
    assert len(files) > 20
    elsewhere = [f for f in files if f.parent != root / "timing" and f != root / "clock.py"]
    assert [str(f.relative_to(root.parent.parent)) for f in elsewhere if calls.search(f.read_text())] == []
    assert calls.search((root / "clock.py").read_text())


@pytest.mark.parametrize(
    ("given", "words"),
    [({"role": "mine"}, "ours, baseline"), ({"dtype": "fp32"}, "float32"), ({"regimes": ("warm",)}, "cold, hot"),
     ({"regimes": ()}, "regimes is empty"), ({"tolerance": "loose"}, "a_priori")],
)  # fmt: skip
def test_an_arm_says_what_is_allowed(given, words):
    with pytest.raises(ValueError, match=words):
        Arm(**({"name": "a", "role": "ours", "prepare": lambda inputs: None} | given))
