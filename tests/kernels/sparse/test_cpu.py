"""The CPU twin against float64 plain sums, and bit for bit where integers make float32 exact."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.sparse import Fused, UnsupportedShape, cpu, pack_weights, reference


class Case(NamedTuple):
    images: int = 1
    c: int = 4
    height: int = 7
    width: int = 5
    n: int = 32
    k: int = 3
    stride: int = 1
    zeros: float = 0.5
    seed: int = 0

    @property
    def out(self) -> tuple[int, int, int, int]:
        return self.images, self.n, (self.height - 1) // self.stride + 1, (self.width - 1) // self.stride + 1


# more than 64 input channels are more than one word of bits, more than 128 outputs several runs
cases = st.builds(
    Case, st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 5, 64, 70]), st.integers(1, 11), st.integers(1, 11),
    st.sampled_from([1, 31, 32, 33, 64, 96, 160]), st.sampled_from([1, 3]), st.sampled_from([1, 2]),
    st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]), st.integers(0, 2**31),
)  # fmt: skip
FORMS = [(k, stride) for k in (1, 3) for stride in (1, 2)]


def integers(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w, bias as small integers: every sum is below 2^24, so float32 is exact in any order."""
    rng = np.random.default_rng(case.seed)
    x = rng.integers(-8, 9, (case.images, case.c, case.height, case.width)).astype(np.float32)
    x[rng.random(x.shape) < case.zeros] = 0
    w = rng.integers(-8, 9, (case.n, case.c, case.k, case.k)).astype(np.float32)
    return x, w, rng.integers(-8, 9, case.n).astype(np.float32)


