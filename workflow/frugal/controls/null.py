"""The null control: one product of matrices under two names, which must come out the same.

A matrix product of torch's, since its algorithm is a heuristic's and not a tuner's: it is the same in every process.
"""

from __future__ import annotations

from functools import partial

import torch

from frugal.provenance import source_hash
from frugal.timing import Arm, Case, Inputs, Prepared, Reference
from frugal.timing.flags import flags

SIZE = {"cuda": 2048, "cpu": 128}
REGIMES = {"cuda": ("cold", "graph"), "cpu": ("wall",)}


def case(kind: str, host: str) -> tuple[Case, list[Arm]]:
    """Two equal arms on a device of this kind."""
    n = SIZE[kind]
    made = Case(
        system="control",
        experiment="null",
        axes={"host": host, "n": n},
        inputs=partial(matrices, n, kind),
        reference=product,
        layer="control/null",  # judged by the margin of kernels
        own_regimes=True,
    )
    return made, [_arm("first", "baseline", kind, n), _arm("second", "ours", kind, n)]


def matrices(n: int, kind: str, seed: int, phase: str) -> Inputs:
    """Standard normal a and b, [n, n] float32."""
    generator = torch.Generator(kind).manual_seed(seed)
    a, b = torch.randn(2, n, n, generator=generator, device=kind)
    return {"a": a, "b": b}


def product(given: Inputs) -> Reference:
    """a·b in float64, and the product of the absolute values."""
    a, b = given["a"].double(), given["b"].double()
    return Reference(y=a @ b, s=a.abs() @ b.abs(), terms=len(a))


def _arm(name: str, role: str, kind: str, n: int) -> Arm:
    return Arm(
        name=name,
        role=role,
        prepare=_prepare,
        tf32=False,
        layout="row_major",
        regimes=REGIMES[kind],
        flop=2.0 * n**3,
        bytes_min=12.0 * n**2,
        source_hash=source_hash("frugal.controls.null"),
        context=lambda: flags(tf32=False),
    )


def _prepare(inputs: Inputs) -> Prepared:
    a, b, y = inputs["a"], inputs["b"], torch.empty_like(inputs["a"])
    return Prepared(run=torch.inference_mode()(lambda: torch.mm(a, b, out=y)), outputs=(y,), keep=(a, b))
