"""A board whose energy is arithmetic: a clock that moves when told, a queue, and NVML's getters over both."""

from types import SimpleNamespace

READ_S = 3.4e-3  # what one read of the counter costs


class FakeClock:
    def __init__(self):
        self.at = 1_000_000_000

    def ns(self):
        return self.at

    def sleep(self, seconds):
        self.advance(seconds)

    def advance(self, seconds):
        self.at += round(seconds * 1e9)


class FakeEvent:
    def __init__(self, board):
        self.board, self.ns = board, None

    def record(self):
        self.ns = self.board.reached()
        self.board.queued.append(self)

    def query(self):
        return self.ns <= self.board.clock.ns()


class FakeBoard:
    """Work of `run_s` a call; draws `busy_w` while the queue holds something, else `idle_w`. Its energy is exact."""

    kind, uuid = "cuda", "board-1"

    def __init__(self, clock, run_s=1e-3, busy_w=600.0, idle_w=120.0, host_s=5e-6):
        self.clock, self.run_s, self.busy_w, self.idle_w, self.host_s = clock, run_s, busy_w, idle_w, host_s
        self.born = clock.ns()
        self.free = clock.ns()
        self.busy = []  # [start, end] in ns, merged
        self.queued, self.calls, self.deepest = [], 0, 0

    def reached(self):
        return max(self.clock.ns(), self.free)

    def run(self):
        self.clock.advance(self.host_s)
        start = self.reached()
        self.free = start + round(self.run_s * 1e9)
        if self.busy and self.busy[-1][1] == start:
            self.busy[-1][1] = self.free
        else:
            self.busy.append([start, self.free])
        self.calls += 1

    def event(self):
        self.deepest = max(self.deepest, sum(not event.query() for event in self.queued[-5:]))
        return FakeEvent(self)

    def synchronize(self):
        self.clock.at = self.reached()

    def joules(self, ns):
        """Since it was born."""
        busy = sum(max(0, min(ns, end) - start) for start, end in self.busy if start < ns)
        return ((ns - self.born) * self.idle_w + busy * (self.busy_w - self.idle_w)) * 1e-9


class NVMLError(Exception):
    pass


class FakeNvml:
    """Ticks at `ticks` (a function: ns -> ns of the last tick), `silent` getters raise as without permission."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    NVML_FI_DEV_POWER_INSTANT = 186

    def __init__(self, board, ticks=None, silent=(), others=(), mig=False):
        self.board, self.silent, self.others, self.mig = board, set(silent), list(others), mig
        self.ticks = ticks or steps(0.1, 0.0)
        self.reset_at = None
        self.asked = []

    def __getattribute__(self, name):
        if name.startswith("nvmlDevice"):
            if name in super().__getattribute__("silent"):
                raise super().__getattribute__("NVMLError")("Insufficient Permissions")
            super().__getattribute__("asked").append(name)
        return super().__getattribute__(name)

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-board-1":
            raise NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetUUID(self, handle):
        return "MIG-x" if self.mig == "slice" else "GPU-board-1"

    def nvmlDeviceGetMigMode(self, handle):
        return [int(bool(self.mig)), 0]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        clock = self.board.clock
        clock.advance(READ_S / 2)
        now = clock.ns()
        clock.advance(READ_S / 2)
        joules = self.board.joules(max(self.board.born, self.ticks(now)))
        if self.reset_at is not None and now >= self.reset_at:
            joules -= self.board.joules(self.reset_at)
        return round(joules * 1e3)

    def nvmlDeviceGetPowerUsage(self, handle):
        """The mean of the last 1.2 s."""
        now = self.board.clock.ns()
        then = max(self.board.born, now - round(1.2e9))
        watts = (self.board.joules(now) - self.board.joules(then)) / ((now - then) * 1e-9) if now > then else 120.0
        return round(watts * 1e3)

    def nvmlDeviceGetFieldValues(self, handle, fields):
        assert fields == [(186, 0)]
        now = self.board.clock.ns()
        watts = self.board.busy_w if now < self.board.free else self.board.idle_w
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=round(watts * 1e3)))]

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid) for pid in [1, *self.others]]

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return {1: 1980, 2: 3201}[kind]

    def nvmlDeviceGetTemperature(self, handle, kind):
        return 41

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return 4

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return 8


def steps(period_s, phase_s):
    """A counter that ticks every `period_s`."""
    period, phase = round(period_s * 1e9), round(phase_s * 1e9)
    return lambda ns: (ns - phase) // period * period + phase
