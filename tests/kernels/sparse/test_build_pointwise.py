"""What the build makes of pointwise kernels: no spill, and the multiply-adds that the generator emitted."""

import pytest

from kernels.build import build
from kernels.sparse.pointwise import Variant

SMALL = Variant(n=4, m=4, groups=8, chunk=4)


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.9", "9.0"])
def test_a_small_tile_does_not_spill(capability, tmp_path):
    report = build(SMALL.source(capability), capability, tmp_path / "k")
    assert (report.local_bytes, report.spill_store_bytes, report.spill_load_bytes) == (0, 0, 0)
    products = SMALL.chunk * SMALL.n * SMALL.m
    # One each for the four inputs that a thread scales on their way, before and in the loop.
    assert report.ffma == products + 2 * 4


def test_clusters_are_for_capabilities_that_have_them():
    assert "mailbox" in SMALL.source("9.0").python_source
    for capability in (None, "7.5", "8.9"):
        assert "mailbox" not in SMALL.source(capability).python_source
    assert "launch_dependents()" not in SMALL.source("8.9").python_source


@pytest.mark.parametrize("capability", ["7.5", "9.0"])
def test_sums_are_added_in_as_many_passes_as_shared_memory_needs(capability):
    wide = Variant(m=8, groups=8, chunk=4, reduce="ticket")  # 64×32 sums of 8 groups: 72 KiB with their padding
    source = wide.source(capability)
    assert source.dynamic_shared_bytes <= {"7.5": 48, "9.0": 64}[capability] * 1024
    assert source.python_source.count("got0_7_0, ") == 2  # of 64 KiB or 48 KiB, one n-word of a thread at a time
