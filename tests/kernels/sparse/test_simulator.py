"""The generated kernels in Numba's CUDA simulator, against float64 plain sums. Tiny: a thread is a Python thread."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.simulator import simulate
from kernels.sparse import ConvShape, Fused, Variant, Workspace, arguments, pack_weights, reference
from kernels.sparse.planning import cut

V1 = Variant("v1_naive", th=1, tw=1, warps=1, skip=False, fetch="direct")
V2 = Variant("v2_dense", th=2, tw=3, warps=2, skip=False, fetch="direct")
V3 = functools.partial(Variant, "v3_ballot", th=2, tw=3, warps=2, fetch="branch")
V6 = functools.partial(Variant, "v6_fused", th=2, tw=3, warps=2)

# variant, shape, splits, share of zeros
CASES = {
    "v1": (V1, ConvShape(2, 3, 3, 5, 3), 1, 0.5),
    "v1, stride 2, a filter of one": (Variant("v1_naive", k=1, stride=2, th=1, tw=1, warps=1, skip=False,
                                              fetch="direct"), ConvShape(1, 5, 5, 4, 2, k=1, stride=2, pad=0), 1, 0.5),
    "v2, ragged tiles": (V2, ConvShape(2, 3, 3, 5, 5), 1, 0.5),
    "v2, more channels than a chain": (V2, ConvShape(1, 33, 2, 2, 1), 1, 0.5),
    "v2, two outputs a lane": (Variant("v2_dense", th=2, tw=2, warps=1, outputs_per_lane=2, skip=False,
                                       fetch="direct"), ConvShape(1, 2, 2, 3, 63), 1, 0.5),
    "v3, one split": (V3(), ConvShape(1, 3, 3, 4, 5), 1, 0.5),
    "v3, two splits, ragged tiles, odd channels": (V3(), ConvShape(1, 5, 3, 4, 5), 2, 0.5),
    "v3, more splits than channels need": (V3(), ConvShape(1, 3, 2, 3, 31), 3, 0.6),
    "v3, tile larger than the image": (V3(th=4, tw=4), ConvShape(1, 2, 1, 2, 1), 1, 0.3),
    "v3, two images, two groups": (V3(warps=1), ConvShape(2, 2, 2, 2, 33), 1, 0.5),
    "v3, two outputs a lane": (V3(outputs_per_lane=2), ConvShape(1, 3, 2, 4, 64), 2, 0.5),
    "v3, whole rows": (V3(fetch="row"), ConvShape(1, 3, 3, 3, 32), 1, 0.5),
    "v3, dense twin": (V3(skip=False, fetch="row"), ConvShape(1, 5, 3, 4, 5), 2, 0.5),
    "v3, every position tested": (V3(min_taps=1), ConvShape(1, 3, 2, 3, 3), 1, 0.7),
    "v3, a filter of one": (V3(k=1, min_taps=1), ConvShape(1, 5, 2, 4, 3, k=1, pad=0), 1, 0.5),
    "v3, stride 2": (V3(stride=2, tw=2, fetch="row"), ConvShape(1, 3, 5, 4, 3, stride=2), 1, 0.5),
    "v3, all zero": (V3(), ConvShape(1, 3, 2, 3, 3), 2, 1.0),
    "v6, one split": (V6(), ConvShape(1, 3, 3, 4, 5), 1, 0.5),
    "v6, two splits, ragged tiles, odd channels": (V6(), ConvShape(2, 5, 3, 4, 5), 2, 0.5),
    "v6, a kernel of clusters, which the simulator has not": (V6(reduce="cluster"), ConvShape(1, 5, 3, 4, 5), 2, 0.5),
    "v6, atomics": (V6(reduce="atomic"), ConvShape(1, 5, 3, 4, 5), 2, 0.5),
    "v6, two outputs a lane": (V6(outputs_per_lane=2), ConvShape(1, 3, 2, 4, 64), 2, 0.5),
    "v6, two outputs a lane, half of them there": (V6(outputs_per_lane=2), ConvShape(1, 3, 2, 4, 70), 2, 0.5),
    "v6, four outputs a lane": (V6(outputs_per_lane=4), ConvShape(1, 3, 2, 4, 100), 1, 0.5),
    "v6, two tiles a block": (V6(stack=2), ConvShape(2, 5, 7, 4, 5), 1, 0.5),
    "v6, three tiles a block, the last beyond the image, two splits": (
        V6(stack=3, warps=6, outputs_per_lane=2), ConvShape(1, 9, 4, 3, 64), 2, 0.5),
    "v6, a tile a warp": (V6(stack=2, warps=2), ConvShape(1, 3, 4, 2, 3), 1, 0.5),
    "v6, stacked, stride 2, in phases": (
        V6(stack=2, warps=8, th=4, tw=7, stride=2, outputs_per_lane=2), ConvShape(1, 5, 15, 13, 64, stride=2), 1, 0.5),
    "v6, weights when they are needed": (V6(depth=0), ConvShape(1, 7, 2, 3, 3), 2, 0.5),
    "v6, dense twin, stride 2": (V6(skip=False, stride=2, tw=2), ConvShape(1, 3, 5, 4, 3, stride=2), 1, 0.5),
    "v6, a sum over warps in phases": (V6(th=7, tw=7, warps=8), ConvShape(1, 8, 7, 7, 2), 1, 0.8),
    "v3, many chunks": (V3(th=7, tw=7, warps=4), ConvShape(1, 4, 7, 7, 2), 1, 0.8),
}  # fmt: skip


def inputs(shape: ConvShape, zeros: float) -> tuple[np.ndarray, np.ndarray]:
    """Small integers: every sum is below 2^24, so float32 is exact in any order."""
    rng = np.random.default_rng(shape.C * 100 + shape.N)
    x = rng.integers(-8, 9, (shape.B, shape.C, shape.H, shape.W)).astype(np.float32)
    x[rng.random(x.shape) < zeros] = -0.0
    return x, rng.integers(-8, 9, (shape.N, shape.C, shape.k, shape.k)).astype(np.float32)


def run(
    variant: Variant, shape: ConvShape, splits: int, x: np.ndarray, w: np.ndarray, workspace=None, bias=None, fused=None
) -> np.ndarray:
    """The kernel's output. x and y are channel slices between guards; y and the slots hold NaN before."""
    plan = cut(variant, shape, splits)
    workspace = workspace or Workspace("cpu")
    atomic = plan.variant.reduce == "atomic"
    slots, tickets = workspace.reserve(plan.slot_floats + 1, plan.tickets + 1, atomic=atomic)
    slots[0 if not atomic else plan.slot_floats :].fill_(float("nan"))
    wide_x = torch.full((shape.B, shape.C + 1, shape.H, shape.W), float("nan"))
    wide_x[:, 1:] = torch.from_numpy(x)
    wide_y = torch.full((shape.B, shape.N + 2, shape.H_out, shape.W_out), float("nan"))
    y = wide_y[:, 1:-1]
    given = arguments(plan, wide_x[:, 1:], pack_weights(torch.from_numpy(w)), y, workspace, bias, fused)
    arrays = [value.numpy() if isinstance(value, torch.Tensor) else value for value in given]
    arrays = [a.view(np.uint32) if isinstance(a, np.ndarray) and a.dtype == np.int32 else a for a in arrays]
    simulate(variant.source(), plan.grid, plan.block, arrays)
    assert wide_y[:, 0].isnan().all(), "a guard before an image was overwritten"
    assert wide_y[:, -1].isnan().all(), "a guard after an image was overwritten"
    assert slots[plan.slot_floats :].isnan().all(), "a write beyond the slots"
    assert not tickets.any(), "a ticket did not wrap"
    assert not atomic or not slots[: plan.slot_floats].any(), "the sums are not zero again"
    return y.numpy()


