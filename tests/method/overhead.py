"""What the method itself costs, measured: `make bench-method` (on the GPU where there is one, else on the CPU).

1. Host time of a sample outside its body, in each regime, with an arm that does next to nothing. What is waited for
   (the device, a CPU's flush) and the body are taken out.
2. The share of a smoke session's CPU time that is not the arms', their inputs', their references' or the warm-up's.

Goals are those of docs/methodology.md, "What the method costs". A benchmark and no test: it says what it found and
always ends with status 0.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import numpy as np
import torch

from frugal.clock import SystemClock
from frugal.provenance import device_key
from frugal.timing import (
    Arm,
    Case,
    CpuDevice,
    CudaDevice,
    Design,
    Inputs,
    Prepared,
    Reference,
    Unsupported,
    blocks,
    regimes,
    run_session,
)
from frugal.timing.arms import REGIMES
from frugal.timing.flags import flags
from tests.frugal.record_rows import a_run

REPEATS = 7
GOALS_S = {"graph": 5e-6, "graph_rotated": 5e-6, "cold": 60e-6}
SHAPES = [(64, 56), (128, 28), (256, 14), (512, 7)]  # channels, height and width: the 3×3 layers of ResNet-50


@dataclass(frozen=True)
class Line:
    """`value` in `unit`; `goal`: the most that it should be, None where there is none."""

    what: str
    value: float
    unit: str
    goal: float | None = None

    def __str__(self) -> str:
        beside = "" if self.goal is None else f"   (goal: at most {self.goal:g} {self.unit})"
        return f"{self.what:58s} {self.value:10.3g} {self.unit}{beside}"


class Watched:
    """A device whose waiting, and whose graphs' replays, are counted as no work of the host's."""

    def __init__(self, device: CpuDevice | CudaDevice) -> None:
        self._device = device
        self.inside_ns = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._device, name)

    def apart(self, body: Callable) -> Callable:
        """`body`, its time taken out."""

        def call(*arguments):
            start = perf_counter_ns()
            try:
                return body(*arguments)
            finally:
                self.inside_ns += perf_counter_ns() - start

        return call

    def synchronize(self) -> None:
        self.apart(self._device.synchronize)()

    def flush(self, mode: str) -> None:
        # a CPU's flush reads the memory itself, a GPU's only asks for it
        (self.apart(self._device.flush) if self._device.kind == "cpu" else self._device.flush)(mode)

    def capture(self, body: Callable) -> object:
        graph = self._device.capture(body)
        return type("Replayed", (), {"replay": staticmethod(self.apart(graph.replay)), "graph": graph})


def of_samples(device: CpuDevice | CudaDevice) -> Iterator[Line]:
    """Host time of a sample outside its body, in each regime that the device has; that of `hot` is its body."""
    for regime in (regime for regime in REGIMES if regime != "hot"):
        with device.active(), suppress(Unsupported):
            yield _of_samples(device, regime)
    yield _of_stopping()


def _of_samples(device: CpuDevice | CudaDevice, regime: str) -> Line:
    design, clock, watched = Design.of("quick"), SystemClock(), Watched(device)
    arm = _next_to_nothing(watched)
    inputs = {"x": torch.zeros(32, device=device.kind)}
    prepared = arm.prepare(inputs)
    guess = regimes.estimate(prepared, watched, design, clock)
    recipe = regimes.build(regime, arm, prepared, inputs, guess, watched, design, clock)
    count = regimes.QUEUE_MAX
    recipe.take(count)
    seconds = median(_outside(watched, lambda: recipe.take(count)) for _ in range(REPEATS)) / count
    goal = GOALS_S.get(regime) if device.kind == "cuda" else None
    runs = f" of {recipe.m} runs" if recipe.m > 1 else ""
    return Line(f"{regime}: host time of a sample{runs}, body left out", seconds * 1e6, "µs", goal and goal * 1e6)


def _of_stopping() -> Line:
    rng = np.random.default_rng(1)
    values = rng.lognormal(0, 0.5, blocks.SAMPLES_MAX).tolist()  # never narrow: every check up to the last is made
    design = Design.of("headline", block_min_s=0.0)
    checks = range(design.n_min, blocks.SAMPLES_MAX, blocks.CHECK_EVERY)

    def decide() -> None:
        for n in checks:
            blocks.stop_reason(values[:n], 0.0, design)

    seconds = median(_outside(None, decide) for _ in range(REPEATS))
    return Line("stopping rule, a sample of a block of 1000", seconds / blocks.SAMPLES_MAX * 1e6, "µs")


def _next_to_nothing(watched: Watched) -> Arm:
    def prepare(inputs: Inputs) -> Prepared:
        x, y = inputs["x"], torch.empty_like(inputs["x"])
        if x.is_cuda:
            return Prepared(run=watched.apart(lambda: torch.add(x, 0, out=y)), outputs=(y,))
        return Prepared(run=watched.apart(lambda: None), outputs=(y,), loop=watched.apart(lambda m: None))

    return Arm("nothing", "ours", prepare, regimes=REGIMES)


def _outside(watched: Watched | None, body: Callable[[], object]) -> float:
    """Seconds of `body`, what is waited for left out."""
    before = watched.inside_ns if watched else 0
    start = perf_counter_ns()
    body()
    took = perf_counter_ns() - start
    return (took - ((watched.inside_ns - before) if watched else 0)) * 1e-9


# ---- a session -------------------------------------------------------------------------------------------------------


class CpuTime:
    """CPU time of this process (all threads) that was spent inside given functions, nested calls counted once."""

    def __init__(self) -> None:
        self.inside_s = 0.0
        self._depth = 0

    @staticmethod
    def now() -> float:
        """CPU seconds of this process and of its children that have ended (the sampler of clocks and heat)."""
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    def apart(self, body: Callable) -> Callable:
        def call(*arguments):
            self._depth += 1
            start = self.now()
            try:
                return body(*arguments)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.inside_s += self.now() - start

        return call


def of_a_session(device: CpuDevice | CudaDevice) -> Iterator[Line]:
    """The harness' share of the CPU time of a smoke session over four convolutions in two layouts."""
    spent = CpuTime()
    for name in ("load", "flush", "synchronize", "join"):
        setattr(device, name, spent.apart(getattr(device, name)))
    cases = [_convolution(channels, size, device, spent) for channels, size in SHAPES]
    design = Design.of("smoke", threads=torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        before, began = spent.now(), perf_counter_ns()
        out = Path(folder) / "session-0.parquet"
        run_session(cases, design, 0, device, a_run(), out, journal=False, on_progress=lambda line: None)
        total, wall_s = spent.now() - before, (perf_counter_ns() - began) * 1e-9
    yield Line("smoke session of 4 layers and 2 arms, wall time", wall_s, "s")
    yield Line("smoke session: the method's share of the CPU time", 100 * (1 - spent.inside_s / total), "%", 15.0)


def _convolution(channels: int, size: int, device: CpuDevice | CudaDevice, spent: CpuTime) -> tuple[Case, list[Arm]]:
    def inputs(seed: int, phase: str) -> Inputs:
        rng = torch.Generator().manual_seed(seed)
        x = torch.randn(1, channels, size, size, generator=rng).relu_()
        w = torch.randn(channels, channels, 3, 3, generator=rng) / (3 * channels**0.5)
        return {"x": x.to(device.kind), "w": w.to(device.kind)}

    def reference(given: Inputs) -> Reference:
        x, w = given["x"].double(), given["w"].double()
        conv = torch.nn.functional.conv2d
        return Reference(conv(x, w, padding=1), conv(x.abs(), w.abs(), padding=1), 9 * channels)

    def arm(name: str, role: str, layout: torch.memory_format) -> Arm:
        def prepare(given: Inputs) -> Prepared:
            x, w = (given[key].contiguous(memory_format=layout) for key in ("x", "w"))
            return Prepared(run=spent.apart(lambda: torch.nn.functional.conv2d(x, w, padding=1)))

        return Arm(name, role, spent.apart(prepare), tf32=False, regimes=REGIMES, context=lambda: flags(tf32=False))

    arms = [arm("channels_last", "ours", torch.channels_last), arm("contiguous", "baseline", torch.contiguous_format)]
    axes = {"channels": channels}
    return Case("user", "overhead", axes, spent.apart(inputs), spent.apart(reference), layer=f"conv{channels}"), arms


# ---- the program -----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there too")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda" or (arguments.device == "auto" and torch.cuda.is_available())
    key = device_key("cuda" if on_gpu else "cpu")
    print(f"on {key}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    make = CudaDevice if on_gpu else CpuDevice
    lines = []
    for part in (of_samples(make(key)), of_a_session(make(key))):
        for line in part:
            print(line, flush=True)
            lines.append(line)
    if arguments.json:
        arguments.json.write_text(json.dumps({"device_key": key, "lines": [asdict(line) for line in lines]}, indent=2))


if __name__ == "__main__":
    main()
