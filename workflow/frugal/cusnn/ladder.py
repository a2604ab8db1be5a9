"""The cases of experiment `ladder`: four shapes, each rung of our kernels, and the last one with a choice changed.

Each rung computes the same and is faster for one reason; an ablation `sparse@<what>=<value>` is the last rung's launch
with one choice changed and all others kept. The paper's own scheme stands beside them.
"""

from __future__ import annotations

import torch

from frugal.cusnn import cases, shapes
from frugal.cusnn.break_even_cases import BERNOULLI, COLUMN, random_inputs
from frugal.timing import Case


def case(layer: shapes.Layer, batch: int, device: torch.device) -> Case:
    """A shape of the ladder at one batch size, at the zeros that such layers have, at random places."""
    measured, inputs = random_inputs(layer, batch, layer.sparsity, device)
    axes = {
        "shape": layer.name, "c": layer.c, "h": layer.h, "w": layer.h, "k": layer.n, "r": layer.k, "stride": 1,
        "batch": batch, "sparsity": layer.sparsity,
    }  # fmt: skip
    return Case(
        system="cusnn",
        experiment="ladder",
        axes=axes,
        inputs=inputs,
        reference=lambda given: cases.reference(given["x"], given["w"], 1),
        layer=layer.name,
        columns=cases.shape_columns(layer.shape(batch))
        | {
            "sparsity_target": layer.sparsity,
            "sparsity_measured": measured,
            "sparsity_pattern": COLUMN[BERNOULLI],
        },
    )
