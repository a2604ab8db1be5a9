"""Cases whose arms break a GPU, for sessions in real child processes: y = 2 x of 1000 numbers on the device."""

from __future__ import annotations

import torch

from frugal.timing import Arm, Case, Prepared, Reference

N = 1000
FOREVER = 2**62  # cycles


def cases(machine, record, say, *, faults):
    """What a Job names."""
    for fault in faults:
        yield case(fault), [arm("bad", "ours", FAULTS[fault]), arm("good", "baseline", right)]


def case(fault):
    def inputs(seed, phase):
        generator = torch.Generator("cuda").manual_seed(seed)
        return {"x": torch.randn(N, generator=generator, device="cuda")}

    def reference(given):
        y = 2 * given["x"].double()
        return Reference(y, y.abs(), 1)

    return Case("cusnn", "layers", {"fault": fault}, inputs, reference, "net", fault, {"n": 1})


def arm(name, role, compute):
    def prepare(inputs):
        y = torch.empty(N, device="cuda")

        def run():
            compute(inputs["x"], y)

        return Prepared(run=run, outputs=(y,))

    return Arm(name=name, role=role, prepare=prepare, source_hash="abc", regimes=("graph",))


def right(x, y):
    torch.mul(x, 2, out=y)


def reads_outside(x, y):
    """A device-side assertion: the context is lost, and every later call fails."""
    torch.index_select(x, 0, torch.full((N,), 10**6, device=x.device), out=y)


def never_ends(x, y):
    torch.cuda._sleep(FOREVER)


FAULTS = {"reads outside": reads_outside, "never ends": never_ends, "nothing": right}
