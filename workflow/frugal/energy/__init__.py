"""Energy, clocks and heat of the device that measures, read and never set (docs/methodology.md, "Energy").

`Sampler` reads clocks, heat and power from a process of its own while others are timed. `Meter` measures the energy of
one run from the device's counter. No clock is looked at but the one that is given, and torch is not imported.
"""

from .gauge import Gauge, gauge_of
from .meter import Energy, Idle, Meter, measure_energy
from .ring import POLL, no_polls
from .sampler import Sampler

__all__ = [
    "POLL",
    "Energy",
    "Gauge",
    "Idle",
    "Meter",
    "Sampler",
    "gauge_of",
    "measure_energy",
    "no_polls",
]
