"""Style: systems can be told apart by anybody, by colour and by shape, and look the same everywhere."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from skimage.color import deltaE_ciede2000, rgb2lab

from frugal.figures import style
from frugal.figures.cusnn.sparsity import FILTERS
from frugal.figures.sft.kernel import LOOKS as KERNELS
from frugal.figures.sft.steps import LOOKS as METHODS

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency" (IEEE TVCG
# 2009), severity 1.0; the matrices apply to linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def seen(colour: str, sight: str) -> np.ndarray:
    """The colour in CIELAB as that sight sees it."""
    encoded = np.array(to_rgb(colour))
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    shifted = np.clip(SIGHT[sight] @ linear, 0, 1)
    again = np.where(shifted <= 0.0031308, 12.92 * shifted, 1.055 * shifted ** (1 / 2.4) - 0.055)
    return rgb2lab(again[None, None])[0, 0]


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    "table", [style.LOOKS, FILTERS, METHODS, KERNELS], ids=["systems", "filters", "methods", "kernels"]
)
def test_colours_keep_their_distance(sight, table):
    # CIEDE2000 of 10 is several times what can just be seen (about 1 to 2) and holds for small marks too.
    for (one, look), (two, other) in itertools.combinations(table.items(), 2):
        assert deltaE_ciede2000(seen(look.colour, sight), seen(other.colour, sight)) > 10, (sight, one, two)


def test_shape_alone_tells_systems_apart():
    markers = [look.marker for look in style.LOOKS.values()]
    assert len(set(markers)) == len(markers)


def test_a_system_looks_the_same_alone_and_in_company():
    assert style.looks(["sparse"])["sparse"] == style.looks(style.LOOKS)["sparse"]
    assert list(style.looks(["onednn_fp32", "sparse"])) == ["sparse", "onednn_fp32"]


@pytest.mark.parametrize(
    ("arm", "system"),
    [
        ("cudnn_fp32_cl", "cudnn_fp32"),
        ("onednn_fp32_cl", "onednn_fp32"),
        ("cudnn_fp16_cl", "cudnn_fp16_cl"),
        ("a_cl", "a_cl"),
    ],
)
def test_a_library_in_its_other_layout_is_the_same_system(arm, system):
    assert style.system(arm) == system


def test_arms_that_the_table_lacks_are_drawn_too_with_markers_of_their_own():
    found = style.looks(["zz_new", "sparse", "aa_new"])
    assert list(found) == ["sparse", "aa_new", "zz_new"]
    assert found["zz_new"].label == "zz_new"
    markers = {look.marker for look in found.values()} | {look.marker for look in style.LOOKS.values()}
    assert len(markers) == len(style.LOOKS) + 2


@pytest.mark.parametrize(
    ("value", "words"), [(2.5e-6, "2.5 µs"), (1e-6, "1 µs"), (0.01, "10 ms"), (1, "1 s"), (5e-8, "50 ns"), (20, "20 s")]
)
def test_times_are_written_in_the_unit_that_fits(value, words):
    assert style.seconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "0.5×"), (2.13, "2.1×"), (9.97, "10×"), (12.4, "12×"), (150, "150×")]
)
def test_ratios_are_written_with_two_digits(value, words):
    assert style.times(value) == words


def test_the_callers_settings_come_back():
    import matplotlib as mpl

    before = mpl.rcParams["svg.fonttype"], mpl.rcParams["font.size"]
    with style.context():
        assert mpl.rcParams["svg.fonttype"] == "none"
    assert (mpl.rcParams["svg.fonttype"], mpl.rcParams["font.size"]) == before
