"""The CPU twin against float64 plain sums, and bit for bit where integers make float32 exact."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.sparse import cpu, reference
from kernels.sparse.pack import pack_weights

cases = st.tuples(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 11), st.integers(1, 11), st.sampled_from([1, 31, 32, 33, 64]),
    st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]), st.integers(0, 2**31),
)  # fmt: skip


def integers(case):
    """x, w, bias as small integers: every sum is below 2^24, so float32 is exact in any order."""
    images, c, height, width, n, zeros, seed = case
    rng = np.random.default_rng(seed)
    x = rng.integers(-8, 9, (images, c, height, width)).astype(np.float32)
    x[rng.random(x.shape) < zeros] = 0
    return x, rng.integers(-8, 9, (n, c, 3, 3)).astype(np.float32), rng.integers(-8, 9, n).astype(np.float32)


def run(x, w, bias, skip=True):
    """The twin's output with NaN in the buffer first and guard elements around it."""
    images, _, height, width = x.shape
    room = torch.full((images, len(w) + 2, height, width), float("nan"))
    out = room[:, 1:-1]
    bias = None if bias is None else torch.from_numpy(bias)
    cpu.conv3x3(torch.from_numpy(x), pack_weights(torch.from_numpy(w)), bias, out=out, skip=skip)
    assert room[:, 0].isnan().all()
    assert room[:, -1].isnan().all()
    return out.numpy()


@settings(max_examples=60, deadline=None)
@given(case=cases, skip=st.booleans())
def test_integers_are_exact(case, skip):
    x, w, bias = integers(case)
    np.testing.assert_array_equal(run(x, w, bias, skip), reference.conv(x, w, bias))


@pytest.mark.parametrize("zeros", [0.0, 0.7])
def test_error_is_that_of_float32(zeros):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 512, 7, 7)).astype(np.float32)
    x[rng.random(x.shape) < zeros] = 0
    w = rng.standard_normal((32, 512, 3, 3)).astype(np.float32)
    y, wanted = run(x, w, None), reference.conv(x, w)
    # 4608 terms in chains of at most 9·64, then 8 of those: ~sqrt(9·64)/2 roundings of 6e-8 are 7e-7.
    assert np.linalg.norm(y - wanted) <= 1e-6 * np.linalg.norm(wanted)


def test_the_dense_twin_gives_the_same_bits():
    x, w, bias = integers((2, 5, 9, 7, 33, 0.6, 3))
    x, w = x * np.float32(0.1), w * np.float32(0.3)
    np.testing.assert_array_equal(run(x, w, bias, True), run(x, w, bias, False))


@settings(max_examples=30, deadline=None)
@given(case=cases, power=st.integers(-20, 20), seed=st.integers(0, 99))
def test_powers_of_two_and_the_order_of_channels_change_nothing(case, power, seed):
    x, w, _ = integers(case)
    y = run(x, w, None)
    np.testing.assert_array_equal(run(x * np.float32(2.0**power), w, None), y * np.float32(2.0**power))
    order = np.random.default_rng(seed).permutation(x.shape[1])
    np.testing.assert_array_equal(run(x[:, order], w[:, order], None), y)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_reach_what_dense_reaches(special):
    x, w, bias = integers((1, 3, 6, 5, 32, 0.8, 4))
    x[0, 1, 2, 3] = special
    with np.errstate(invalid="ignore"):
        wanted = reference.conv(x, w, bias)
    np.testing.assert_array_equal(run(x, w, bias), wanted)


def test_negative_zero_and_denormals():
    x, w, _ = integers((1, 2, 4, 4, 32, 0.5, 5))
    x[x == 0] = -0.0
    np.testing.assert_array_equal(run(x, w, None), reference.conv(x, w))
    tiny = np.full((1, 1, 3, 3), 1e-42, np.float32)
    w = np.ones((32, 1, 3, 3), np.float32)
    np.testing.assert_array_equal(run(tiny, w, None), reference.conv(tiny, w).astype(np.float32))


def test_zero_input_gives_the_bias_and_the_loop_the_same():
    x, w, bias = integers((2, 3, 5, 6, 33, 1.0, 6))
    np.testing.assert_array_equal(run(x, w, bias), np.broadcast_to(bias[None, :, None, None], (2, 33, 5, 6)))
    x, w, bias = integers((2, 3, 5, 6, 33, 0.4, 7))
    out = torch.full((2, 33, 5, 6), float("nan"))
    cpu.loop(3, torch.from_numpy(x), pack_weights(torch.from_numpy(w)), torch.from_numpy(bias), out)
    np.testing.assert_array_equal(out.numpy(), reference.conv(x, w, bias))


def test_a_channel_slice_with_a_batch_stride():
    x, w, bias = integers((3, 4, 6, 5, 32, 0.5, 8))
    wide = torch.from_numpy(np.concatenate([x, np.full_like(x, np.nan)], axis=1))
    out = cpu.conv3x3(wide[:, :4], pack_weights(torch.from_numpy(w)), torch.from_numpy(bias))
    np.testing.assert_array_equal(out.numpy(), reference.conv(x, w, bias))


def test_bands_cover_the_image_whatever_their_height():
    assert cpu.band_rows((1, 128, 56, 56), 32, 2) == 3
    assert cpu.band_rows((1, 512, 7, 7), 512, 2) == 7
    assert cpu.band_rows((1, 128, 7, 7), 32, 2) == 2


@pytest.mark.parametrize(
    ("x", "w", "sentence"),
    [
        (torch.zeros(1, 2, 3, 3, dtype=torch.float16), torch.zeros(2, 3, 3, 32), "float32"),
        (torch.zeros(1, 2, 3, 3), torch.zeros(3, 3, 3, 32), "pack_weights"),
        (torch.zeros(1, 2, 3, 3), torch.zeros(2, 3, 3, 31), "multiple of 32"),
    ],
)
def test_what_does_not_fit_is_refused(x, w, sentence):
    with pytest.raises(ValueError, match=sentence):
        cpu.conv3x3(x, w)


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
