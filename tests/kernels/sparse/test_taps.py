"""The generator's taps against the definition of a convolution, term by term."""

import itertools

import pytest

from kernels.sparse.taps import taps, window
from kernels.sparse.variant import Variant, ladder, variants


@pytest.mark.parametrize(("k", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_taps_are_the_terms_of_the_convolution(k, stride):
    for th, tw in itertools.product(range(1, 9), repeat=2):
        terms = {
            (a * stride + r, b * stride + s, a, b, r, s)
            for a, b, r, s in itertools.product(range(th), range(tw), range(k), range(k))
        }
        rows, cols = window(th, tw, k, stride)
        emitted = [(i, j, *tap) for i in range(rows) for j in range(cols) for tap in taps(i, j, th, tw, k, stride)]
        assert len(emitted) == len(set(emitted))
        assert set(emitted) == terms


def test_a_variant_is_its_name():
    found = [
        *(v for v in variants() if v.rung == "v6_fused"),
        *ladder(),
        Variant("v3_ballot", k=1, stride=2, th=12, tw=1, warps=16, fetch="branch", min_taps=17),
        Variant("v6_fused", th=2, tw=7, stack=7, outputs_per_lane=2, warps=14, reduce="cluster"),
    ]
    assert [Variant.parse(v.name) for v in found] == found
    assert len({v.name for v in found}) == len(found)


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.9", "9.0", None])
def test_every_kernel_is_python_for_every_gpu(capability):
    for variant in (*variants(), *ladder()):
        compile(variant.source(capability).python_source, variant.name, "exec")


@pytest.mark.parametrize(("field", "value"), [("rung", "v9"), ("k", 5), ("stride", 3), ("th", 0), ("warps", 33)])
def test_an_impossible_variant_names_its_field(field, value):
    with pytest.raises(ValueError, match=f"{field} = .*allowed"):
        Variant(**{"rung": "v3_ballot", field: value})


@pytest.mark.parametrize(("rung", "stack"), [("v3_ballot", 2), ("v6_fused", 3), ("v6_fused", 0)])
def test_tiles_of_a_block_divide_its_warps(rung, stack):
    with pytest.raises(ValueError, match=r"stack = .*allowed"):
        Variant(rung, warps=8, stack=stack)


def test_a_foreign_name_is_refused():
    with pytest.raises(ValueError, match="no variant"):
        Variant.parse("v3_ballot")
