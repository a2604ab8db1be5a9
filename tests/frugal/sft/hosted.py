"""Images and plans for tests of host memory."""

from __future__ import annotations

import numpy as np
import torch

from frugal.sft import HostImage, Plan

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
KINDS = {
    "tiles": (["tiles"] * 3, [(4, 3), (3, 2), (2, 2)]),
    "wide": (["tiles"] * 3, [(4, 1), (3, 1), (1, 1)]),
    "strips": (["strips"] * 3, [(6, 1), (4, 1), (2, 1)]),
    "mixed": (["strips", "tiles", "store"], [(5, 1), (2, 2), (1, 1)]),
    "checkpoint": (["checkpoint"] * 3, [(1, 1)] * 3),
}
CUTS = ["pool1", "pool3"]


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def normalised(array: np.ndarray, layout: str) -> torch.Tensor:
    """float64 [N, C, H, W], the whole at once."""
    found = array if array.ndim == 4 else array[None]
    found = found.transpose(0, 3, 1, 2) if layout.endswith("HWC") else found
    mean, std = (np.array(v)[:, None, None] for v in (MEAN, STD))
    return torch.from_numpy((found / 255 - mean) / std)


def planned(model, shape, cuts, kinds, tiles, boundary="device", carry="device") -> Plan:
    """A plan by hand whose inner maps and whose carries lie where they are told to."""
    made = Plan.manual(model, shape, cuts=cuts, kinds=kinds, tiles=tiles)
    last = made.segments[-1].output
    found = []
    for each in made.segments:
        place = "device" if each.output == last or each.kind == "store" else boundary
        found.append({"boundary": place, "carry": carry if each.kind == "strips" else "device"})
    segments = tuple(each.__class__(**vars(each) | places) for each, places in zip(made.segments, found, strict=True))
    return Plan(made.image_shape, segments)


def steady(array, prefetch) -> HostImage:
    """One that `step`, which detaches what it is given, takes for a tensor."""

    class Steady(HostImage):
        def detach(self):
            return self

        def requires_grad_(self, wanted):
            assert not wanted
            return self

    return Steady(array, mean=MEAN, std=STD, prefetch=prefetch)
