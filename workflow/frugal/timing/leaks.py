"""Memory that an arm does not give back.

What an arm may keep (compiled code, a library's workspace, the buffers of a regime) is there after its first block.
So growth is summed over its later blocks, and counts as a leak when it exceeds LEAK_BYTES there *and* still exceeds it
when the case is over, its tensors are released and garbage is collected.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

# Far above what allocators and lazily loaded libraries add in a block (some MB on glibc), far below what hurts a
# session of 100 cases on a machine with 16 GB.
LEAK_BYTES = 64 << 20


@dataclass(frozen=True)
class Held:
    """Bytes that this process holds: resident on the host, and in torch's tensors on the GPU."""

    host: int = 0
    device: int = 0

    @classmethod
    def now(cls) -> Held:
        return cls(psutil.Process().memory_info().rss, torch.cuda.memory_allocated())

    def __add__(self, other: Held) -> Held:
        return Held(self.host + other.host, self.device + other.device)

    def __sub__(self, other: Held) -> Held:
        return Held(self.host - other.host, self.device - other.device)

    @property
    def leaks(self) -> bool:
        return max(self.host, self.device) > LEAK_BYTES


def sentence(in_blocks: Held, kept: Held) -> str | None:
    """What a row says of an arm whose later blocks grew by `in_blocks` in a case that kept `kept`; None: no leak."""
    grown = {"host": (in_blocks.host, kept.host), "GPU": (in_blocks.device, kept.device)}
    found = [
        f"{where} memory grew by {blocks / 2**20:.0f} MiB in its blocks"
        for where, (blocks, after) in grown.items()
        if min(blocks, after) > LEAK_BYTES
    ]
    return f"leak: {' and '.join(found)} and was not given back" if found else None