def normals(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w, bias from a normal distribution, with zeros in x."""
    rng = np.random.default_rng(case.seed)
    x = rng.standard_normal((case.images, case.c, case.height, case.width)).astype(np.float32)
    x[rng.random(x.shape) < case.zeros] = 0
    w = rng.standard_normal((case.n, case.c, case.k, case.k)).astype(np.float32)
    return x, w, rng.standard_normal(case.n).astype(np.float32)


def run(x, w, bias=None, stride=1, fused=None, skip=True) -> np.ndarray:
    """The twin's output: x a channel slice between NaN, out one of a buffer of NaN, of which nothing else changes."""
    torn = np.full((len(x), x.shape[1] + 2, *x.shape[2:]), np.nan, np.float32)
    torn[:, 1:-1] = x
    height, width = (x.shape[2] - 1) // stride + 1, (x.shape[3] - 1) // stride + 1
    room = torch.full((len(x), len(w) + 2, height, width), torch.nan)
    bias = None if bias is None else torch.from_numpy(bias)
    x, w = torch.from_numpy(torn)[:, 1:-1], pack_weights(torch.from_numpy(np.ascontiguousarray(w)))
    out = cpu.conv(x, w, bias, stride=stride, fused=fused, out=room[:, 1:-1], skip=skip)
    assert room[:, 0].isnan().all()
    assert room[:, -1].isnan().all()
    return out.numpy()


@settings(max_examples=150, deadline=None)
@given(case=cases, skip=st.booleans())
def test_integers_are_exact(case: Case, skip: bool):
    x, w, bias = integers(case)
    y = run(x, w, bias, case.stride, skip=skip)
    np.testing.assert_array_equal(y, reference.conv(x, w, bias, case.stride))


@settings(max_examples=100, deadline=None)
@given(case=cases, before=st.booleans(), after=st.booleans(), residual=st.booleans(), scaled=st.booleans())
def test_fused_integers_are_exact(case: Case, before: bool, after: bool, residual: bool, scaled: bool):
    x, w, bias = integers(case)
    rng = np.random.default_rng(case.seed + 1)
    # a positive shift turns zeros into non-zeros, and would show in the padding if that were activated too
    scale, shift = rng.integers(-2, 3, (2, case.c)).astype(np.float32)
    added = rng.integers(-8, 9, case.out).astype(np.float32)
    fused = Fused(
        *(map(torch.from_numpy, (scale, shift)) if scaled else (None, None)),
        before,
        torch.from_numpy(added) if residual else None,
        after,
    )
    wanted = x.astype(np.float64)
    if scaled:
        wanted = wanted * scale[:, None, None] + shift[:, None, None]
    wanted = reference.conv(np.maximum(wanted, 0) if before else wanted, w, bias, case.stride) + residual * added
    y = run(x, w, bias, case.stride, fused)
    np.testing.assert_array_equal(y, np.maximum(wanted, 0) if after else wanted)


@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_the_dense_twin_gives_the_same_bits(case: Case):
    x, w, bias = normals(case)
    sparse, dense = (run(x, w, bias, case.stride, skip=skip) for skip in (True, False))
    np.testing.assert_array_equal(sparse.view(np.uint32), dense.view(np.uint32))


@settings(max_examples=40, deadline=None)
@given(case=cases, power=st.integers(-20, 20), seed=st.integers(0, 99))
def test_powers_of_two_and_the_order_of_channels_change_nothing(case: Case, power: int, seed: int):
    x, w, _ = integers(case)
    y = run(x, w, None, case.stride)
    np.testing.assert_array_equal(run(x * np.float32(2.0**power), w, None, case.stride), y * np.float32(2.0**power))
    order = np.random.default_rng(seed).permutation(case.c)
    np.testing.assert_array_equal(run(x[:, order], w[:, order], None, case.stride), y)


@pytest.mark.parametrize("zeros", [0.0, 0.7])
@pytest.mark.parametrize(("k", "channels"), [(3, 512), (1, 2048)])
def test_error_is_that_of_float32(k: int, channels: int, zeros: float):
    x, w, _ = normals(Case(c=channels, height=7, width=7, k=k, zeros=zeros, seed=1))
    wanted = reference.conv(x, w)
    # Chains of at most 64 terms, and at most 72 of their sums: sqrt(64 + 72)/2 roundings of 6e-8 are 3.5e-7, and the
    # bound of the whole project is 1e-6.
    assert np.linalg.norm(run(x, w) - wanted) <= 1e-6 * np.linalg.norm(wanted)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(("k", "stride"), FORMS)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_reach_what_dense_reaches(special: float, k: int, stride: int, skip: bool):
    x, w, bias = integers(Case(c=3, height=6, k=k, stride=stride, zeros=0.8, seed=4))
    x[0, 1, 2, 2] = special
    with np.errstate(invalid="ignore"):
        wanted = reference.conv(x, w, bias, stride)
    assert not np.isfinite(wanted).all()
    assert np.isfinite(wanted).any()
    np.testing.assert_array_equal(run(x, w, bias, stride, skip=skip), wanted)


def test_both_relus_keep_nan():
    x, w, bias = integers(Case(c=3, zeros=0.8, seed=4))
    x[0, 1, 2, 3] = np.nan
    y = run(x, w, bias, fused=Fused(pre_relu=True, post_relu=True))
    wanted = np.isnan(reference.conv(x, w, bias))
    np.testing.assert_array_equal(np.isnan(y), wanted)
    assert wanted.any()


def test_a_weight_that_is_not_finite_is_refused_before_it_could_be_skipped():
    _, w, _ = integers(Case())
    w[3, 1, 0, 0] = np.inf
    with pytest.raises(ValueError, match="finite"):
        pack_weights(torch.from_numpy(w))


@pytest.mark.parametrize(("k", "stride"), FORMS)
def test_negative_zero_and_denormals(k: int, stride: int):
    x, w, _ = integers(Case(height=4, width=4, k=k, stride=stride, seed=5))
    x[x == 0] = -0.0
    np.testing.assert_array_equal(run(x, w, None, stride), reference.conv(x, w, None, stride))
    tiny, ones = np.full((1, 1, 3, 3), 1e-42, np.float32), np.ones((32, 1, k, k), np.float32)
    wanted = reference.conv(tiny, ones, None, stride).astype(np.float32)
    assert (wanted > 0).all()
    np.testing.assert_array_equal(run(tiny, ones, None, stride), wanted)


@pytest.mark.parametrize(("k", "stride"), FORMS)
def test_zero_input_gives_the_bias_and_the_loop_gives_what_one_run_gives(k: int, stride: int):
    case = Case(images=2, n=33, k=k, stride=stride, zeros=1.0, seed=6)
    x, w, bias = integers(case)
    np.testing.assert_array_equal(run(x, w, bias, stride), np.broadcast_to(bias[None, :, None, None], case.out))
    x, w, bias = integers(case._replace(zeros=0.4))
    x, packed, bias = torch.from_numpy(x), pack_weights(torch.from_numpy(w)), torch.from_numpy(bias)
    fused = Fused(residual=torch.ones(case.out), post_relu=True)
    out = torch.full(case.out, torch.nan)
    cpu.loop(3, x, packed, bias, stride=stride, fused=fused, out=out)
    assert torch.equal(out, cpu.conv(x, packed, bias, stride=stride, fused=fused))


def test_the_residual_may_be_the_output_itself():
    case = Case(images=2, n=64, seed=9)
    x, w, bias = integers(case)
    out = torch.from_numpy(np.random.default_rng(1).integers(-8, 9, case.out).astype(np.float32))
    wanted = reference.conv(x, w, bias) + out.numpy()
    w, bias = pack_weights(torch.from_numpy(w)), torch.from_numpy(bias)
    cpu.conv(torch.from_numpy(x), w, bias, fused=Fused(residual=out), out=out)
    np.testing.assert_array_equal(out.numpy(), wanted)


def test_without_an_output_the_channels_are_those_of_bias_or_residual_or_all_that_are_packed():
    case = Case(n=33)
    x, w, bias = integers(case)
    x, packed = torch.from_numpy(x), pack_weights(torch.from_numpy(w))
    assert cpu.conv(x, packed, torch.from_numpy(bias)).shape == case.out
    assert cpu.conv(x, packed, fused=Fused(residual=torch.zeros(case.out))).shape == case.out
    assert cpu.conv(x, packed).shape == (*case.out[:1], 64, *case.out[2:])


def test_a_large_layer_is_divided_into_bands_and_groups():
    x, w, bias = integers(Case(c=3, height=45, width=37, n=160, seed=7))
    assert cpu.division(1, 45, 37, 160, 3, 1, 2) == (9, 160, 32)
    np.testing.assert_array_equal(run(x, w, bias), reference.conv(x, w, bias))


@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize(
    ("padded", "k", "stride", "run_length"), [(32, 3, 1, 32), (512, 3, 2, 64), (64, 1, 1, 64), (96, 1, 2, 128)]
)
@pytest.mark.parametrize("side", [1, 7, 14, 56, 640])
def test_a_division_covers_the_output_and_gives_each_thread_work(side, padded, k, stride, run_length, threads):
    rows, group, block = cpu.division(1, side, side, padded, k, stride, threads)
    assert block == run_length
    assert group % block == 0
    assert 1 <= rows <= side
    parts = -(-padded // group)
    # no thread has more rows than an even split gives it; below two or three rows most of a window would be halo
    assert rows <= max(3, -(-side // -(-threads // parts)))
    assert group == block or parts >= cpu.TASKS * threads or parts * -(-side // rows) >= cpu.TASKS * threads


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"x": torch.zeros(1, 2, 3, 3, dtype=torch.float16)}, ValueError, "x is torch.float16"),
        ({"x": torch.zeros(0, 2, 3, 3)}, ValueError, r"x is torch.float32 \(0, 2, 3, 3\)"),
        ({"x": torch.zeros(2, 3, 3)}, ValueError, "each image dense"),
        ({"x": torch.zeros(1, 2, 3, 3).to(memory_format=torch.channels_last)}, ValueError, "contiguous"),
        ({"w_packed": torch.zeros(3, 3, 3, 32)}, ValueError, "pack_weights"),
        ({"w_packed": torch.zeros(2, 3, 3, 31)}, ValueError, "multiple of 32"),
        ({"w_packed": torch.zeros(2, 5, 5, 32)}, UnsupportedShape, "k of 1 or 3"),
        ({"w_packed": torch.zeros(2, 3, 32, 3).transpose(2, 3)}, ValueError, "contiguous float32"),
        ({"bias": torch.zeros(64)[::2]}, ValueError, "bias is"),
        ({"stride": 3}, UnsupportedShape, "stride = 3: 1 or 2"),
        ({"bias": torch.zeros(33)}, ValueError, "33 output channels and Npad = 32"),
        ({"out": torch.zeros(1, 32, 3, 4)}, ValueError, r"\[1, 32, 3, 3\]"),
        ({"bias": torch.zeros(3), "out": torch.zeros(1, 4, 3, 3)}, ValueError, "bias is"),
        ({"fused": Fused(residual=torch.zeros(1, 32, 2, 2))}, ValueError, "fused.residual is"),
        ({"fused": Fused(torch.zeros(3), torch.zeros(3))}, ValueError, "fused.pre_scale is"),
        ({"fused": Fused(torch.zeros(2), torch.zeros(2).double())}, ValueError, "fused.pre_shift is"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, error, sentence):
    given_ = {"x": torch.zeros(1, 2, 3, 3), "w_packed": torch.zeros(2, 3, 3, 32)} | change
    with pytest.raises(error, match=sentence):
        cpu.conv(**given_)


def test_packing():
    w = torch.arange(33 * 2 * 9, dtype=torch.float32).reshape(33, 2, 3, 3)
    packed = pack_weights(w)
    assert packed.shape == (2, 3, 3, 64)
    assert torch.equal(packed[..., :33].permute(3, 0, 1, 2), w)
    assert not packed[..., 33:].any()
    assert torch.equal(pack_weights(w.half()), pack_weights(w.half().float()))
    for bad, sentence in [(w[0], "N, C, k, k"), (w.int(), "float32 or float16"), (w / 0, "finite")]:
        with pytest.raises(ValueError, match=sentence):
            pack_weights(bad)
