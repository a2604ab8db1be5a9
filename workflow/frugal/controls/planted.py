"""The planted controls: equal arms but for so much more work in ours, which must come out slower by just that.

One is bound by arithmetic, the loop of `kernels.control`; one by memory, a copy. Both give the same output whatever
their work: the loop gives its input back, and of the copy the part that both copy is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path

import torch

from frugal.controls import wanted
from frugal.provenance import source_hash
from frugal.timing import Arm, Case, Device, Inputs, Prepared, Reference, Unsupported
from kernels import control, launch
from kernels.build import BuildReport, read_report

# Numbers (threads, on a GPU) and trips of the baseline: about half a millisecond on a GPU, where a launch is then less
# than 0.5 % of it, and a quarter on a CPU. 50 divides the trips, so that every planted share is exact.
NUMBERS = {"cuda": 128 * 128, "cpu": 256}
TRIPS = {"cuda": 3800, "cpu": 500}
# What the baseline copies: so many pieces, of so many numbers of four bytes, one after the other; together much more
# than a cache holds. More work is more pieces: the time of one large copy is not its size's to half a per cent (on an
# H200 1.02 times the bytes took 1.013 to 1.028 times the time, depending on the size).
PIECES = {"cuda": 50, "cpu": 5}
PIECE = {"cuda": 5_000_000, "cpu": 200_000}
MEMORY_PARTS = 16  # of the device's memory; one holds all pieces once, and a session holds about six of them


def case(kind: str, preset: str, host: str, kernels: Sequence[str | Path]) -> tuple[Case, list[Arm]]:
    """The loop with TRIPS trips as the baseline, and with `wanted.work` times as many as ours."""
    n, trips, work = NUMBERS[kind], TRIPS[kind], wanted.work(preset, kind)
    made = Case(
        system="control",
        experiment="planted",
        axes={"host": host, "n": n, "trips": trips},
        inputs=partial(_whole_numbers, n, kind),
        reference=lambda given: Reference(y=given["x"].double(), s=given["x"].double().abs(), terms=1),
        layer="control/planted",  # judged by the margin of kernels
        own_regimes=True,
    )
    loop = _OnGpu(kernels) if kind == "cuda" else _OnCpu()
    return made, [
        loop.arm("planted", "baseline", n, trips),
        loop.arm(_name(work), "ours", n, int(trips * work)),
    ]


def copy_case(machine: Device, preset: str, host: str) -> tuple[Case, list[Arm]]:
    """Copies of PIECES as the baseline, and of `wanted.work` times as many as ours, both from memory.

    Pieces are smaller on a device whose memory would not hold the inputs and outputs of both arms beside its cases.
    """
    kind = machine.kind
    pieces, work = PIECES[kind], wanted.work(preset, kind)
    most = pieces * work
    if most.denominator != 1:
        raise ValueError(f"controls: {float(work):g} times {pieces} pieces is no whole number of pieces")
    piece = min(PIECE[kind], machine.memory_bytes // (4 * int(most) * MEMORY_PARTS))

    def inputs(seed: int, phase: str) -> Inputs:
        info = torch.iinfo(torch.int32)
        generator = torch.Generator(kind).manual_seed(seed)
        # the least value is what an unwritten element holds
        shape = {"size": (int(most), piece), "generator": generator, "device": kind, "dtype": torch.int32}
        return {"x": torch.randint(info.min + 1, info.max, **shape)}

    def arm(name: str, role: str, count: int) -> Arm:
        return Arm(
            name=name,
            role=role,
            prepare=partial(_prepare_copy, count, pieces),
            dtype="int32",
            regimes=("cold",),
            flop=0.0,
            bytes_min=8.0 * count * piece,
            source_hash=source_hash("frugal.controls.planted"),
            settings={"pieces": count, "numbers": piece},
        )

    made = Case(
        system="control",
        experiment="planted_copy",
        axes={"host": host, "pieces": pieces},
        inputs=inputs,
        reference=lambda given: Reference(y=given["x"][:pieces]),
        layer="control/planted_copy",
        own_regimes=True,
    )
    return made, [arm("planted", "baseline", pieces), arm(_name(work), "ours", int(most))]


def _name(work: Fraction) -> str:
    return f"planted@work={float(work):g}"


def _whole_numbers(n: int, kind: str, seed: int, phase: str) -> Inputs:
    generator = torch.Generator(kind).manual_seed(seed)
    return {"x": torch.randint(-(2**20), 2**20, (n,), generator=generator, device=kind).float()}


def _prepare_copy(count: int, shown: int, inputs: Inputs) -> Prepared:
    x = inputs["x"][:count]
    y = torch.empty_like(x)
    pairs = list(zip(y.unbind(), x.unbind(), strict=True))

    @torch.inference_mode()
    def run() -> None:
        for target, source in pairs:
            target.copy_(source)

    return Prepared(run=run, outputs=(y[:shown],), keep=(x, y))


class _OnCpu:
    """The compiled twin."""

    def arm(self, name: str, role: str, n: int, trips: int) -> Arm:
        from kernels.control import cpu

        steps = control.variants()[0].steps

        def prepare(inputs: Inputs) -> Prepared:
            x, y = inputs["x"], torch.empty_like(inputs["x"])
            return Prepared(
                run=lambda: cpu.fma(x, y, trips, steps),
                outputs=(y,),
                loop=lambda times: cpu.fma(x, y, trips, steps, times),
            )

        return Arm(
            regimes=("graph",),
            source_hash=source_hash("frugal.controls.planted", "kernels.control.cpu"),
            **_common(name, role, prepare, n, trips, steps),
        )


class _OnGpu:
    """The cubin, loaded when it is first launched. `reports`: of all kernels that the job was given."""

    def __init__(self, reports: Sequence[str | Path]) -> None:
        found = [(read_report(Path(path).with_suffix("")), Path(path).with_suffix("")) for path in reports]
        self.variant = control.variants()[0]
        self.report, self._prefix = next(
            (pair for pair in found if (pair[0].family, pair[0].variant) == ("control", self.variant.name)),
            (None, None),
        )

    @cached_property
    def kernel(self) -> launch.Kernel:
        """Loaded once a session; Unsupported where it was not built."""
        if self._prefix is None:
            raise Unsupported(f"kernel {self.variant.name} was not built for this device: run the rule build_kernel")
        return launch.load(self._prefix)

    def arm(self, name: str, role: str, n: int, trips: int) -> Arm:
        report: BuildReport | None = self.report
        return Arm(
            regimes=("graph",),
            source_hash=source_hash("frugal.controls.planted", "kernels.launch"),
            binary_hash=report.cubin_sha256 if report else None,
            registers=report.registers if report else None,
            spill_bytes=report.local_bytes if report else None,
            shared_bytes=report.shared_bytes if report else None,
            **_common(name, role, self._prepare(trips), n, trips, self.variant.steps),
        )

    def _prepare(self, trips: int) -> Callable[[Inputs], Prepared]:
        def prepare(inputs: Inputs) -> Prepared:
            x, y = inputs["x"], torch.empty_like(inputs["x"])
            grid = control.grid(self.variant, x.numel())
            bound = self.kernel.bind(grid, self.variant.threads, control.arguments(x, y, trips))
            return Prepared(run=bound, outputs=(y,), keep=(x, y))

        return prepare


def _common(
    name: str, role: str, prepare: Callable[[Inputs], Prepared], n: int, trips: int, steps: int
) -> dict[str, object]:
    return {
        "name": name,
        "role": role,
        "prepare": prepare,
        "tf32": False,
        "compiled": True,
        "flop": 2.0 * n * trips * steps,
        "bytes_min": 8.0 * n,
        "settings": {"trips": trips},
    }
