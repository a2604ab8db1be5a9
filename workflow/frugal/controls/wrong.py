"""The wrong control: three arms whose answers are wrong in ways that a benchmark overlooks, and frugal must not.

Each computes a right product of matrices first, so that nothing but its own fault gives it away.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from frugal.controls.null import matrices, product
from frugal.provenance import source_hash
from frugal.timing import Arm, Case, Inputs, Prepared
from frugal.timing.flags import flags

SIZE = 64
OFF_BY = 0.01  # of the largest output


def case(kind: str, host: str) -> tuple[Case, list[Arm]]:
    """All three arms on a device of this kind, each of role `control`."""
    made = Case(
        system="control",
        experiment="wrong",
        axes={"host": host, "n": SIZE},
        inputs=partial(matrices, SIZE, kind),
        reference=product,
        layer="control/wrong",
        own_regimes=True,
    )
    return made, [_arm(name, prepare) for name, prepare in arms().items()]


def arms() -> dict[str, Callable[[Inputs], Prepared]]:
    """Name → prepare. `cached` keeps what it has seen: each call of `arms` gives one that has seen nothing yet."""
    return {"one_percent_off": _one_percent_off, "one_unwritten": _one_unwritten, "cached": _Cached()}


def _arm(name: str, prepare: Callable[[Inputs], Prepared]) -> Arm:
    return Arm(
        name=name,
        role="control",
        prepare=prepare,
        tf32=False,
        regimes=("wall",),
        source_hash=source_hash("frugal.controls.wrong"),
        context=lambda: flags(tf32=False),
    )


def _one_percent_off(inputs: Inputs) -> Prepared:
    """Adds 1 % of the largest output to one element."""
    a, b, y = _bound(inputs)

    @torch.inference_mode()
    def run() -> None:
        torch.mm(a, b, out=y)
        y[0, 0] += OFF_BY * y.abs().max()

    return Prepared(run=run, outputs=(y,), keep=(a, b))


def _one_unwritten(inputs: Inputs) -> Prepared:
    """Leaves one element unwritten, in a buffer that held the right answer when it was bound: only poison shows it."""
    a, b, y = _bound(inputs)
    whole = torch.mm(a, b)
    y.copy_(whole)

    @torch.inference_mode()
    def run() -> None:
        torch.mm(a, b, out=whole)
        y.view(-1)[1:].copy_(whole.view(-1)[1:])

    return Prepared(run=run, outputs=(y,), keep=(a, b, whole))


class _Cached:
    """Computes while it is verified and warmed up, and from then on answers with what it computed last."""

    BINDINGS = 2  # one for verification, one for warm-up

    def __init__(self) -> None:
        self.bindings = 0
        self.answer: Tensor | None = None

    def __call__(self, inputs: Inputs) -> Prepared:
        self.bindings += 1
        a, b, y = _bound(inputs)
        computes = self.bindings <= self.BINDINGS or self.answer is None

        @torch.inference_mode()
        def run() -> None:
            if computes:
                self.answer = torch.mm(a, b)
            y.copy_(self.answer)

        return Prepared(run=run, outputs=(y,), keep=(a, b))


def _bound(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    return inputs["a"], inputs["b"], torch.empty_like(inputs["a"])
