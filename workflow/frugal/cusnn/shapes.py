"""The convolutions that experiments name by themselves: those of the break-even map, of the ladder and of `smoke`.

Read while planning: no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kernels.sparse.shape import ConvShape


@dataclass(frozen=True)
class Layer:
    """A square convolution with stride 1, input [c, h, h], filters [n, c, k, k], and the zeros of such layers."""

    c: int
    h: int
    n: int
    k: int = 3
    sparsity: float = 0.0
    """Mean share of zeros in the inputs of these layers of ResNet-50 or DenseNet-169, over 32 photographs; 0 where it
    is not asked for."""

    @property
    def name(self) -> str:
        """ "256x14->256"."""
        return f"{self.c}x{self.h}->{self.n}"

    def shape(self, batch: int) -> ConvShape:
        """Its sizes for so many images."""
        return ConvShape(batch, self.c, self.h, self.h, self.n, k=self.k, stride=1, pad=self.k // 2)


# The 3×3 shapes of ResNet-50 (as Keras has it) and DenseNet-169, and three 1×1 of ResNet-50.
BREAK_EVEN = (
    Layer(64, 56, 64),
    Layer(128, 28, 128),
    Layer(256, 14, 256),
    Layer(512, 7, 512),
    Layer(128, 56, 32),
    Layer(128, 28, 32),
    Layer(128, 14, 32),
    Layer(128, 7, 32),
    Layer(1024, 14, 256, k=1),
    Layer(2048, 7, 512, k=1),
    Layer(64, 56, 256, k=1),
)
LADDER = (
    Layer(256, 14, 256, sparsity=0.73),
    Layer(128, 28, 32, sparsity=0.68),
    Layer(128, 14, 32, sparsity=0.74),
    Layer(64, 56, 64, sparsity=0.47),
)
# Of every experiment on layers, `smoke` takes these.
SMOKE = ((128, 14, 32, 3), (256, 14, 256, 3), (1024, 14, 256, 1))


def of_preset(layers: Sequence[Layer], preset: str) -> list[Layer]:
    """All of them, or those of SMOKE."""
    return [layer for layer in layers if preset != "smoke" or (layer.c, layer.h, layer.n, layer.k) in SMOKE]


def break_even(preset: str, kernel_sizes: Sequence[int], batch_sizes: Sequence[int]) -> list[tuple[Layer, int]]:
    """The shapes of the break-even map with their batch sizes; in `smoke` the first batch size alone."""
    layers = [layer for layer in of_preset(BREAK_EVEN, preset) if layer.k in kernel_sizes]
    return [(layer, batch) for layer in layers for batch in _batches(preset, batch_sizes)]


def ladder(preset: str, batch_sizes: Sequence[int]) -> list[tuple[Layer, int]]:
    """The shapes of the ladder with their batch sizes; in `smoke` the first batch size alone."""
    return [(layer, batch) for layer in of_preset(LADDER, preset) for batch in _batches(preset, batch_sizes)]


def _batches(preset: str, batch_sizes: Sequence[int]) -> Sequence[int]:
    return batch_sizes[:1] if preset == "smoke" else batch_sizes
