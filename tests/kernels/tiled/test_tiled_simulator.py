"""The generated kernels in Numba's CUDA simulator, against float64 plain sums. Tiny: a thread is a Python thread."""

import dataclasses
import functools

import numpy as np
import pytest
from tiled_cases import SLOPE, guarded, integers, normals, wanted

from kernels.simulator import simulate
from kernels.tiled import PairShape, Plan, Variant, cut, plan, reference

V3 = functools.partial(Variant, "v3_pair", th=4, tw=4, chunk=4, cob=16)
V4 = functools.partial(Variant, "v4_pair_reg", th=4, tw=4, chunk=4, cob=8)
POOLS = [(False, False), (False, True), (True, False), (True, True)]


def shape_of(pool_mid=False, pool_out=False, activation="relu", **sizes) -> PairShape:
    named = {"N": 1, "C_in": 2, "C_mid": 5, "C_out": 9, "H": 6, "W": 7} | sizes
    return PairShape(**named, pool_mid=pool_mid, pool_out=pool_out, activation=activation)


def small(kind, shape: PairShape, **more) -> Variant:
    return kind(pool_mid=shape.pool_mid, pool_out=shape.pool_out, activation=shape.activation, **more)


def run(made: Plan, data) -> np.ndarray:
    """The output; output and what lies between hold NaN before, and the room around them after."""
    arrays, y, guards = guarded(made, data)
    for step, values in zip(made.steps, arrays, strict=True):
        simulate(step.variant.source(), step.grid, step.block, values)
    assert all(guard.isnan().all() for guard in guards), "a write beyond the output"
    return y.numpy()


@pytest.mark.parametrize("pools", POOLS)
@pytest.mark.parametrize("kind", [V3, V4])
def test_integers_are_exact_with_every_pool(kind, pools):
    shape = shape_of(*pools, H=9, W=7)
    data = integers(shape)
    np.testing.assert_array_equal(run(cut(shape, small(kind, shape)), data), wanted(shape, data))


SIZES = {
    "one position": {"H": 1, "W": 1},
    "one row": {"H": 1, "W": 9},
    "one column": {"H": 5, "W": 1},
    "a tile": {"H": 4, "W": 4},
    "one more than a tile": {"H": 5, "W": 5},
    "one less than a tile": {"H": 3, "W": 3},
    "two images": {"N": 2, "H": 3, "W": 5},
    "two groups of output channels": {"C_out": 17, "H": 3, "W": 4},
    "one channel each": {"C_in": 1, "C_mid": 1, "C_out": 1, "H": 3, "W": 3},
    "three chunks": {"C_mid": 9, "H": 3, "W": 4},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [V3, V4])
def test_integers_are_exact_at_every_edge(kind, size):
    shape = shape_of(activation="leaky", **SIZES[size])
    data = integers(shape)
    np.testing.assert_array_equal(run(cut(shape, small(kind, shape)), data), wanted(shape, data))


@pytest.mark.parametrize("pools", POOLS)
@pytest.mark.parametrize("kind", [V3, V4])
def test_the_dense_twin_gives_the_same_bits(kind, pools):
    shape = shape_of(*pools, H=7, W=6)
    data, variant = normals(shape), small(kind, shape)
    np.testing.assert_array_equal(run(cut(shape, variant, fused=False), data), run(cut(shape, variant), data))


@pytest.mark.parametrize("kind", [V3, V4])
def test_two_buffers_give_the_same_bits(kind):
    shape = shape_of(pool_out=True, C_mid=13, H=4, W=5)
    data = normals(shape)
    one, two = (run(cut(shape, small(kind, shape, buffers=buffers)), data) for buffers in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("pools", POOLS)
@pytest.mark.parametrize("rung", ["v1_naive", "v2_tile"])
def test_a_layer_at_a_time(rung, pools):
    shape = shape_of(*pools, N=2, H=5, W=6, activation="leaky")
    data, made = integers(shape), plan(shape, rung=rung)
    if rung == "v2_tile":  # the default tile is 1024 Python threads
        tiny = [dataclasses.replace(step.variant, th=4, tw=4, cob=16) for step in made.steps]
        rows = [(shape.H, shape.W), (shape.H_mid, shape.W_mid)]
        steps = [
            dataclasses.replace(step, variant=v, grid=(-(-h // 4) * -(-w // 4), 1, shape.N), tiles_w=-(-w // 4))
            for step, v, (h, w) in zip(made.steps, tiny, rows, strict=True)
        ]
        made = Plan(shape, tuple(steps))
    np.testing.assert_array_equal(run(made, data), wanted(shape, data))


@pytest.mark.parametrize("kind", [V3, V4])
def test_errors_are_those_of_rounding(kind):
    shape = shape_of(pool_out=True, activation="none", H=6, W=6)
    data = normals(shape)
    bound = reference.bound(*data, pool_mid=False, pool_out=True)
    errors = np.abs(run(cut(shape, small(kind, shape)), data) - wanted(shape, data))
    assert (errors <= bound).all()
    assert errors.max() > 0  # float32 was compared with float64, not with itself


@pytest.mark.parametrize("kind", [V3, V4])
def test_negative_inputs_leave_zero_and_leaky_leaves_a_slope(kind):
    shape = shape_of(H=4, W=4)
    data = integers(shape, low=-3)
    data = (np.abs(data[0]), -np.abs(data[1]), *data[2:])
    np.testing.assert_array_equal(run(cut(shape, small(kind, shape)), data), wanted(shape, data))
    leaky = dataclasses.replace(shape, activation="leaky")
    y = run(cut(leaky, small(kind, leaky)), data)
    np.testing.assert_array_equal(y, wanted(leaky, data))
    assert (y < 0).any()
    assert SLOPE < 1


@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [V3, V4])
def test_what_is_not_finite_reaches_what_it_reaches_in_torch(kind, special, activation):
    shape = shape_of(pool_mid=True, pool_out=True, C_mid=5, H=16, W=12, activation=activation)
    data = integers(shape)
    data[0][0, 1, 3, 2] = special
    with np.errstate(invalid="ignore"):
        expected = wanted(shape, data)
    assert np.isfinite(expected).any()
    assert not np.isfinite(expected).all()
    np.testing.assert_array_equal(run(cut(shape, small(kind, shape)), data), expected)
