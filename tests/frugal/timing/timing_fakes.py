"""A clock that only moves when told, and a GPU whose queue is arithmetic: what a regime does is read off exactly."""

from contextlib import contextmanager
from datetime import UTC, datetime

import torch

from frugal.timing import Arm, Case, Prepared, Reference, Unsupported


class _Waited(RuntimeError):
    pass


class FakeClock:
    def __init__(self):
        self.at = 1_000_000_000

    def ns(self):
        return self.at

    def now(self):
        return datetime(2026, 1, 31, tzinfo=UTC)

    def sleep(self, seconds):
        self.advance(seconds)

    def advance(self, seconds):
        self.at += round(seconds * 1e9)


class FakeEvent:
    def __init__(self, device):
        self.device, self.ns = device, None

    def record(self):
        self.device.log.append("event")
        self.ns = self.device.reached()

    def elapsed_time(self, end):
        step = self.device.resolution_ns
        return round((end.ns - self.ns) / step) * step * 1e-6


class FakeGraph:
    def __init__(self, device, bodies):
        self.device, self.bodies = device, bodies

    def replay(self):
        self.device.log.append("replay")
        self.device.clock.advance(self.device.replay_host_s)
        for compute, device_s in self.bodies:
            self.device.enqueue(device_s)
            compute()


class FakeGpu:
    """`launch` is what an arm's run() does: host time passes, then the device works for a while. Never concurrent."""

    kind, key, uuid = "cuda", "fake-gpu", None
    cache_bytes, memory_bytes, hz = 1000, 10**9, 1e9
    flush_s, replay_host_s = 30e-6, 15e-6

    def __init__(self, clock, resolution_ns=1):
        self.clock, self.resolution_ns = clock, resolution_ns
        self.log, self.free, self.recording, self.refuses, self.forbidden = [], 0, None, None, False

    def reached(self):
        return max(self.clock.ns(), self.free)

    def enqueue(self, device_s):
        self.free = self.reached() + round(device_s * 1e9)

    def launch(self, compute, device_s, host_s=5e-6, waits=False):
        if self.recording is not None:
            self.recording.append((compute, device_s))
            return
        if waits and self.forbidden:
            raise _Waited
        self.log.append("run")
        self.clock.advance(host_s)
        self.enqueue(device_s)
        compute()
        if waits:
            self.clock.at = self.reached()

    @contextmanager
    def active(self):
        yield

    def flush(self, mode):
        self.log.append(f"flush {mode}")
        self.enqueue(self.flush_s)

    def sleep(self, cycles):
        self.log.append(f"sleep {cycles}")
        self.enqueue(cycles / self.hz)

    def event(self):
        return FakeEvent(self)

    def synchronize(self):
        self.log.append("synchronize")
        self.clock.at = self.reached()

    def join(self):
        self.clock.at = self.reached()

    def synchronises(self, run):
        self.forbidden = True
        try:
            run()
        except _Waited:
            return True
        finally:
            self.forbidden = False
        return False

    def capture(self, body):
        if self.refuses:
            raise Unsupported(f"capture: {self.refuses}")
        self.log.append("capture")
        self.recording = []
        body()
        bodies, self.recording = self.recording, None
        return FakeGraph(self, bodies)

    def load(self):
        self.clock.advance(3e-3)

    def release(self):
        self.log.append("release")


def doubling(s=True):
    """The case y = 2 x of 100 numbers, and its reference."""

    def reference(inputs):
        y = 2 * inputs["x"].double()
        return Reference(y, y.abs() if s else None, 1)

    def inputs(seed, phase):
        return {"x": torch.randn(100, generator=torch.Generator().manual_seed(seed))}

    return Case("cusnn", "layers", {"batch": 1, "layer": "conv1"}, inputs, reference, "net", "conv1", {"n": 1})


def gpu_arm(device, name="sparse", role="ours", device_s=10e-6, host_s=5e-6, waits=False, wrong=0.0, **given):
    def prepare(inputs):
        x, y = inputs["x"], torch.empty(100)

        def compute():
            torch.mul(x, 2, out=y)
            y[3] += wrong

        return Prepared(run=lambda: device.launch(compute, device_s, host_s, waits), outputs=(y,))

    given = {"regimes": ("cold", "hot", "graph", "graph_rotated", "wall")} | given
    return Arm(name=name, role=role, prepare=prepare, source_hash="abc", **given)


def cpu_arm(compute, name="sparse", role="ours", **given):
    """`compute(x, y)` writes y. Called anew for each set of inputs."""

    def prepare(inputs):
        y = torch.empty_like(inputs["x"])

        def run():
            compute(inputs["x"], y)
            return y

        return Prepared(run=run, outputs=(y,), loop=lambda m: [run() for _ in range(m)][0:0] or None)

    return Arm(name=name, role=role, prepare=prepare, source_hash="abc", **given)


def right(x, y):
    torch.mul(x, 2, out=y)
