"""What a backward pass must find as its forward pass had it: autocast, cuDNN's and TF32's flags, random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from frugal.sft.meta import Autocast


@dataclass(frozen=True)
class Surroundings:
    """autocast: its type where it is on. benchmark, deterministic: of cuDNN. tf32: in convolutions, in products."""

    device_type: str
    autocast: torch.dtype | None
    benchmark: bool
    deterministic: bool
    tf32: tuple[bool, bool]

    @classmethod
    def now(cls, device: torch.device) -> Surroundings:
        kind, cudnn = device.type, torch.backends.cudnn
        if kind == "meta":
            autocast = Autocast.now()
        else:
            autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return cls(
            kind,
            autocast,
            cudnn.benchmark,
            cudnn.deterministic,
            (cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        )

    @contextmanager
    def again(self) -> Iterator[None]:
        """Be as then; weights are cast by `cast`, so that autocast needs no cache of them."""
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
        cudnn.benchmark, cudnn.deterministic = self.benchmark, self.deterministic
        cudnn.allow_tf32, matmul.allow_tf32 = self.tf32
        try:
            with self._autocast():
                yield
        finally:
            cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before

    def _autocast(self) -> AbstractContextManager:
        if self.device_type == "meta":
            return nullcontext() if self.autocast is None else Autocast(self.autocast)
        return torch.autocast(self.device_type, self.autocast, enabled=self.autocast is not None, cache_enabled=False)

    def cast(self, weight: Tensor) -> Tensor:
        """A convolution's weight or bias as autocast would cast it: once a segment and pass, not once a window."""
        if self.autocast is None or weight.dtype == torch.float64 or not weight.is_floating_point():
            return weight
        return weight.to(self.autocast)


def random_state(device: torch.device) -> Tensor:
    """The generator's state from which a window draws its dropout."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def random_again(device: torch.device, state: Tensor | None) -> Iterator[None]:
    """Draw what was drawn from that state; afterwards the generator is where it was. Nothing is done for None."""
    if state is None:
        yield
        return
    before = random_state(device)
    _set(device, state)
    try:
        yield
    finally:
        _set(device, before)


def _set(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
