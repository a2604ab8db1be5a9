"""The layers that are measured, which images each phase sees, and the right answer."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from small_network import info, photographs, small

from frugal.cusnn.cases import PHASES, Layer, case, images_of, layers, reference
from frugal.cusnn.convolutions import groups
from frugal.cusnn.sparsity import ConvLayer
from frugal.errors import FrugalError

CPU = torch.device("cpu")
CONV = ConvLayer(index=7, name="layer1.0.conv2", C=2, H=4, W=5, N=3, k=3, stride=1, pad=1, macs=3 * 2 * 9 * 4 * 5)


def marked(images: int, conv: ConvLayer = CONV) -> Layer:
    """A layer whose input of image i is i + 1 everywhere, but for a quarter of zeros."""
    inputs = torch.arange(1.0, images + 1)[:, None, None, None].expand(images, conv.C, conv.H, conv.W).clone()
    inputs[:, :, 0] = 0
    return Layer(conv, torch.randn(conv.N, conv.C, conv.k, conv.k), inputs, 1, "random")


def drawn(made, seed: int, phase: str) -> list[int]:
    """The numbers of the images in a phase's batch."""
    return [int(image.max()) - 1 for image in made.inputs(seed, phase)["x"]]


# ---- layers ----------------------------------------------------------------------------------------------------------


def every_3x3(shapes):
    return groups(shapes, "all", [3], "quick", 20)


def shapes_of_stride_1(shapes):
    return [group for group in groups(shapes, "distinct", [3], "quick", 20) if shapes[group[0]][5] == 1]


def test_every_layer_that_is_chosen_has_its_own_input():
    model, images = small(), photographs(3)
    found = layers(model, info(), images, every_3x3, CPU)
    assert [layer.conv.name for layer in found] == ["steps.0", "steps.3", "steps.6", "steps.9", "steps.12", "steps.15"]
    assert [layer.conv.index for layer in found] == [0, 1, 2, 3, 4, 5]
    for layer in found:
        number = int(layer.conv.name.split(".")[1])
        with torch.no_grad():
            torch.testing.assert_close(layer.inputs, model.steps[:number](images))
        assert torch.equal(layer.weight, model.steps[number].weight)
        assert not layer.weight.requires_grad
        assert layer.inputs.shape == (3, layer.conv.C, layer.conv.H, layer.conv.W)
        assert layer.count == 1
        assert layer.sparsity == np.mean(layer.inputs.numpy() == 0)
        assert (layer.sparsity > 0) == (number > 0)  # but for the photographs themselves


@pytest.mark.parametrize("same", [3, 4], ids=["odd", "even"])
def test_of_each_shape_the_median_by_sparsity_is_taken(same: int):
    model, images = small(same), photographs(3)
    every = layers(model, info(), images, every_3x3, CPU)[1 : 1 + same]
    shares = [np.mean(layer.inputs.numpy() == 0) for layer in every]
    assert len(set(shares)) == same
    assert shares != sorted(shares)  # so that no order of the layers gives the median by itself
    first, other = layers(model, info(), images, shapes_of_stride_1, CPU)
    assert first.sparsity == np.quantile(shares, 0.5, method="higher")
    assert torch.equal(first.inputs, every[shares.index(first.sparsity)].inputs)
    assert (first.count, other.count) == (same, 1)
    assert (other.conv.C, other.conv.N) == (16, 12)


