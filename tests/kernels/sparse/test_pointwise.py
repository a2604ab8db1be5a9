"""Pointwise kernels against float64 plain sums: in Numba's simulator, and as clusters of Python threads."""

import dataclasses

import clusters
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.simulator import simulate
from kernels.sparse import (
    ConvShape,
    Fused,
    UnsupportedShape,
    Workspace,
    arguments,
    pack_weights,
    pointwise,
    pointwise_reduce,
    reference,
)
from kernels.sparse.pointwise import Variant, cut

TINY = Variant(n=4, m=4, groups=1, chunk=2)  # 32 threads, 32×16 outputs: a thread is a Python thread


def shape(B, C, H, W, N, stride=1) -> ConvShape:
    return ConvShape(B, C, H, W, N, k=1, stride=stride, pad=0)


# variant, shape, splits
CASES = {
    "one block": (TINY, shape(1, 3, 3, 5, 5), 1),
    "groups, an odd number of channels": (dataclasses.replace(TINY, groups=2), shape(1, 7, 2, 3, 4), 1),
    "a single channel": (TINY, shape(1, 1, 2, 2, 3), 1),
    "rows that begin anywhere": (TINY, shape(2, 4, 3, 7, 33), 1),
    "rows of whole words, several tiles": (TINY, shape(2, 4, 4, 9, 5), 1),
    "splits": (TINY, shape(2, 9, 3, 3, 5), 3),
    "groups and splits, more than channels need": (dataclasses.replace(TINY, groups=2), shape(1, 5, 2, 6, 40), 3),
    "7 positions a thread": (Variant(groups=1, chunk=4), shape(1, 9, 4, 8, 40), 2),
    "14 positions a thread": (Variant(m=14, groups=1, chunk=2), shape(1, 3, 3, 19, 3), 1),
    "7 positions, side by side": (Variant(lanes_m=8, groups=1, chunk=2), shape(1, 4, 3, 3, 33), 2),
    "12 channels a thread": (Variant(n=12, m=3, groups=1, chunk=2), shape(1, 3, 2, 3, 100), 1),
    "warps side by side": (dataclasses.replace(TINY, warps_n=2, warps_m=2), shape(1, 3, 5, 5, 40), 2),
    "stride 2": (dataclasses.replace(TINY, stride=2), shape(2, 5, 5, 7, 5, stride=2), 2),
}


@dataclasses.dataclass
class Layer:
    """Operands of one call and, in float64, its result."""

    x: np.ndarray
    w: np.ndarray
    bias: np.ndarray | None
    fused: dict

    @property
    def wanted(self) -> np.ndarray:
        x, f = self.x.astype(np.float64), self.fused
        if "pre_scale" in f:
            x = x * f["pre_scale"][:, None, None] + f["pre_shift"][:, None, None]
        x = np.where(x <= 0, 0, x) if f.get("pre_relu") else x
        stride = 1 if self.x.shape[2:] == self.size else 2
        y = reference.conv(x, self.w, self.bias, stride=stride)
        y = y + f["residual"] if "residual" in f else y
        return np.where(y <= 0, 0, y) if f.get("post_relu") else y

    size: tuple[int, int] = (0, 0)


def layer(s: ConvShape, fused: bool, integers: bool = True, seed: int = 0) -> Layer:
    """Small integers (every sum is below 2^24, so float32 is exact in any order), or normal numbers."""
    rng = np.random.default_rng(seed)

    def draw(*size):
        return (rng.integers(-8, 9, size) if integers else rng.standard_normal(size)).astype(np.float32)

    given = {}
    if fused:
        given = {"pre_scale": draw(s.C), "pre_shift": draw(s.C), "pre_relu": True}
        given |= {"residual": draw(s.B, s.N, s.H_out, s.W_out), "post_relu": True}
    bias = draw(s.N) if fused else None
    return Layer(draw(s.B, s.C, s.H, s.W), draw(s.N, s.C, 1, 1), bias, given, (s.H_out, s.W_out))


