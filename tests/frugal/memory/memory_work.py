"""What the tests of frugal.memory call in a process of its own; torch is imported only where it is needed."""

import os
import signal
import time

import numpy as np


def echo(**given):
    return given


def touch(megabytes):
    """Main memory that is really there, then gone again."""
    return int(np.ones(megabytes << 17).sum()) >> 17


def fail(message):
    raise ValueError(message)


def unanswerable():
    return {1, 2}


def exhaust(how):
    if how == "python":
        raise MemoryError("no more")
    import torch

    from frugal.memory import LiveBytesExceeded

    if how == "torch":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    if how == "limit":
        raise LiveBytesExceeded(5, 3, 4)
    torch.empty(1 << 60, dtype=torch.uint8)


def die(name):
    os.kill(os.getpid(), getattr(signal, name))


def leave(status):
    os._exit(status)


def hang():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


def fits_below(size, most):
    """A probe with an answer that is known."""
    if size > most:
        raise MemoryError(f"{size} is more than {most}")
    return 10 * size


def square(size, live):
    """A matrix times itself: two of size² float32."""
    import torch

    a = torch.ones(size, size)
    return a @ a


def cuda_square(size):
    """The same on a GPU, with its peak."""
    import torch

    a = torch.ones(size, size, device="cuda")
    (a * a).sum().item()
    return torch.cuda.max_memory_allocated()
