"""One ragged layer as a case, and a session over it on the CPU that is as short as one can be."""

from __future__ import annotations

import torch
from small_network import info

from frugal.cusnn.cases import Layer, case
from frugal.cusnn.sparsity import ConvLayer
from frugal.timing import Arm, Case, CpuDevice, Design, Inputs, measure_case
from kernels.sparse import ConvShape

# No size is a multiple of a tile, of 32 or of another size.
CONV = ConvLayer(index=1, name="conv", C=5, H=9, W=13, N=37, k=3, stride=1, pad=1, macs=37 * 5 * 9 * 9 * 13)
BATCH = 2
SHAPE = ConvShape(BATCH, CONV.C, CONV.H, CONV.W, CONV.N)


def layer_case() -> Case:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, CONV.C, CONV.H, CONV.W, generator=generator).clamp_min(0)
    weight = torch.randn(CONV.N, CONV.C, 3, 3, generator=generator)
    return case(Layer(CONV, weight, inputs, 1, "random"), info(), BATCH, "photographs", "ab")


def layer_inputs() -> Inputs:
    return layer_case().inputs(0, "verify")


def measured(*arms: Arm, regimes: tuple[str, ...] = ("wall",)) -> dict[tuple[str, str], object]:
    """The rows of a session over the layer, by arm and regime."""
    design = Design.of("smoke", n_min=3, block_max_s=0.005, case_timeout_s=5.0, regimes=regimes)
    return {(row.arm, row.regime): row for row in measure_case(layer_case(), arms, design, 0, CpuDevice()).rows}
