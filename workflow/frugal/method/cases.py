"""Cases of the experiments `equal`, `noise` and `energy` of system `method`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch

from frugal.errors import FrugalError
from frugal.method.ops import MB, Op, conv, copy, equal_ops, matmul
from frugal.provenance import source_hash
from frugal.timing import Arm, Case, Device, Inputs, Prepared, Reference
from frugal.timing.flags import flags

EXPERIMENTS = ("equal", "noise", "energy")
FIRST, SECOND, ALONE = "first", "second", "torch"


def cases(
    machine: Device, record: Mapping[str, object], say: Callable[[str], None], *, experiment: str
) -> Iterator[tuple[Case, list[Arm]]]:
    """The cases of one experiment for this machine, with their arms.

    `equal`: each of the forty operations under two names, in the regimes of kernels. `noise`: four operations, two of
    them autotuned, in every regime, alone. `energy`: one operation under two names, with its energy.
    """
    if experiment not in EXPERIMENTS:
        raise FrugalError(f"method has no experiment {experiment!r}: use one of {', '.join(EXPERIMENTS)}")
    on_gpu = machine.kind == "cuda"
    if experiment == "equal":
        for op in equal_ops(machine.kind):
            yield _case(op, experiment, machine), _twins(op, ("cold", "graph") if on_gpu else ("wall",))
    elif experiment == "noise":
        for op in noise_ops(machine.kind):
            regimes = ("cold", "hot", "graph", "wall") if on_gpu else ("cold", "hot", "wall")
            yield _case(op, experiment, machine), [_arm(op, ALONE, "baseline", regimes)]
    else:
        op = matmul(2048)
        yield _case(op, experiment, machine, ("time", "energy")), _twins(op, ("graph",) if on_gpu else ("wall",))


def noise_ops(kind: str) -> list[Op]:
    """One bound by arithmetic, one by memory, and two convolutions whose algorithm cuDNN chooses in each process."""
    if kind == "cpu":
        return [matmul(512), copy(64 * MB), conv(8, 256, 14, 256), conv(1, 128, 28, 32)]
    tuned = {"tf32": True, "autotune": True}
    return [matmul(2048), copy(256 * MB), conv(8, 256, 14, 256, **tuned), conv(1, 128, 28, 32, **tuned)]


def _case(op: Op, experiment: str, machine: Device, measures: tuple[str, ...] = ("time",)) -> Case:
    dtype = getattr(torch, op.dtype)

    def inputs(seed: int, phase: str) -> Inputs:
        generator = torch.Generator(machine.kind).manual_seed(seed)
        return {
            name: torch.randn(shape, generator=generator, device=machine.kind).to(dtype)
            for name, shape in op.shapes.items()
        }

    def reference(given: Inputs) -> Reference:
        return Reference(y=op.run({name: value.double() for name, value in given.items()}))

    axes = {"op": op.name, **{name: list(shape) for name, shape in op.shapes.items()}}
    # an operation is judged by the margin of kernels, as every row that names a layer
    return Case("method", experiment, axes, inputs, reference, layer=op.name, measures=measures)


def _twins(op: Op, regimes: tuple[str, ...]) -> list[Arm]:
    """The same callable under two names: whatever differs between them is noise."""
    return [_arm(op, FIRST, "baseline", regimes), _arm(op, SECOND, "ours", regimes)]


def _arm(op: Op, name: str, role: str, regimes: tuple[str, ...]) -> Arm:
    def prepare(inputs: Inputs) -> Prepared:
        kept = dict(inputs)
        return Prepared(run=torch.inference_mode()(partial(op.run, kept)), keep=(kept,))

    return Arm(
        name=name,
        role=role,
        prepare=prepare,
        dtype=op.dtype,
        tf32=op.tf32,
        regimes=regimes,
        flop=op.flop,
        bytes_min=op.bytes_min,
        source_hash=source_hash("frugal.method.cases"),
        context=lambda: flags(op.tf32, autotune=op.autotune),
        # The references are the operation itself in float64: it has no operator on absolute values for a bound.
        tolerance="norm",
    )
