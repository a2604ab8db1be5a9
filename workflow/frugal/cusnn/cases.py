"""The cases of experiment `layers`: each 3×3 and 1×1 convolution of the configured networks, on its own real input.

A case's inputs are activations of real photographs, taken once with one forward pass; every phase of a session
(verify, warm, timed, recheck) draws its images from a quarter of its own, so that an answer kept from an earlier phase
cannot be right by chance. Where there are fewer images than that needs, the phases share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from frugal.cusnn.convolutions import Shape
from frugal.cusnn.sparsity import ConvLayer, conv_layers, layer_inputs, origins
from frugal.errors import FrugalError
from frugal.models.weights import RANDOM, WeightsInfo
from frugal.timing import Case, Inputs, Reference
from kernels.sparse import ConvShape

PHASES = ("verify", "warm", "timed", "recheck")
Choose = Callable[[Mapping[str, Shape]], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Layer:
    """One convolution with its weights and the inputs that reach it.

    `weight`: [N, C, k, k] float32; `inputs`: [images, C, H, W] float32, both on the session's device; `count`: how many
    layers of the network have this shape (1 where each layer is a case of its own); `weights`: `trained`, or `random`
    where its weights, or those of a convolution before it, were drawn.
    """

    conv: ConvLayer
    weight: Tensor
    inputs: Tensor
    count: int
    weights: str

    @property
    def sparsity(self) -> float:
        """Share of exact zeros in the inputs."""
        return (self.inputs == 0).double().mean().item()

    def shape(self, batch: int) -> ConvShape:
        """Its sizes for so many images."""
        conv = self.conv
        return ConvShape(batch, conv.C, conv.H, conv.W, conv.N, k=conv.k, stride=conv.stride, pad=conv.pad)


def layers(
    model: torch.nn.Module, info: WeightsInfo, images: Tensor, choose: Choose, device: torch.device
) -> list[Layer]:
    """Convolutions of a network with their inputs on `images` [B, 3, H, W] float32.

    choose: from {name: shape} of the network's convolutions to lists of names; of each list the layer whose input has
    the median sparsity is taken (frugal.cusnn.convolutions.groups).
    """
    every = {layer.name: layer for layer in conv_layers(model, (1, *images.shape[1:]))}
    weights = origins(list(every.values()), info.drawn, info.origin == RANDOM)
    groups = choose({name: (x.C, x.H, x.W, x.N, x.k, x.stride) for name, x in every.items()})
    inputs = layer_inputs(model, images, [name for group in groups for name in group])
    found = []
    for group in groups:
        by_zeros = sorted(group, key=lambda name: (inputs[name] == 0).sum().item())
        name = by_zeros[len(by_zeros) // 2]
        weight = model.get_submodule(name).weight.detach().to(device)
        found.append(Layer(every[name], weight, inputs[name].to(device), len(group), weights[name]))
        for other in group:
            del inputs[other]  # the copies of a whole network are gigabytes
    return found


def case(layer: Layer, info: WeightsInfo, batch: int, dataset: str, dataset_sha256: str) -> Case:
    """One layer at one batch size as a timing case. Raises FrugalError where there are fewer images than the batch."""
    conv = layer.conv
    if len(layer.inputs) < batch:
        raise FrugalError(
            f"cusnn.batch_sizes has {batch}, but there are {len(layer.inputs)} images, and a batch repeats none: "
            "give more images (data.images) or a smaller batch"
        )
    columns = shape_columns(layer.shape(batch)) | {
        "dataset": dataset, "dataset_sha256": dataset_sha256,
        "sparsity_measured": layer.sparsity, "sparsity_pattern": "real",
    }  # fmt: skip
    axes = {
        "network": info.network, "definition": info.definition, "layer": conv.name, "layer_index": conv.index,
        "layers_of_shape": layer.count, "weights": layer.weights,
        "batch": batch, "c": conv.C, "h": conv.H, "w": conv.W, "k": conv.N, "r": conv.k, "stride": conv.stride,
    }  # fmt: skip

    def inputs(seed: int, phase: str) -> Inputs:
        pool = images_of(phase, len(layer.inputs), batch)
        picked = np.random.default_rng(seed).choice(pool, size=batch, replace=False)
        return {"x": layer.inputs[torch.from_numpy(np.sort(picked))].clone(), "w": layer.weight.clone()}

    return Case(
        system="cusnn",
        experiment="layers",
        axes=axes,
        inputs=inputs,
        reference=lambda given: reference(given["x"], given["w"], conv.stride),
        network=info.network,
        layer=conv.name,
        columns=columns,
    )


def shape_columns(shape: ConvShape) -> dict[str, object]:
    """The columns of a measurement that say a convolution's sizes."""
    return {
        "n": shape.B, "c": shape.C, "h": shape.H, "w": shape.W, "k": shape.N, "r": shape.k, "s": shape.k,
        "stride": shape.stride, "pad": shape.pad, "groups": 1, "flop_dense_equiv": 2.0 * shape.macs,
    }  # fmt: skip


def images_of(phase: str, images: int, batch: int) -> Sequence[int]:
    """The images that a phase draws from: a quarter of its own where a quarter holds a batch, else all of them."""
    quarter = images // len(PHASES)
    if quarter < batch:
        return np.arange(images)
    start = PHASES.index(phase) * quarter
    return np.arange(start, start + quarter)


def reference(x: Tensor, w: Tensor, stride: int) -> Reference:
    """The convolution in float64, and the same of the absolute values (for the a-priori bound); padding is k // 2."""
    x64, w64 = x.double(), w.double()
    options = {"stride": stride, "padding": w.shape[2] // 2}
    return Reference(
        y=torch.nn.functional.conv2d(x64, w64, **options),
        s=torch.nn.functional.conv2d(x64.abs(), w64.abs(), **options),
        terms=w[0].numel(),
    )