def run(variant: Variant, s: ConvShape, splits: int, given: Layer, *, cluster: bool, workspace=None) -> np.ndarray:
    """The kernel's output. x, residual and y are channel slices between guards; y and the slots hold NaN before."""
    plan = cut(variant, s, splits)
    workspace = workspace or Workspace("cpu")
    slots, tickets = workspace.reserve(plan.slot_floats + 1, plan.tickets + 1)
    slots.fill_(float("nan"))
    wide_x = torch.full((s.B, s.C + 1, s.H, s.W), float("nan"))
    wide_x[:, 1:] = torch.from_numpy(given.x)
    wide_y = torch.full((s.B, s.N + 2, s.H_out, s.W_out), float("nan"))
    fused = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in given.fused.items()}
    if "residual" in fused:
        wide = torch.full((s.B, s.N + 3, s.H_out, s.W_out), float("nan"))
        wide[:, 1:-2] = fused["residual"]
        fused["residual"] = wide[:, 1:-2]
    bias = None if given.bias is None else torch.from_numpy(given.bias)
    w, y = pack_weights(torch.from_numpy(given.w)), wide_y[:, 1:-1]
    values = arguments(plan, wide_x[:, 1:], w, y, workspace, bias, Fused(**fused))
    arrays = [value.numpy() if isinstance(value, torch.Tensor) else np.uint32(value) for value in values]
    arrays = [a.view(np.uint32) if a.dtype == np.int32 else a for a in arrays]
    # y stands in for what is not fused; the simulator copies every array back, the unread ones' copies of y last.
    unread = ("bias", "residual", "scale", "shift")
    arrays = [a.copy() if name in unread else a for (name, _), a in zip(variant.parameters, arrays, strict=True)]
    if cluster:
        clusters.run(variant.source("9.0"), plan.grid, arrays)
    else:
        simulate(variant.source(), plan.grid, plan.block, arrays)
    assert wide_y[:, 0].isnan().all(), "a guard before an image was overwritten"
    assert wide_y[:, -1].isnan().all(), "a guard after an image was overwritten"
    assert slots[plan.slot_floats :].isnan().all(), "a write beyond the slots"
    assert not tickets.any(), "a ticket did not wrap"
    return y.numpy()


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("cluster", [False, True], ids=["slots", "cluster"])
@pytest.mark.parametrize("name", CASES)
def test_integers_are_exact(name, cluster, fused):
    variant, s, splits = CASES[name]
    given = layer(s, fused)
    np.testing.assert_array_equal(run(variant, s, splits, given, cluster=cluster), given.wanted)


def test_sums_of_groups_are_added_in_passes_where_they_do_not_fit_at_once():
    variant, s = Variant(m=8, groups=8, chunk=2, reduce="ticket"), shape(1, 37, 3, 11, 65)
    assert len(pointwise_reduce.phases(variant, None)) == 2
    for splits in (1, 2):
        given = layer(s, fused=True, seed=splits)
        np.testing.assert_array_equal(run(variant, s, splits, given, cluster=False), given.wanted)


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 5), st.integers(1, 6)),
    n=st.sampled_from([1, 31, 32, 33]), stride=st.integers(1, 2), splits=st.integers(1, 3),
    groups=st.integers(1, 2), cluster=st.booleans(), fused=st.booleans(),
)  # fmt: skip
def test_any_small_shape_is_exact(size, n, stride, splits, groups, cluster, fused):
    s, variant = shape(*size, n, stride), dataclasses.replace(TINY, stride=stride, groups=groups)
    given = layer(s, fused)
    np.testing.assert_array_equal(run(variant, s, splits, given, cluster=cluster), given.wanted)


def test_clusters_and_slots_add_in_the_same_order():
    s, variant = shape(1, 20, 3, 5, 40), dataclasses.replace(TINY, groups=2)
    given = layer(s, fused=True, integers=False)
    found = run(variant, s, 3, given, cluster=False)
    np.testing.assert_array_equal(run(variant, s, 3, given, cluster=True), found)
    # 20 terms and the epilogue: a few roundings of 6e-8 each, against sums that cancel a little.
    assert np.linalg.norm(found - given.wanted) <= 5e-7 * np.linalg.norm(given.wanted)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e-42])