@pytest.mark.parametrize("name", CASES)
def test_integers_are_exact(name):
    variant, shape, splits, zeros = CASES[name]
    x, w = inputs(shape, zeros)
    np.testing.assert_array_equal(run(variant, shape, splits, x, w), reference.conv(x, w, stride=shape.stride))


@settings(max_examples=25, deadline=None)
@given(
    shape=st.builds(
        ConvShape, B=st.integers(1, 2), C=st.integers(1, 4), H=st.integers(1, 4), W=st.integers(1, 5),
        N=st.sampled_from([1, 31, 32, 33]),
    ),
    tile=st.tuples(st.integers(1, 3), st.integers(1, 3)), splits=st.integers(1, 2), skip=st.booleans(),
    fetch=st.sampled_from(["branch", "row"]), zeros=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
)  # fmt: skip
def test_any_small_shape_is_exact(shape, tile, splits, skip, fetch, zeros):
    variant = V3(th=tile[0], tw=tile[1], warps=1, skip=skip, fetch=fetch)
    x, w = inputs(shape, zeros)
    np.testing.assert_array_equal(run(variant, shape, splits, x, w), reference.conv(x, w))


@pytest.mark.parametrize("splits", [1, 2])
def test_what_is_fused_is_exact_and_padding_is_zero_after_the_activation(splits):
    shape = ConvShape(2, 3, 4, 3, 5)
    x, w = inputs(shape, 0.3)
    rng = np.random.default_rng(5)
    bias, gain, shift = (rng.integers(1, 4, n).astype(np.float32) for n in (shape.N, shape.C, shape.C))
    residual = rng.integers(-9, 9, (2, 5, 4, 3)).astype(np.float32)
    wide = torch.full((2, 7, 4, 3), float("nan"))
    wide[:, 1:6] = torch.from_numpy(residual)
    fused = Fused(torch.from_numpy(gain), torch.from_numpy(shift), True, wide[:, 1:6], True)
    found = run(V6(prologue=True), shape, splits, x, w, bias=torch.from_numpy(bias), fused=fused)
    before = np.maximum(x * gain[:, None, None] + shift[:, None, None], 0)
    np.testing.assert_array_equal(found, np.maximum(reference.conv(before, w, bias) + residual, 0))


