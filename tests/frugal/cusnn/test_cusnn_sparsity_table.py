"""The table of zeros is what `measure` counted, whichever kind of network is given."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import pandas as pd
from small_network import photographs, small

from frugal.cusnn import measure_sparsity
from frugal.cusnn.sparsity import measure


def test_one_row_a_convolution_with_its_sizes_and_zeros():
    model, images = small(), photographs(3)
    table = measure_sparsity(model, images)
    counted = measure(model, images)
    assert list(table["name"]) == [found.layer.name for found in counted]
    for (_, row), found in zip(table.iterrows(), counted, strict=True):
        for name, value in asdict(found.layer).items():
            assert row[name] == value
        assert (row["mean"], row["std"], row["images"]) == (found.mean, found.std, 3)
        assert row["zero_groups_8"] == found.zero_groups[8] or pd.isna(row["zero_groups_8"])
    pd.testing.assert_frame_equal(
        measure_sparsity(SimpleNamespace(model=model), images), table
    )  # a Network has `model`
