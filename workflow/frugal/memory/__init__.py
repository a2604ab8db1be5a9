"""Memory: bytes of live tensors, multiply-adds, peaks of allocators, devices and processes, and the largest size."""

from frugal.memory.fresh import Outcome, in_fresh_process
from frugal.memory.live import LiveBytes, LiveBytesExceeded
from frugal.memory.macs import MacCounter
from frugal.memory.peaks import Peak, peak_cuda, peak_device, peak_live, peak_rss
from frugal.memory.search import Fit, MaxSize, Probe, cuda_probe, live_probe, max_size

__all__ = [
    "Fit",
    "LiveBytes",
    "LiveBytesExceeded",
    "MacCounter",
    "MaxSize",
    "Outcome",
    "Peak",
    "Probe",
    "cuda_probe",
    "in_fresh_process",
    "live_probe",
    "max_size",
    "peak_cuda",
    "peak_device",
    "peak_live",
    "peak_rss",
]
