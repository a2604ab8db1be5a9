"""The regimes: what one sample is, and in which order the device is asked for it.

| regime | a sample on a CUDA device | on a CPU |
|---|---|---|
| `cold` | flush L2, spin, event, run, event; queued, one wait for up to 100 samples | read 2 × LLC, then time run |
| `hot` | spin, event, m runs, event; m runs last ≥ 1 ms | m runs back to back |
| `graph` | event, replay of a CUDA graph that holds m runs, event | a compiled loop that runs m times |
| `wall` | wait, clock, run, wait, clock: what a caller sees | the same without waiting |

A sample is divided by its m. `graph` comes in two variants, chosen by name: "graph" runs on one set of buffers, whose
data stays in L2 as far as it fits (rows: regime `graph`, l2 `resident`), "graph_rotated" goes through R sets that
together exceed 2 × L2 (rows: regime `graph`, l2 `rotated`). R is at most 64 and the sets may fill a quarter of the
memory; where that does not exceed 2 × L2, the row's reason says so.

The spin holds the queue back while the host enqueues a sample, so that the events see the device alone: it lasts
max(20 µs, spin_factor × h), h being the host's time for one run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from torch import Tensor

from frugal.clock import Clock
from frugal.timing.arms import Arm, Inputs, Prepared, Unsupported
from frugal.timing.design import Design
from frugal.timing.devices import Device, Event, QueueDevice
from frugal.timing.verify import tensors

LONG_S = 1e-2  # of an estimate that need not be repeated: what disturbs a run is far below it
SAMPLE_S = 1e-3  # a hot or graph sample lasts at least this long: 2000 times the resolution of an event
RUNS_MAX = 1000
SPIN_MIN_S = 20e-6
SPIN_MAX_S = 5e-3
QUEUE_MAX = 100  # samples in flight: the launch queue holds about 1024 entries
SETS_MAX = 64
MEMORY_SHARE = 0.25
LAUNCH_BOUND = 0.9  # of the device's time for a run

Timed = list[tuple[int, float]]  # start on the monotonic clock in ns, and the sample in s


@dataclass(frozen=True)
class Estimate:
    """`run_s`: device time of one run (on a CPU: its time). `host_s`: the host's time to enqueue it (CPU: 0)."""

    run_s: float
    host_s: float = 0.0


@dataclass
class Recipe:
    """One arm in one regime, ready to take samples.

    `take(count)` takes samples and waits for them. `outputs()` are the tensors that the last sample wrote, to be
    compared with the reference; `written` are all static buffers, to be poisoned. `expected_s` is what one sample
    occupies the machine for, flush and spin included, as far as it is known before. `replay` is in regime graph alone:
    it enqueues the m runs of a sample and nothing else (on a CPU it runs them).
    """

    regime: str
    l2: str | None
    m: int
    expected_s: float
    take: Callable[[int], Timed]
    outputs: Callable[[], tuple[Tensor, ...]]
    written: tuple[Tensor, ...]
    note: str | None = None
    keep: tuple = ()
    replay: Callable[[], object] | None = None


@dataclass
class _Last:
    """The result of the most recent run."""

    result: object = None
    static: tuple[Tensor, ...] = ()

    def outputs(self) -> tuple[Tensor, ...]:
        return tensors(self.result, self.static)


