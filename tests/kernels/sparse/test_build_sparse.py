"""What the build makes of generated kernels: no spill, and the multiply-adds that the generator emitted."""

import pytest

from kernels.build import build
from kernels.sparse import Variant

SMALLEST = Variant("v3_ballot", th=1, fetch="branch")


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.9", "9.0"])
def test_the_smallest_tile_does_not_spill(capability, tmp_path):
    report = build(SMALLEST.source(capability), capability, tmp_path / "k")
    assert (report.local_bytes, report.spill_store_bytes, report.spill_load_bytes) == (0, 0, 0)
    assert report.ffma == 9 * 7  # every product of a channel is one multiply-add; without contraction there were none


@pytest.mark.parametrize(
    ("tile", "limit"), [({}, 128), ({"th": 4, "outputs_per_lane": 2}, 128), ({"warps": 16, "fetch": "branch"}, 128)]
)
def test_registers_are_limited_where_that_costs_no_spill(tile, limit):
    variant = Variant("v3_ballot", **tile)
    assert variant.source("9.0").max_registers == limit
    assert variant.source("8.0").max_registers is None
    assert variant.source("9.0").python_source == variant.source().python_source


def test_sums_that_need_more_registers_get_them():
    assert Variant("v3_ballot", outputs_per_lane=2).source("9.0").max_registers == 255
