"""The CPU twin against float64 plain sums: exact on integers, within the bound of rounding else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiled_cases import SLOPE, integers, normals, wanted

from kernels.tiled import PairShape, UnsupportedPair, cpu, reference

shapes = st.builds(
    PairShape, N=st.integers(1, 2), C_in=st.integers(1, 5), C_mid=st.integers(1, 34), C_out=st.integers(1, 34),
    H=st.integers(4, 55), W=st.integers(4, 105), pool_mid=st.booleans(), pool_out=st.booleans(),
    activation=st.sampled_from(["relu", "leaky", "none"]),
)  # fmt: skip


def run(shape: PairShape, data, **more) -> np.ndarray:
    """The output, which held NaN before."""
    x, w1, b1, w2, b2 = (torch.from_numpy(value) for value in data)
    out = torch.full((shape.N, shape.C_out, shape.H_out, shape.W_out), float("nan"))
    return cpu.pair(shape, x, w1, w2, b1, b2, slope=SLOPE, out=out, **more).numpy()


@settings(max_examples=60, deadline=None)
@given(shape=shapes, fused=st.booleans())
def test_integers_are_exact(shape, fused):
    data = integers(shape)
    np.testing.assert_array_equal(run(shape, data, fused=fused), wanted(shape, data))


@pytest.mark.parametrize("size", [(1, 1), (1, 97), (97, 1), (24, 96), (25, 97), (23, 95)])
def test_every_edge_of_a_tile(size):
    shape = PairShape(1, 2, 3, 33, *size, activation="leaky")
    data = integers(shape)
    np.testing.assert_array_equal(run(shape, data), wanted(shape, data))


@pytest.mark.parametrize("pools", [(False, True), (True, True)])
def test_the_unfused_twin_gives_the_same_bits_and_errors_are_those_of_rounding(pools):
    shape = PairShape(1, 3, 32, 40, 70, 70, *pools)
    data = normals(shape)
    fused = run(shape, data)
    np.testing.assert_array_equal(run(shape, data, fused=False, times=2), fused)
    errors = np.abs(fused - wanted(shape, data))
    assert (errors <= reference.bound(*data, pool_mid=shape.pool_mid, pool_out=shape.pool_out)).all()
    assert errors.max() > 0


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("activation", ["relu", "none"])
def test_what_is_not_finite_reaches_what_it_reaches_in_torch(special, activation):
    shape = PairShape(1, 2, 5, 3, 20, 20, pool_mid=True, pool_out=True, activation=activation)
    data = integers(shape)
    data[0][0, 1, 3, 2] = special
    with np.errstate(invalid="ignore"):
        expected = wanted(shape, data)
    assert np.isfinite(expected).any()
    assert not np.isfinite(expected).all()
    np.testing.assert_array_equal(run(shape, data), expected)


def test_without_bias_it_is_zero():
    shape = PairShape(1, 2, 3, 4, 6, 6)
    x, w1, b1, w2, b2 = (torch.from_numpy(value) for value in integers(shape))
    with_zeros = cpu.pair(shape, x, w1, w2, torch.zeros_like(b1), torch.zeros_like(b2))
    assert torch.equal(cpu.pair(shape, x, w1, w2), with_zeros)
    assert not torch.equal(cpu.pair(shape, x, w1, w2, b1, b2), with_zeros)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": torch.zeros(1, 2, 6, 7)}, r"x is torch.float32 \(1, 2, 6, 7\)"),
        ({"x": torch.zeros(1, 2, 6, 6).half()}, "x is torch.float16"),
        ({"x": torch.zeros(1, 6, 6, 2).permute(0, 3, 1, 2)}, "contiguous float32"),
        ({"w1": torch.zeros(3, 3, 3, 3)}, "w1 is"),
        ({"w2": torch.zeros(4, 3, 5, 5)}, "w2 is"),
        ({"b1": torch.zeros(4)}, "b1 is"),
        ({"b2": torch.zeros(3)}, "b2 is"),
        ({"out": torch.zeros(1, 4, 3, 3)}, "out is"),
        ({"slope": 0.0}, "slope = 0.0: the tiled kernels take one above 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, sentence):
    shape = PairShape(1, 2, 3, 4, 6, 6, activation="leaky")
    given_ = {"x": torch.zeros(1, 2, 6, 6), "w1": torch.zeros(3, 2, 3, 3), "w2": torch.zeros(4, 3, 3, 3)} | change
    with pytest.raises(UnsupportedPair, match=sentence):
        cpu.pair(shape, **given_)
