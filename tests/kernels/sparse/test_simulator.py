"""The generated kernels in Numba's CUDA simulator, against float64 plain sums. Tiny: a thread is a Python thread."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kernels.sparse import reference
from kernels.sparse.variant import Variant

SMALL = {"rung": "v3_ballot", "th": 2, "tw": 3, "warps": 2}
#         variant, (images, C, H, W, N), splits, zeros
CASES = {
    "one split": (SMALL, (1, 3, 3, 4, 5), 1, 0.5),
    "two splits, ragged tiles, odd channels": (SMALL, (1, 5, 3, 4, 5), 2, 0.5),
    "more splits than channels need": (SMALL, (1, 3, 2, 3, 31), 3, 0.6),
    "tile larger than the image": (SMALL | {"th": 4, "tw": 4}, (1, 2, 1, 2, 1), 1, 0.3),
    "two images, two groups": (SMALL | {"warps": 1}, (2, 2, 2, 2, 33), 1, 0.5),
    "two outputs a lane": (SMALL | {"outputs_per_lane": 2}, (1, 3, 2, 4, 64), 2, 0.5),
    "whole rows": (SMALL | {"fetch": "row"}, (1, 3, 3, 3, 32), 1, 0.5),
    "dense twin": (SMALL | {"skip": False, "fetch": "row"}, (1, 5, 3, 4, 5), 2, 0.5),
    "every position tested": (SMALL | {"min_taps": 1}, (1, 3, 2, 3, 3), 1, 0.7),
    "all zero": (SMALL, (1, 3, 2, 3, 3), 2, 1.0),
    "many chunks": (SMALL | {"th": 7, "tw": 7, "warps": 4}, (1, 4, 7, 7, 2), 1, 0.8),
}


def inputs(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Small integers: every sum is below 2^24, so float32 is exact in any order."""
    _, (images, c, height, width, n), _, zeros = CASES[name]
    rng = np.random.default_rng(len(name))
    x = rng.integers(-8, 9, (images, c, height, width)).astype(np.float32)
    x[rng.random(x.shape) < zeros] = -0.0
    return x, rng.integers(-8, 9, (n, c, 3, 3)).astype(np.float32)


def special(value: float) -> tuple[np.ndarray, np.ndarray]:
    x, w = inputs("two splits, ragged tiles, odd channels")
    x[0, 3, 1, 2] = value
    return x, w


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> dict[str, list[np.ndarray]]:
    """All cases in one process: starting one takes longer than most cases."""
    folder = tmp_path_factory.mktemp("simulator")
    jobs = {
        name: {"variant": Variant(**v).name, "x": inputs(name)[0], "w": inputs(name)[1], "splits": s, "repeats": 1}
        for name, (v, _, s, _) in CASES.items()
    }
    jobs["two splits, ragged tiles, odd channels"]["repeats"] = 2
    for value in (np.nan, np.inf):
        x, w = special(value)
        jobs[str(value)] = {"variant": Variant(**SMALL).name, "x": x, "w": w, "splits": 2, "repeats": 1}
    (folder / "cases").write_bytes(pickle.dumps(list(jobs.values())))
    script = Path(__file__).with_name("simulate.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "cases"), str(folder / "out")],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(jobs, pickle.loads((folder / "out").read_bytes()), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_integers_are_exact(simulated, name):
    for y in simulated[name]:
        np.testing.assert_array_equal(y, reference.conv(*inputs(name)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_inputs_reach_what_dense_reaches(simulated, value):
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(simulated[str(value)][0], reference.conv(*special(value)))


def test_a_repeat_on_the_same_workspace_gives_the_same_bits(simulated):
    first, second = simulated["two splits, ragged tiles, odd channels"]
    np.testing.assert_array_equal(first, second)