@pytest.mark.parametrize("fused", [{}, {"pre_relu": True, "post_relu": True}], ids=["plain", "relu"])
def test_what_is_not_an_ordinary_number_reaches_what_dense_reaches(value, fused):
    s = shape(1, 3, 3, 4, 3)
    given = dataclasses.replace(layer(s, fused=False), fused=fused)
    given.x[0, 1, 1, 2] = value
    given.w[:, 1] = [[[1]], [[-1]], [[2]]]
    with np.errstate(invalid="ignore"):
        wanted = given.wanted.astype(np.float32)
    np.testing.assert_array_equal(run(TINY, s, 2, given, cluster=False), wanted)


def test_a_shift_does_not_reach_sums_through_channels_that_are_not_there():
    s = shape(1, 3, 2, 3, 2)  # 3 channels in chunks of 2: the fourth must count as zero, not as relu(shift)
    given = dataclasses.replace(layer(s, fused=False), fused={
        "pre_scale": np.ones(3, np.float32), "pre_shift": np.full(3, 100, np.float32), "pre_relu": True,
    })  # fmt: skip
    np.testing.assert_array_equal(run(TINY, s, 1, given, cluster=False), given.wanted)


def test_layers_share_a_workspace_and_repeat_their_bits():
    workspace = Workspace("cpu")
    small, big = shape(1, 9, 2, 4, 3), shape(1, 3, 5, 5, 33)
    first, other = layer(small, fused=True, integers=False), layer(big, fused=False)
    bits = run(TINY, small, 2, first, cluster=False, workspace=workspace)
    np.testing.assert_array_equal(run(TINY, big, 3, other, cluster=False, workspace=workspace), other.wanted)
    np.testing.assert_array_equal(run(TINY, small, 2, first, cluster=False, workspace=workspace), bits)


@settings(max_examples=60, deadline=None)
@given(
    s=st.builds(shape, B=st.integers(1, 9), C=st.integers(1, 600), H=st.integers(1, 60), W=st.integers(1, 60),
                N=st.integers(1, 700), stride=st.integers(1, 2)),
)  # fmt: skip
def test_plans_cover_outputs_and_channels_once(s):
    plans = list(pointwise.candidates(s, 132))
    assert plans
    assert len({(p.variant, p.splits) for p in plans}) == len(plans)
    for p in plans:
        v, (tiles, groups, splits) = p.variant, p.grid
        per_image, rest = divmod(tiles, s.B)
        assert rest == 0
        assert (per_image - 1) * v.tile_m < s.H_out * s.W_out <= per_image * v.tile_m
        assert (groups - 1) * v.tile_n < s.N <= groups * v.tile_n
        assert splits == p.splits
        assert p.channels_per_warp * v.groups * splits >= s.C
        assert (splits - 1) * v.groups * v.chunk < s.C, "a split has no channels"
        assert p.cluster in ((1, 1, 1), (1, 1, splits))


def test_names_are_read_back():
    found = pointwise.variants()
    assert len(found) == len({v.name for v in found}) <= 4
    assert {v.stride for v in found} == {1, 2}
    for variant in (*found, *(case[0] for case in CASES.values())):
        assert Variant.parse(variant.name) == variant
    for name in ("pointwise_s1_t8x7", Variant().name.replace("l8x4", "l4x4"), "v3_ballot"):
        with pytest.raises(ValueError, match="no variant of the pointwise kernels"):
            Variant.parse(name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("stride", 3), ("n", 6), ("m", 0), ("chunk", 3), ("reduce", "atomic"), ("groups", 33), ("lanes_m", 3)],
)
def test_a_choice_that_no_kernel_has_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} = {value!r}"):
        Variant(**{field: value})


def test_sums_that_do_not_fit_a_block_are_refused():
    with pytest.raises(ValueError, match="fewer, or a smaller tile"):
        Variant(warps_n=2, warps_m=2, groups=4)


@pytest.mark.parametrize(
    "other", [ConvShape(1, 4, 5, 5, 3), shape(1, 4, 5, 5, 3, stride=2), ConvShape(1, 4, 5, 5, 3, k=1, pad=1)]
)
def test_other_convolutions_are_refused(other):
    with pytest.raises(UnsupportedShape, match="take another kernel"):
        cut(Variant(), other, 1)
