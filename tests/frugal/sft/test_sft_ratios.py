"""Closed forms of tiled schedules: golden ratios and windows, and dependencies followed one position at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from frugal.models import build
from frugal.sft.artifact import artifact_macs
from frugal.sft.chain import chain
from frugal.sft.errors import ShapeError, UnsupportedOp
from frugal.sft.ratios import Layer, macs_published, macs_single_halo, macs_untiled, published, single_halo, sizes


def layers_of(name: str) -> tuple[Layer, ...]:
    with torch.device("meta"):
        return chain(build(name)).layers


VGG, DARKNET = layers_of("vgg16"), layers_of("darknet19")

# forward multiply-adds ÷ untiled: of the published schedule, and with a single halo; to four decimals
GOLDEN = [
    ("vgg16", 512, 4, 7.8507, 3.2442),
    ("vgg16", 1024, 4, 3.8686, 1.9531),
    ("vgg16", 2048, 4, 2.1988, 1.4343),
    ("vgg16", 2048, 16, 11.3617, 4.0165),
    ("vgg16", 4096, 8, 2.4355, 1.5149),
    ("vgg16", 10240, 16, 2.1887, 1.4343),
    ("vgg16", 20480, 32, 2.2350, 1.4502),
    ("darknet19", 512, 4, 14.3489, 5.3520),
    ("darknet19", 1024, 4, 7.3464, 2.8049),
    ("darknet19", 2048, 4, 3.6268, 1.7726),
    ("darknet19", 2048, 16, 27.8551, 7.3720),
    ("darknet19", 4096, 8, 4.1893, 1.9267),
    ("darknet19", 10240, 16, 3.5858, 1.7726),
    ("darknet19", 20480, 32, 3.6945, 1.8029),
]


@pytest.mark.parametrize(("name", "side", "n", "doubled", "single"), GOLDEN)
def test_golden_forward_ratios(name, side, n, doubled, single):
    layers = VGG if name == "vgg16" else DARKNET
    untiled = macs_untiled(layers, side, side)
    assert round(macs_published(layers, side, side, n).forward / untiled.forward, 4) == doubled
    assert round(macs_single_halo(layers, side, side, n).forward / untiled.forward, 4) == single


@pytest.mark.parametrize(
    ("layers", "side", "n", "ratio"),
    [(VGG, 10240, 16, 2.52), (VGG, 20480, 32, 2.57), (VGG, 4096, 8, 2.77),
     (DARKNET, 10240, 16, 3.92), (DARKNET, 20480, 32, 4.03), (DARKNET, 4096, 8, 4.52)],
)  # fmt: skip
def test_golden_ratios_of_a_step(layers, side, n, ratio):
    macs = macs_published(layers, side, side, n)
    assert (macs.recompute, macs.dgrad) == (macs.forward, macs.forward)
    assert macs.total == 3 * macs.forward + macs.wgrad
    assert round(macs.total / macs_untiled(layers, side, side).total, 2) == ratio


def test_untiled_multiply_adds_are_the_networks():
    assert macs_untiled(VGG, 2048, 2048).forward == 1_282_853_044_224
    assert macs_untiled(DARKNET, 224, 224).forward == 2_790_989_824
    assert macs_untiled(VGG, 2048, 2048).total == 3 * 1_282_853_044_224


def test_golden_windows():
    vgg, darknet = ([band[0] for band in single_halo(layers, 2048, 4)] for layers in (VGG, DARKNET))
    assert vgg == [(0, 602), (422, 1114), (934, 1626), (1446, 2048)]
    assert darknet == [(0, 683), (341, 1195), (853, 1707), (1365, 2048)]


def test_rows_and_columns_multiply():
    wide = macs_published(VGG, 1024, 2048, 4).forward
    rows, columns = (
        [sum(hi - lo for lo, hi in level) for level in zip(*(b.computed for b in published(VGG, side, 4)), strict=True)]
        for side in (1024, 2048)
    )
    assert wide == sum(layer.macs * r * c for layer, r, c in zip(VGG, rows[1:], columns[1:], strict=True))


@st.composite
def chains(draw, strides: bool) -> list[Layer]:
    """Random layers; without strides such that the published schedule knows."""
    found = []
    for place in range(draw(st.integers(1, 6))):
        if strides:
            kernel = draw(st.integers(1, 5))
            found.append(
                Layer(f"l{place}", kernel, draw(st.integers(1, 3)), draw(st.integers(0, (kernel - 1) // 2)), 1)
            )
        elif draw(st.booleans()):
            found.append(Layer(f"l{place}", 2, 2, 0))
        else:
            kernel = draw(st.sampled_from([1, 3, 5, 7]))
            found.append(Layer(f"l{place}", kernel, 1, kernel // 2, draw(st.integers(1, 9))))
    return found


def read_by(layer: Layer, position: int, size: int) -> set[int]:
    """The positions within the input that one position of the output is computed from."""
    start = position * layer.stride - layer.padding
    return {p for p in range(start, start + layer.kernel) if 0 <= p < size}


@settings(deadline=None, max_examples=60)
@given(layers=chains(strides=True), size=st.integers(1, 60), n=st.integers(1, 4))
def test_a_single_halo_is_what_the_tile_depends_on(layers, size, n):
    whole = sizes(layers, size)
    if min(whole) < 1 or n > whole[-1]:
        return
    bands = single_halo(layers, size, n)
    assert [p for band in bands for p in range(*band[-1])] == list(range(whole[-1]))  # the tiles partition
    for band in bands:
        wanted = set(range(*band[-1]))
        for layer, below, (lo, hi) in zip(reversed(layers), whole[-2::-1], band[-2::-1], strict=True):
            wanted = set().union(*(read_by(layer, p, below) for p in wanted))
            # strides may pass over positions inside the range
            assert (min(wanted), max(wanted) + 1) == (lo, hi)
            wanted = set(range(lo, hi))


@settings(deadline=None, max_examples=60)
@given(layers=chains(strides=False), cells=st.integers(1, 6), n=st.integers(1, 5))
def test_a_published_window_is_what_its_part_influences_and_what_that_depends_on(layers, cells, n):
    size = cells * n * 2 ** sum(layer.pools for layer in layers)
    whole = sizes(layers, size)
    bands = published(layers, size, n)
    for level, each in enumerate(whole):
        assert [p for band in bands for p in range(*band.own[level])] == list(range(each))
    for band in bands:
        reached = set(range(*band.own[0]))
        for layer, below, each in zip(layers, whole[:-1], whole[1:], strict=True):
            reached = {p for p in range(each) if read_by(layer, p, below) & reached}
        assert reached == set(range(*band.kept[-1]))
        for layer, below, (lo, hi) in zip(reversed(layers), whole[-2::-1], band.kept[-2::-1], strict=True):
            reached = set().union(*(read_by(layer, p, below) for p in reached))
            assert reached == set(range(lo, hi))
        for (lo, hi), (first, last), each in zip(band.computed, band.kept, whole, strict=True):
            assert (max(0, lo), min(each, hi)) == (first, last)


def test_a_first_layer_that_pads_reads_one_ring_outside_the_image():
    (band,) = published([Layer("conv", 3, 1, 1, 9)], 8, 1)
    assert band.kept == ((0, 8), (0, 8))
    assert band.computed == ((-1, 9), (0, 8))


@pytest.mark.parametrize("n", [0, 3])
def test_tiles_must_divide(n):
    with pytest.raises(ValueError, match=f"^{n} tiles do not divide the image, which has 1024 positions on that axis$"):
        published(VGG, 1024, n)
    with pytest.raises(ValueError, match=r"^64 tiles do not divide pool5, which has 32 positions"):
        published(VGG, 1024, 64)
    with pytest.raises(ValueError, match=r"^33 tiles of an output with 32 positions on that axis: take from 1 to 32$"):
        single_halo(VGG, 1024, 33)


def test_artifact_macs_of_a_model():
    with torch.device("meta"):
        model = build("vgg16")
    assert artifact_macs(model, 2048, 2048, 4) == macs_published(VGG, 2048, 2048, 4)
    with pytest.raises(ShapeError, match=r"^an image of 224 × 224: 4 tiles do not divide pool4, .*; take n = 1 or 7$"):
        artifact_macs(model, 224, 224, 4)
    with pytest.raises(
        ShapeError, match=r"^an image of 16 × 64: .* pool5, which has 0 positions.*; take a larger image$"
    ):
        artifact_macs(model, 16, 64, 1)


# ---- chains ----------------------------------------------------------------------------------------------------------


def test_a_chain_ends_before_what_is_not_local():
    read = chain(build("vgg16", width_divisor=16))
    assert read.body[-1][0] == "pool5"
    assert [type(module) for module in read.head] == [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.Softmax]
    assert len(read.layers) == 13 + 5


def test_nested_chains_dilation_and_groups():
    inner = nn.Sequential(nn.Conv2d(4, 8, 3, padding="same", dilation=2, groups=2), nn.ReLU())
    read = chain(nn.Sequential(nn.Conv2d(3, 4, 2, stride=2, padding="valid"), inner, nn.AvgPool2d(2)))
    assert [name for name, _ in read.body] == ["0", "1.0", "1.1", "2"]
    assert read.head == ()
    assert read.layers == (
        Layer("0", 2, 2, 0, 3 * 4 * 4), Layer("1.0", 5, 1, 2, 2 * 8 * 9), Layer("2", 2, 2, 0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Conv2d(3, 3, 3), r"^the network: Conv2d, which is no nn.Sequential, cannot run in tiles: only chains"),
        (nn.Sequential(nn.Flatten()), r"^the network: Flatten without a convolution or a pooling before it"),
        (nn.Sequential(), r"^the network: no layer at all without"),
        (nn.Sequential(nn.ReLU(), nn.Flatten()), r"^the network: Flatten without"),
        (nn.Sequential(nn.Conv2d(3, 3, (3, 5))), r"^0: kernel_size=\(3, 5\) in a chain cannot"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, stride=(1, 2))), r"^0: stride=\(1, 2\) in a chain cannot"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, padding_mode="reflect")), r"Conv2d padding_mode='reflect' cannot"),
        (nn.Sequential(nn.Conv2d(3, 3, 2, padding="same")), r"padding='same' with a kernel that spans 2 cannot"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), r"^0: ceil_mode=True in a chain cannot"),
    ],
)
def test_what_is_no_chain_is_named(model, sentence):
    with pytest.raises(UnsupportedOp, match=sentence):
        chain(model)