def test_denormals_are_kept():
    shape = ConvShape(1, 2, 2, 3, 2)
    x = np.full((1, 2, 2, 3), 1e-42, np.float32)
    w = np.ones((2, 2, 3, 3), np.float32)
    np.testing.assert_array_equal(run(V3(), shape, 1, x, w), reference.conv(x, w).astype(np.float32))


def test_all_rungs_agree_with_the_sum_in_float64():
    shape = ConvShape(1, 4, 3, 4, 5)
    rng = np.random.default_rng(3)
    x = np.maximum(rng.standard_normal((1, 4, 3, 4)), 0).astype(np.float32)
    w = rng.standard_normal((5, 4, 3, 3)).astype(np.float32)
    wanted = reference.conv(x, w)
    found = [run(variant, shape, 1, x, w) for variant in (V1, V2, V3(), V3(fetch="row"), V3(skip=False))]
    for y in found:
        # 36 terms: a few roundings of 6e-8 each, against sums that cancel a little.
        assert np.linalg.norm(y - wanted) <= 5e-7 * np.linalg.norm(wanted)
    np.testing.assert_array_equal(found[2], found[3])  # how values are fetched changes no order of sums
    np.testing.assert_array_equal(found[2], found[4])  # adding 0·w changes no sum


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_reach_what_dense_reaches(value):
    shape = ConvShape(1, 3, 3, 4, 3)
    x, w = inputs(shape, 0.5)
    x[0, 2, 1, 2] = value
    with np.errstate(invalid="ignore"):
        wanted = reference.conv(x, w)
    np.testing.assert_array_equal(run(V3(), shape, 2, x, w), wanted)


def test_layers_share_a_workspace_and_repeat_their_bits():
    workspace = Workspace("cpu")
    shape, other = ConvShape(1, 5, 2, 4, 3), ConvShape(1, 3, 2, 3, 33)
    x, w = (value * np.float32(0.1) for value in inputs(shape, 0.5))
    first = run(V3(), shape, 2, x, w, workspace)
    big = inputs(other, 0.5)
    np.testing.assert_array_equal(run(V3(), other, 2, *big, workspace), reference.conv(*big))
    np.testing.assert_array_equal(run(V3(), shape, 2, x, w, workspace), first)
