"""Random numbers of a replay: the generator goes back to where it stood at the first run, and then forward again.

A CPU generator's whole state is kept (5 KB). A CUDA generator is a seed and an offset, two integers, without
synchronisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

Kept = tuple[torch.Generator, object]


def generator_of(device: torch.device, given: torch.Generator | None) -> torch.Generator:
    """The generator that an operator on a device draws from: the one it was given, or the device's own."""
    if given is not None:
        return given
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        return torch.cuda.default_generators[index]
    return torch.default_generator


def keep(generator: torch.Generator) -> Kept:
    """Where a generator stands now."""
    return generator, _state(generator)


@contextmanager
def replayed(kept: Kept) -> Iterator[None]:
    """The generator stands where it was kept, and afterwards where it stood before the block."""
    generator, state = kept
    now = _state(generator)
    _set(generator, state)
    try:
        yield
    finally:
        _set(generator, now)


def _state(generator: torch.Generator) -> object:
    if generator.device.type == "cuda":
        return generator.initial_seed(), generator.get_offset()
    return generator.get_state()


def _set(generator: torch.Generator, state: object) -> None:
    if isinstance(state, tuple):
        seed, offset = state
        generator.manual_seed(seed)
        generator.set_offset(offset)
    else:
        generator.set_state(state)  # type: ignore[arg-type]
