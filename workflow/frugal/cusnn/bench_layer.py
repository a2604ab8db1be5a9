"""The 3×3 layers of the configured networks, to be timed: experiment `layers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from frugal.cusnn import baselines, ours
from frugal.cusnn.cases import case, layers
from frugal.cusnn.rows import DATASET
from frugal.data.image_to_bin import read_bin
from frugal.models.weights import load_network
from frugal.timing import Arm, Case, Device
from kernels.sparse import ConvShape

Say = Callable[[str], None]


def cases(
    machine: Device,
    record: Mapping[str, object],
    say: Say,
    *,
    experiment: str,
    cusnn: Mapping[str, object],
    weights: Sequence[str],
    images: Sequence[str],
    kernels: Sequence[str],
) -> Iterator[tuple[Case, list[Arm]]]:
    """Every layer of every network at every batch size, with the arms that this machine offers (frugal.jobs.Job.cases).

    cusnn: that section of the configuration. weights, images: a converted network and its images, pairwise. kernels:
    reports of built kernels, of which those of family `sparse` are used on a GPU.
    """
    built = None
    if machine.kind == "cuda":
        built = ours.Kernels([Path(path).with_suffix("") for path in kernels], record["sm_count"])
    wanted = [*cusnn["ours"], *cusnn["baselines"]]
    for weight_file, image_file in zip(weights, images, strict=True):
        model, info = load_network(Path(weight_file))
        photographs, manifest = read_bin(image_file, preprocess=info.preprocess)
        say(f"{info.network} ({info.origin}): the inputs of its layers from {len(photographs)} images")
        for layer in layers(model, info, photographs, cusnn["layers"], torch.device(machine.kind)):
            conv = layer.conv
            for size in cusnn["batch_sizes"]:
                shape = ConvShape(size, conv.C, conv.H, conv.W, conv.N, k=conv.k, stride=conv.stride, pad=conv.pad)
                made = case(layer, info, size, DATASET, manifest.sha256)
                yield made, arms(shape, layer.sparsity, wanted, machine.kind, built)


def arms(
    shape: ConvShape,
    sparsity: float,
    wanted: Sequence[str],
    kind: str,
    built: ours.Kernels | None,
) -> list[Arm]:
    """The wanted arms, ours first, as far as a device of this kind (`cpu` or `cuda`) offers them.

    FLOP and bytes are those of one run: a sparse arm's FLOP leave out the multiply-adds on zeros; bytes count input,
    weights and output once, in float32.
    """
    dense = 2.0 * shape.macs
    values = shape.B * (shape.C * shape.H * shape.W + shape.N * shape.H_out * shape.W_out)
    moved = 4.0 * (values + shape.C * shape.N * shape.k**2)
    found = []
    for name in ours.OFFERED[kind]:
        if name in wanted:
            flop = dense * (1 - sparsity) if ours.RUNGS[name][1] else dense
            found.append(ours.arm(name, shape, built, flop=flop, bytes_min=moved))
    found += [
        baselines.arm(name, shape.pad, flop=dense, bytes_min=moved)
        for name in baselines.OFFERED[kind]
        if name in wanted
    ]
    return found