@dataclass
class _Queue:
    """Event pairs of a device's queue, read together after one wait."""

    device: QueueDevice
    clock: Clock
    anchor: Event = field(init=False)
    pairs: list[tuple[Event, Event]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.anchor = self.device.event()

    def open(self, count: int) -> tuple[int, list[tuple[Event, Event]]]:
        """The clock at a mark in an empty queue, and `count` pairs."""
        while len(self.pairs) < count:
            self.pairs.append((self.device.event(), self.device.event()))
        at = self.clock.ns()
        self.anchor.record()
        return at, self.pairs[:count]

    def close(self, at: int, pairs: Sequence[tuple[Event, Event]], m: int) -> Timed:
        self.device.synchronize()
        anchor = self.anchor
        return [
            (at + round(anchor.elapsed_time(start) * 1e6), start.elapsed_time(end) * 1e-3 / m) for start, end in pairs
        ]


def estimate(prepared: Prepared, device: Device, design: Design, clock: Clock) -> Estimate:
    """After the first call: host time without waiting, then device time behind a spin. Medians of three, or one alone
    that lasts LONG_S."""
    run = prepared.run
    host = _typical(lambda: _host_seconds(run, device, clock))
    if device.kind == "cpu":
        return Estimate(run_s=host)
    queue = _Queue(device, clock)

    def behind_a_spin() -> float:
        at, pairs = queue.open(1)
        device.sleep(spin_cycles(device, design, host))
        pairs[0][0].record()
        run()
        pairs[0][1].record()
        return queue.close(at, pairs, 1)[0][1]

    return Estimate(run_s=_typical(behind_a_spin), host_s=host)


def _typical(seconds: Callable[[], float]) -> float:
    first = seconds()
    return first if first >= LONG_S else median((first, seconds(), seconds()))


def spin_cycles(device: QueueDevice, design: Design, host_s: float) -> int:
    return int(device.hz * min(SPIN_MAX_S, max(SPIN_MIN_S, design.spin_factor * host_s)))


def runs_per_sample(run_s: float) -> int:
    """m: as many runs as last 1 ms, between 1 and 1000."""
    return max(1, min(RUNS_MAX, math.ceil(SAMPLE_S / run_s - 1e-9))) if run_s > 0 else RUNS_MAX


def build(
    regime: str,
    arm: Arm,
    prepared: Prepared,
    inputs: Inputs,
    guess: Estimate,
    device: Device,
    design: Design,
    clock: Clock,
    memory_share: float = MEMORY_SHARE,
) -> Recipe:
    """The recipe of a regime. Raises Unsupported with the reason where the arm cannot be timed that way.

    `inputs` are those that `prepared` is bound to; graph_rotated clones them for its further sets, which may fill
    `memory_share` of the memory.
    """
    if regime == "wall":
        return _wall(prepared, guess, device, clock)
    if device.kind == "cpu":
        return _on_cpu(regime, prepared, guess, device, design, clock)
    if regime == "cold":
        return _cold(prepared, guess, device, design, clock)
    if regime == "hot":
        return _hot(prepared, guess, device, design, clock)
    if regime == "graph":
        return _graph([prepared], "resident", None, guess, device, design, clock)
    sets, note = _rotated(arm, prepared, inputs, device, memory_share)
    return _graph(sets, "rotated", note, guess, device, design, clock)


def _cold(prepared: Prepared, guess: Estimate, device: QueueDevice, design: Design, clock: Clock) -> Recipe:
    if design.spin_factor * guess.host_s > SPIN_MAX_S:
        raise Unsupported(f"host_bound: enqueueing one run takes {guess.host_s * 1e3:.3g} ms, too long to hide")
    queue, last = _Queue(device, clock), _Last(static=prepared.outputs)
    cycles, run, flush, sleep, mode = (
        spin_cycles(device, design, guess.host_s), prepared.run, device.flush, device.sleep, design.flush,
    )  # fmt: skip

    def take(count: int) -> Timed:
        at, pairs = queue.open(count)
        for start, end in pairs:
            flush(mode)
            sleep(cycles)
            start.record()
            last.result = run()
            end.record()
        return queue.close(at, pairs, 1)

    expected = guess.run_s + cycles / device.hz
    return Recipe("cold", None, 1, expected, take, last.outputs, prepared.outputs)


def _hot(prepared: Prepared, guess: Estimate, device: QueueDevice, design: Design, clock: Clock) -> Recipe:
    queue, last = _Queue(device, clock), _Last(static=prepared.outputs)
    m, cycles, run, sleep = (
        runs_per_sample(guess.run_s), spin_cycles(device, design, guess.host_s), prepared.run, device.sleep,
    )  # fmt: skip

    def take(count: int) -> Timed:
        at, pairs = queue.open(count)
        for start, end in pairs:
            sleep(cycles)
            start.record()
            for _ in range(m):
                last.result = run()
            end.record()
        return queue.close(at, pairs, m)

    expected = m * max(guess.run_s, guess.host_s) + cycles / device.hz
    return Recipe("hot", None, m, expected, take, last.outputs, prepared.outputs)


def _graph(
    sets: Sequence[Prepared],
    l2: str,
    note: str | None,
    guess: Estimate,
    device: QueueDevice,
    design: Design,
    clock: Clock,
) -> Recipe:
    count_sets = len(sets)
    m = count_sets * math.ceil(runs_per_sample(guess.run_s) / count_sets)
    for prepared in sets:  # warm-up on the stream that captures: nothing may be allocated or tuned inside
        prepared.run()
    results: list[object] = [None] * count_sets

    def body() -> None:
        for i in range(m):
            results[i % count_sets] = sets[i % count_sets].run()

    graph = device.capture(body)
    graph.replay()  # the first replay uploads the graph
    replay_host_s = _host_seconds(graph.replay, device, clock)
    cycles = spin_cycles(device, design, replay_host_s)
    queue, replay = _Queue(device, clock), graph.replay

    def take(count: int) -> Timed:
        at, pairs = queue.open(count)
        device.sleep(cycles)
        for start, end in pairs:
            start.record()
            replay()
            end.record()
        return queue.close(at, pairs, m)

    found = [tensors(result, prepared.outputs) for result, prepared in zip(results, sets, strict=True)]
    written = tuple(output for outputs in found for output in outputs)
    expected = m * guess.run_s
    kept = (graph, sets, results)
    return Recipe("graph", l2, m, expected, take, lambda: found[-1], written, note, kept, replay)


def _rotated(
    arm: Arm, prepared: Prepared, inputs: Inputs, device: Device, memory_share: float
) -> tuple[list[Prepared], str | None]:
    held = _bytes(inputs.values()) + _bytes(prepared.outputs)
    touched = arm.bytes_min or held
    wanted = 2 * device.cache_bytes
    affordable = int(memory_share * device.memory_bytes / max(held, 1))
    count = max(1, min(SETS_MAX, math.ceil(wanted / max(touched, 1)), affordable))
    clones = [{name: value.clone() for name, value in inputs.items()} for _ in range(count - 1)]
    sets = [prepared, *(arm.prepare(clone) for clone in clones)]
    note = None
    if count * touched < wanted:
        note = (
            f"rotated_short: {count} sets hold {count * touched / 1e6:.3g} MB, less than 2 x L2 = {wanted / 1e6:.3g} MB"
        )
    return sets, note


def _wall(prepared: Prepared, guess: Estimate, device: Device, clock: Clock) -> Recipe:
    last, run, wait, ns = _Last(static=prepared.outputs), prepared.run, device.synchronize, clock.ns
    if device.kind == "cpu":
        take = _timed_by_clock(_runs(run, last, 1), None, 1, ns)
    else:

        def take(count: int) -> Timed:
            taken = []
            for _ in range(count):
                wait()
                start = ns()
                last.result = run()
                wait()
                taken.append((start, (ns() - start) * 1e-9))
            return taken

    return Recipe("wall", None, 1, guess.run_s + guess.host_s, take, last.outputs, prepared.outputs)


def _on_cpu(regime: str, prepared: Prepared, guess: Estimate, device: Device, design: Design, clock: Clock) -> Recipe:
    last = _Last(static=prepared.outputs)
    if regime == "cold":
        take = _timed_by_clock(_runs(prepared.run, last, 1), lambda: device.flush(design.flush), 1, clock.ns)
        return Recipe("cold", None, 1, guess.run_s, take, last.outputs, prepared.outputs)
    if regime == "hot":
        m = runs_per_sample(guess.run_s)
        take = _timed_by_clock(_runs(prepared.run, last, m), None, m, clock.ns)
        return Recipe("hot", None, m, m * guess.run_s, take, last.outputs, prepared.outputs)
    loop = prepared.loop
    if loop is None:
        raise Unsupported("cpu_no_graph: this arm has no compiled loop, which is what a graph is on a CPU")
    if regime == "graph_rotated":
        raise Unsupported("cpu_no_rotation: a compiled loop on a CPU runs on one set of buffers")
    if not prepared.outputs:
        raise Unsupported("cpu_no_graph: the arm's compiled loop names no outputs that could be verified")
    run_s = median(_host_seconds(lambda: loop(1), device, clock) for _ in range(3))
    m = runs_per_sample(run_s)

    def replay() -> None:
        loop(m)

    take = _timed_by_clock(replay, None, m, clock.ns)
    written = prepared.outputs
    return Recipe("graph", "resident", m, m * run_s, take, lambda: written, written, replay=replay)


def _timed_by_clock(
    body: Callable[[], None], before: Callable[[], None] | None, m: int, ns: Callable[[], int]
) -> Callable[[int], Timed]:
    def take(count: int) -> Timed:
        taken = []
        for _ in range(count):
            if before is not None:
                before()
            start = ns()
            body()
            taken.append((start, (ns() - start) * 1e-9 / m))
        return taken

    return take


def _runs(run: Callable[[], object], last: _Last, m: int) -> Callable[[], None]:
    def once() -> None:
        last.result = run()

    def many() -> None:
        for _ in range(m):
            last.result = run()

    return once if m == 1 else many


def _host_seconds(body: Callable[[], object], device: Device, clock: Clock) -> float:
    device.synchronize()
    start = clock.ns()
    body()
    return (clock.ns() - start) * 1e-9


def _bytes(values) -> int:
    """Bytes of distinct storages."""
    found = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in values}
    return sum(found.values())
