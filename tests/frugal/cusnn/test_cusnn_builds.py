"""Which kernels a campaign builds, and that they are all that its layers need."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from frugal import config
from frugal.cusnn import choices, shapes
from frugal.cusnn.builds import builds
from frugal.errors import FrugalError
from kernels.sparse import ConvShape, UnsupportedShape, Variant, parse, plan, variants

TABLE = Path(__file__).parents[2] / "data" / "cusnn" / "layers.csv"
NAMES = [variant.name for variant in variants()]
CPU = {"device_kind": "cpu", "capability": None, "sm_count": None}
H200 = {"device_kind": "cuda", "capability": "9.0", "sm_count": 132}
CAPABILITIES = ["7.5", "8.0"]
LAYERS = ["sparsity", "layers", "break_even"]


def built(device: dict, preset: str = "quick", **cusnn: object) -> list[tuple[str, str]]:
    cfg = config.load({"preset": preset, "cusnn": {"experiments": LAYERS, **cusnn}})
    return builds(config.cusnn(cfg), CAPABILITIES, device)


def test_a_machine_without_a_gpu_builds_for_the_named_capabilities():
    assert len(set(NAMES)) == len(NAMES) > 1
    assert set(built(CPU)) == {(name, c) for name in NAMES for c in CAPABILITIES}
    assert built(CPU, experiments=["ladder"]) == built(CPU)  # what cannot be launched here is not needed


def test_the_smallest_campaign_shows_one_build_a_capability():
    assert built(CPU, "smoke") == [(NAMES[0], "7.5"), (NAMES[0], "8.0")]


@pytest.mark.parametrize("preset", ["smoke", "quick", "sweep", "headline"])
def test_a_gpu_gets_every_kernel_for_itself_alone(preset: str):
    assert built(H200, preset) == [(name, "9.0") for name in NAMES]


def test_the_ladder_brings_what_its_arms_launch():
    found = [name for name, _ in built(H200, experiments=["ladder"])]
    for layer, batch in shapes.ladder("quick", [1, 8]):
        for name in (*choices.RUNGS, *choices.ABLATIONS):
            try:
                chosen = choices.choose(name, layer.shape(batch), 132)
            except UnsupportedShape:
                continue
            assert chosen is None or chosen.variant.name in found
    # the paper's tiles on its V100: 2×7 for 256,14; 128,14 and 64,56, with at most 16 channels a block; 4×7 for 128,28
    assert {name for name in found if name.startswith("paper_conv")} == {"paper_conv_t2x7c16", "paper_conv_t4x7c2"}


def test_the_papers_arms_bring_their_kernels_with_the_counter():
    found = {name for name, _ in built(H200, ours=["sparse", "paper_dispatch"], networks=["densenet169"])}
    # its 3×3 layers, all with stride 1: 128 channels at 56, 28, 14 and 7 pixels to 32
    tiles = ("4x5", "4x7", "2x7", "3x7")
    assert {name for name in found if name.startswith("paper_transform")} == {f"paper_transform_t{t}" for t in tiles}
    assert "paper_count" in found
    scheme = {name for name, _ in built(H200, ours=["sparse", "paper_scheme"], networks=["densenet169"])}
    assert found - scheme == {"paper_count"}


def test_every_build_can_be_read_back_from_its_name():
    ours = ["sparse", "dense_twin", "paper_scheme", "paper_dispatch"]
    for name, _ in built(H200, experiments=["layers", "ladder"], ours=ours):
        assert parse(name).name == name


def test_further_variants_are_built_too():
    more = Variant("v3_ballot", th=5).name
    assert more not in NAMES
    assert built(H200, variants=[more, NAMES[1]]) == [(name, "9.0") for name in (*NAMES, more)]  # each once
    assert (more, "7.5") in built(CPU, variants=[more])
    assert built(CPU, "smoke", variants=[more]) == built(CPU, "smoke")


def test_a_name_of_no_variant_ends_in_a_sentence():
    with pytest.raises(FrugalError, match=r"cusnn\.variants: 'v9' is no variant.*a name looks like"):
        built(H200, variants=["v9"])


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
@pytest.mark.parametrize("arm", ["sparse", "dense_twin"])
def test_every_layer_finds_its_kernel_among_those_built(arm: str, sm_count: int):
    found = {name for name, _ in built(H200)}
    for c, h, w, n in layers():
        for batch in (1, 2, 4, 8):
            chosen = choices.choose(arm, ConvShape(batch, c, h, w, n), sm_count)
            assert chosen.variant.name in found
            assert chosen.variant.skip == (arm == "sparse")


# ---- one choice changed ----------------------------------------------------------------------------------------------

SHAPE = ConvShape(1, 256, 14, 14, 256)


def test_an_ablation_changes_one_thing():
    whole = plan(SHAPE, 132)
    twin = choices.changed(whole, "skip=false")
    assert (twin.variant, twin.splits, twin.grid) == (whole.variant.twin, whole.splits, whole.grid)
    assert choices.choose("sparse@skip=false", SHAPE, 132) == twin


@pytest.mark.parametrize("change", ["no_such_field=1", "warps=99", "fetch=direct"])
def test_what_a_kernel_cannot_have_is_no_ablation(change: str):
    assert choices.changed(plan(SHAPE, 132), change) is None


def test_what_a_kernel_has_already_is_no_ablation():
    whole = plan(SHAPE, 132)
    assert choices.changed(whole, f"outputs_per_lane={whole.variant.outputs_per_lane}") is None
    assert choices.changed(choices.changed(whole, "skip=false"), "skip=false") is None


def test_a_kernel_that_shares_no_tile_adds_up_in_one_way():
    alone = plan(ConvShape(8, 64, 56, 56, 64), 132)
    assert alone.splits == 1
    assert choices.changed(alone, "deterministic=false") is None


def test_a_kernel_of_clusters_is_built_for_every_capability():
    clustered = Variant("v6_fused", reduce="cluster")  # before 9.0 with the code of `ticket`
    pairs = built(CPU, variants=[clustered.name])
    assert {capability for name, capability in pairs if name == clustered.name} == {c for _, c in pairs}
    assert (clustered.name, "9.0") in built(H200, variants=[clustered.name])
