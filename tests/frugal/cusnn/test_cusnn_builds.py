"""Which kernels a campaign builds, and that they are all that its layers need."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from frugal.cusnn.builds import builds
from frugal.cusnn.ours import RUNGS
from kernels.sparse import ConvShape, plan, variants

TABLE = Path(__file__).parents[2] / "data" / "cusnn" / "layers.csv"
NAMES = [variant.name for variant in variants()]
CPU = {"device_kind": "cpu", "capability": None}
H200 = {"device_kind": "cuda", "capability": "9.0"}
CAPABILITIES = ["7.5", "8.0"]


def test_a_machine_without_a_gpu_builds_for_the_named_capabilities():
    assert len(set(NAMES)) == len(NAMES) > 1
    assert set(builds("quick", CAPABILITIES, CPU)) == {(name, c) for name in NAMES for c in CAPABILITIES}


def test_the_smallest_campaign_shows_one_build_a_capability():
    assert builds("smoke", CAPABILITIES, CPU) == [(NAMES[0], "7.5"), (NAMES[0], "8.0")]


@pytest.mark.parametrize("preset", ["smoke", "quick", "sweep", "headline"])
def test_a_gpu_gets_every_kernel_for_itself_alone(preset: str):
    assert builds(preset, CAPABILITIES, H200) == [(name, "9.0") for name in NAMES]


def layers() -> list[tuple[int, ...]]:
    """(C, H, W, N) of the 3×3 convolutions with stride 1, each once, from the published table."""
    with TABLE.open() as file:
        rows = [row for row in csv.DictReader(file) if (row["kernel"], row["stride"], row["pad"]) == ("3", "1", "1")]
    return sorted({tuple(int(row[name]) for name in "CHWN") for row in rows})


def test_the_table_holds_the_layers_that_are_measured():
    resnet50 = {(64, 56, 56, 64), (128, 28, 28, 128), (256, 14, 14, 256), (512, 7, 7, 512)}
    densenet169 = {(128, size, size, 32) for size in (56, 28, 14, 7)}
    assert resnet50 | densenet169 < set(layers())


@pytest.mark.parametrize("sm_count", [132, 108, 80, 46], ids=lambda count: f"{count} SMs")
@pytest.mark.parametrize("arm", RUNGS)
def test_every_layer_finds_its_kernel_among_those_built(arm: str, sm_count: int):
    rung, skip = RUNGS[arm]
    built = {name for name, _ in builds("smoke", [], H200)}
    for c, h, w, n in layers():
        for batch in (1, 2, 4, 8):
            chosen = plan(ConvShape(batch, c, h, w, n), sm_count, skip=skip, rung=rung)
            assert chosen.variant.name in built
            assert (chosen.variant.rung, chosen.variant.skip) == (rung, skip)


def test_every_kernel_built_serves_an_arm():
    assert {(variant.rung, variant.skip) for variant in variants()} == set(RUNGS.values())
