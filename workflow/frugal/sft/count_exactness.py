"""Experiment `exactness`: how far a segmented and an untiled step are from the untiled one in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from frugal.sft import offered
from frugal.sft.cases import Training
from frugal.sft.checks import Errors, compare
from frugal.sft.graph import trace
from frugal.sft.offered import Method, Subject
from frugal.sft.plans import STRIPS, TILES, Plan
from frugal.sft.rows import Result, Say, attempted
from frugal.timing import Device

KINDS = {"tiles": (TILES, 3), "strips": (STRIPS, 4)}  # arm → kind of segment, and windows on a side where there are


def results(machine: Device, say: Say, shard: str, sft: Mapping[str, object], photographs: str) -> Iterator[Result]:
    """The campaign's networks with a sixteenth of their channels on small images, in float64 and float32."""
    for network in sft["networks"]:
        for h, w in offered.EXACT.get(sft["preset"], offered.EXACT_MORE):
            for precision in ("fp64", "fp32"):
                norms = offered.norms(sft, network)
                subject = Subject(network, offered.EXACT_DIVISOR, 1, h, w, precision, norms=norms)
                training = Training(subject, photographs, machine.kind, sft["seed"])
                untiled: dict[str, Errors] = {}
                for name, (kind, windows) in KINDS.items():
                    method = Method(name, {"windows": windows})

                    def compared(
                        training: Training = training, kind: str = kind, windows: int = windows, untiled: dict = untiled
                    ) -> dict[str, object]:
                        untiled.update(_compared(training, kind, windows))
                        return _worst({name: each.segmented for name, each in untiled.items()})

                    yield attempted(Result("exactness", subject, method, metrics=("error",)), compared)
                if untiled:
                    found = _worst({name: each.untiled for name, each in untiled.items()})
                    yield Result("exactness", subject, Method("vanilla"), **found)
            say(f"{network} {h} × {w}: errors against float64")


def _worst(errors: Mapping[str, float]) -> dict[str, object]:
    worst = max(errors, key=lambda name: errors[name])
    return {"values": {"error": errors[worst]}, "settings": {"worst": worst}}


def _compared(training: Training, kind: str, windows: int) -> dict[str, Errors]:
    dtype = torch.float64 if training.subject.precision == "fp64" else torch.float32
    model = training.network().to(dtype)
    x = training.image(0).to(dtype).requires_grad_()
    with training.setup.flags():
        return compare(model, x, _plan(model, training.subject, kind, windows))


def _plan(model: nn.Module, subject: Subject, kind: str, windows: int) -> Plan:
    """One segment wherever the network allows it, in so many windows as its output has rows and columns."""
    graph = trace(model).sized(subject.image_shape)
    shapes = graph.shapes(subject.image_shape)
    sides = [np.minimum(windows, shapes[part.output][2:]) for part in graph.cut(())]
    tiles = [(int(th), 1 if kind == STRIPS else int(tw)) for th, tw in sides]
    return Plan.manual(model, subject.image_shape, kinds=[kind] * len(tiles), tiles=tiles)
