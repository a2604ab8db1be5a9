"""The table of convolutions against the networks themselves, and what is offered against the arms."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from frugal.config.models import Definition, Network
from frugal.cusnn import baselines, convolutions, offered, ours
from frugal.cusnn.sparsity import conv_layers
from frugal.models import build
from kernels.sparse import ConvShape

PUBLISHED = Path(__file__).parents[2] / "data" / "cusnn" / "layers.csv"


def shapes(table) -> list[tuple]:
    return [(x.layer, x.c, x.h, x.w, x.n, x.k, x.stride, x.pad, x.macs) for x in table]


def test_the_table_is_what_the_networks_are(tmp_path: Path):
    convolutions.write(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == Path(convolutions.__file__).with_name(convolutions.NAME).read_text()


def test_the_table_agrees_with_the_published_one():
    with PUBLISHED.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["role"] != "fc"]
    compared = 0
    for network in get_args(Network):
        for definition in get_args(Definition):
            columns = ("C", "H", "W", "N", "kernel", "stride", "pad", "dense_macs")
            kinds = (definition, "keras_and_torchvision")
            own = [row for row in rows if row["network"] == network and row["definition"] in kinds]
            theirs = [tuple(int(row[column]) for column in columns) for row in own]
            if theirs:
                assert [x[1:] for x in shapes(convolutions.convolutions(network, definition))] == theirs
                compared += 1
    assert compared >= 6


@pytest.mark.parametrize(("network", "size"), [("resnet50", 64), ("densenet121", 320), ("resnet101", 256)])
def test_other_sizes_are_scaled(network: str, size: int):
    with torch.device("meta"):
        layers = conv_layers(build(network, "torchvision_v1.5"), (1, 3, size, size))
    ours_ = [(x.h, x.w) for x in convolutions.convolutions(network, "torchvision_v1.5", size)]
    assert ours_ == [(x.H, x.W) for x in layers]


def test_what_experiment_layers_measures():
    every = convolutions.measured("densenet169", "keras_v1", "all", [3])
    assert {(x.k, x.stride) for x in every} == {(3, 1)}
    assert len(every) == 82  # as the recorded campaign has it
    distinct = convolutions.measured("densenet169", "keras_v1", "distinct", [3])
    assert [(x.c, x.h, x.n) for x in distinct] == [(128, 56, 32), (128, 28, 32), (128, 14, 32), (128, 7, 32)]
    assert len(convolutions.measured("resnet50", "keras_v1", "all", [3])) == 16


def test_one_by_one_and_stride_2_are_measured_too_and_the_stem_is_not():
    every = convolutions.measured("resnet50", "torchvision_v1.5", "all", [1, 3])
    # 53 convolutions, of them the 7×7 stem; the three 3×3 and three 1×1 that halve the image have stride 2
    assert len(every) == 52
    assert sorted((x.k, x.h) for x in every if x.stride == 2) == [(1, 14), (1, 28), (1, 56), (3, 14), (3, 28), (3, 56)]
    only = convolutions.measured("resnet50", "torchvision_v1.5", "all", [1])
    assert only == [x for x in every if x.k == 1]
    distinct = convolutions.measured("resnet50", "torchvision_v1.5", "distinct", [1, 3])
    assert {x.shape for x in distinct} == {x.shape for x in every}
    assert len(distinct) < len(every)


def test_smoke_takes_three_shapes():
    def taken(network: str, kernel_sizes=(1, 3), size: int = 224):
        found = convolutions.measured(network, "torchvision_v1.5", "distinct", kernel_sizes, "smoke", size)
        return [(x.c, x.h, x.n, x.k) for x in found]

    assert taken("densenet169") == [(128, 14, 32, 3)]
    assert taken("resnet50") == [(1024, 14, 256, 1), (256, 14, 256, 3)]
    assert taken("resnet50", size=64) == [(1024, 4, 256, 1), (256, 4, 256, 3)]
    assert taken("resnet50", [3]) == [(256, 14, 256, 3)]
    assert taken("densenet169", [1]) == [(64, 56, 128, 1)]  # has none of them: its first


# ---- what is offered -------------------------------------------------------------------------------------------------


def test_every_arm_that_is_offered_can_be_made_in_the_regimes_that_are_named():
    shape = ConvShape(1, 16, 8, 8, 32, k=3, stride=1, pad=1)
    arms = {name: ours.arm(name, shape, None, sparsity=0.5, bytes_min=1.0) for name in offered.OURS["cpu"]}
    assert {name: arm.regimes for name, arm in arms.items()} == offered.OURS["cpu"]
    for kind, names in offered.BASELINES.items():
        for name, regimes in names.items():
            assert set(baselines.arm(name, shape, bytes_min=1.0).regimes) >= set(regimes), (kind, name)


def test_what_planning_reads_loads_no_torch():
    code = (
        "import sys; from frugal.cusnn import builds, choices, convolutions, offered, shapes; "
        "convolutions.convolutions('resnet50', 'keras_v1'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
