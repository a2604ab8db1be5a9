"""The cases of experiment `break_even`: single layers at chosen shares of zeros.

From these shares the map is made of where skipping pays (frugal.cusnn.break_even). Zeros lie at random places, drawn
anew in each phase (pattern `bernoulli`), or where a trained network has them on photographs (`real`): there, to reach a
share above the layer's own, its smallest activations are made zero as well. Regular patterns are never used: caches and
predictors would learn them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from frugal.cusnn import cases, shapes
from frugal.timing import Case, Inputs

BERNOULLI, REAL = "bernoulli", "real"
# What the records call them.
COLUMN = {BERNOULLI: "iid", REAL: "real"}
Draw = Callable[[int, str], Inputs]


def bernoulli(layer: shapes.Layer, batch: int, sparsity: float, device: torch.device) -> Case:
    """A layer whose input has `sparsity` zeros at random places."""
    measured, inputs = random_inputs(layer, batch, sparsity, device)
    return _case(layer, batch, sparsity, BERNOULLI, inputs, {"sparsity_measured": measured})


def random_inputs(layer: shapes.Layer, batch: int, sparsity: float, device: torch.device) -> tuple[float, Draw]:
    """(share of zeros, inputs of a phase): zeros at random places, other values half-normal as after a ReLU.

    The number of zeros is the same in every draw, so that two sessions measure the same work.
    """
    size = batch * layer.c * layer.h**2
    zeros = round(sparsity * size)

    def inputs(seed: int, phase: str) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(size, generator=generator).abs().clamp_min(torch.finfo(torch.float32).tiny)
        x[torch.randperm(size, generator=generator)[:zeros]] = 0
        deviation = math.sqrt(2 / (layer.c * layer.k**2))  # keeps the outputs near 1
        w = torch.randn(layer.n, layer.c, layer.k, layer.k, generator=generator) * deviation
        return {"x": x.view(batch, layer.c, layer.h, layer.h).to(device), "w": w.to(device)}

    return zeros / size, inputs


def real(
    layer: shapes.Layer, found: cases.Layer, batch: int, sparsities: Sequence[float], dataset: str, sha256: str
) -> Iterator[Case]:
    """The same with a network's own activations, at those of `sparsities` which are not below the layer's own share.

    found: the network's layer of this shape. Gives nothing where there are fewer images than the batch.
    """
    if len(found.inputs) < batch:
        return
    for sparsity in sparsities:
        if sparsity < found.sparsity:
            continue
        x = raised(found.inputs, sparsity)
        columns = {
            "sparsity_measured": (x == 0).double().mean().item(),
            "dataset": dataset,
            "dataset_sha256": sha256,
        }
        yield _case(layer, batch, sparsity, REAL, _drawn(x, found.weight, batch), columns)


def raised(x: Tensor, sparsity: float) -> Tensor:
    """A copy of x, which is nowhere negative, with its smallest values made zero until `sparsity` of all are zero.

    Equal values become zero together, so that a little more than that may.
    """
    count = round(sparsity * x.numel())
    if count == 0:
        return x.clone()
    threshold = x.flatten().kthvalue(count).values
    return torch.where(x > threshold, x, 0.0)


def _drawn(x: Tensor, w: Tensor, batch: int) -> Draw:
    def inputs(seed: int, phase: str) -> Inputs:
        pool = cases.images_of(phase, len(x), batch)
        picked = np.random.default_rng(seed).choice(pool, size=batch, replace=False)
        return {"x": x[torch.from_numpy(np.sort(picked))].clone(), "w": w.clone()}

    return inputs


def _case(
    layer: shapes.Layer, batch: int, sparsity: float, pattern: str, inputs: Draw, columns: dict[str, object]
) -> Case:
    axes = {
        "c": layer.c, "h": layer.h, "w": layer.h, "k": layer.n, "r": layer.k, "stride": 1,
        "batch": batch, "sparsity": sparsity, "pattern": pattern,
    }  # fmt: skip
    return Case(
        system="cusnn",
        experiment="break_even",
        axes=axes,
        inputs=inputs,
        reference=lambda given: cases.reference(given["x"], given["w"], 1),
        layer=layer.name,
        columns=cases.shape_columns(layer.shape(batch))
        | {"sparsity_target": sparsity, "sparsity_pattern": COLUMN[pattern]}
        | columns,
    )