# ---- images of a phase -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "batch"), [(4, 1), (32, 1), (32, 8), (35, 8)])
def test_phases_see_different_images_where_there_are_enough(images: int, batch: int):
    made = case(marked(images), info(), batch, "photographs", "ab")
    seen = {phase: {n for seed in range(20) for n in drawn(made, seed, phase)} for phase in PHASES}
    for one, other in itertools.combinations(PHASES, 2):
        assert not seen[one] & seen[other]
    assert all(len(set(images_of(phase, images, batch))) == images // 4 for phase in PHASES)


@pytest.mark.parametrize(("images", "batch"), [(3, 1), (31, 8), (8, 8)])
def test_phases_share_the_images_where_there_are_too_few(images: int, batch: int):
    for phase in PHASES:
        assert list(images_of(phase, images, batch)) == list(range(images))
    made = case(marked(images), info(), batch, "photographs", "ab")
    seen = {n for seed in range(60) for n in drawn(made, seed, "verify")}
    assert seen == set(range(images))


@pytest.mark.parametrize(("images", "batch"), [(32, 8), (9, 8), (8, 8)])
def test_no_image_is_repeated_in_a_batch(images: int, batch: int):
    made = case(marked(images), info(), batch, "photographs", "ab")
    for phase in PHASES:
        for seed in range(10):
            assert len(set(drawn(made, seed, phase))) == batch


def test_the_seed_decides_the_batch_and_nobody_can_change_the_layer():
    layer = marked(32)
    made = case(layer, info(), 4, "photographs", "ab")
    assert drawn(made, 1, "timed") == drawn(made, 1, "timed")
    assert len({tuple(drawn(made, seed, "timed")) for seed in range(20)}) > 1
    given = made.inputs(1, "timed")
    assert torch.equal(given["w"], layer.weight)
    before = layer.inputs.clone(), layer.weight.clone()
    given["x"].zero_()
    given["w"].zero_()
    assert torch.equal(layer.inputs, before[0])
    assert torch.equal(layer.weight, before[1])


def test_a_batch_larger_than_the_images_is_refused_in_one_sentence():
    assert case(marked(8), info(), 8, "photographs", "ab")
    with pytest.raises(FrugalError, match=r"cusnn\.batch_sizes has 9, but there are 8 images.*give more images"):
        case(marked(8), info(), 9, "photographs", "ab")


# ---- the right answer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "conv", [CONV, dataclasses.replace(CONV, H=5, k=1, pad=0), dataclasses.replace(CONV, stride=2)]
)
def test_the_reference_is_a_sum_in_float64_and_s_that_of_absolute_products(conv: ConvLayer):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, conv.C, conv.H, conv.W)).astype(np.float32)
    w = rng.standard_normal((conv.N, conv.C, conv.k, conv.k)).astype(np.float32)
    found = reference(torch.from_numpy(x), torch.from_numpy(w), conv.stride)
    assert found.y.dtype == found.s.dtype == torch.float64
    assert found.terms == conv.C * conv.k**2
    for b, n, i, j in np.ndindex(*found.y.shape):
        total = absolute = 0.0
        for c, r, s in np.ndindex(conv.C, conv.k, conv.k):
            row, col = i * conv.stride + r - conv.pad, j * conv.stride + s - conv.pad
            if 0 <= row < conv.H and 0 <= col < conv.W:
                product = float(x[b, c, row, col]) * float(w[n, c, r, s])
                total += product
                absolute += abs(product)
        # at most 18 terms below 10 in float64, in another order
        assert abs(found.y[b, n, i, j].item() - total) < 1e-13
        assert abs(found.s[b, n, i, j].item() - absolute) < 1e-13


def test_a_case_computes_the_reference_of_its_own_inputs():
    made = case(marked(8), info(), 2, "photographs", "ab")
    given = made.inputs(3, "verify")
    assert torch.equal(made.reference(given).y, reference(given["x"], given["w"], 1).y)


# ---- names and columns -----------------------------------------------------------------------------------------------


def test_a_case_is_called_the_same_for_ever():
    made = case(marked(8), info(), 2, "photographs", "ab")
    assert made.case_id == "60b6bf1cdfba7592"
    assert case(marked(32), info(), 2, "others", "cd").case_id == made.case_id  # which images: a column, not a name


def test_layer_batch_and_weights_tell_cases_apart():
    renamed = marked(8, dataclasses.replace(CONV, name="layer1.1.conv2", index=9))
    made = [
        case(marked(8), info(), 2, "photographs", "ab"),
        case(marked(8), info(), 4, "photographs", "ab"),
        case(dataclasses.replace(marked(8), weights="trained"), info(), 2, "photographs", "ab"),
        case(renamed, info(), 2, "photographs", "ab"),
        case(dataclasses.replace(marked(8), count=3), info(), 2, "photographs", "ab"),
        case(marked(8), dataclasses.replace(info(), definition="keras_v1"), 2, "photographs", "ab"),
    ]
    assert len({one.case_id for one in made}) == len(made)
    assert [one.axes["weights"] for one in made[:3]] == ["random", "random", "trained"]
    assert made[0].label == "resnet50 layer1.0.conv2 b2"


def test_columns_say_what_was_computed_on_what():
    columns = case(marked(8), info(), 2, "photographs", "ab").columns
    assert {name: columns[name] for name in ("n", "c", "h", "w", "k", "r", "s", "stride", "pad", "groups")} == {
        "n": 2, "c": 2, "h": 4, "w": 5, "k": 3, "r": 3, "s": 3, "stride": 1, "pad": 1, "groups": 1,
    }  # fmt: skip
    assert columns["flop_dense_equiv"] == 2 * 2 * 3 * 4 * 5 * 2 * 9  # 2 a multiply-add, 2 images
    assert columns["sparsity_measured"] == 0.25  # one row of four
    assert (columns["sparsity_pattern"], columns["dataset"], columns["dataset_sha256"]) == ("real", "photographs", "ab")
