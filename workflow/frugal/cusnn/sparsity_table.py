"""`measure_sparsity`: the zeros that reach each convolution of a network, as a table for a user's own script."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd
from torch import Tensor, nn

from frugal.cusnn.sparsity import measure

if TYPE_CHECKING:
    from frugal.cusnn.network import Network


def measure_sparsity(model: nn.Module | Network, images: Tensor) -> pd.DataFrame:
    """One row for each convolution: its name, index and sizes, the zeros in its input over the images, how they lie.

    model: in evaluation mode, or a `frugal.cusnn.Network`; images: [B, 3, H, W] float32, prepared as its weights want.
    The columns are the fields of `frugal.cusnn.sparsity.ConvLayer` and `LayerSparsity`, where `zero_groups` becomes
    zero_groups_8, _16 and _32. Raises SparsityError.
    """
    rows = []
    for found in measure(model if isinstance(model, nn.Module) else model.model, images):
        row = asdict(found)
        groups = {f"zero_groups_{size}": share for size, share in row.pop("zero_groups").items()}
        rows.append(row.pop("layer") | row | groups)
    return pd.DataFrame(rows)
