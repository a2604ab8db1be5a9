"""What is fixed when a v5 kernel is compiled, and how its block is laid out. Loads neither torch nor numba."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from kernels.build import KernelSource
from kernels.tiled import v5_pair_mma
from kernels.tiled.shape import ACTIVATIONS

DTYPES = {"tf32": 4, "bf16": 2}  # bytes of a number in shared memory
TW = 16  # columns of a tile: the rows of one fragment of A
# Bytes of shared memory that a block may have: CUDA programming guide, technical specifications.
SHARED = {"8.0": 163 * 1024, "8.6": 99 * 1024, "8.7": 163 * 1024, "8.9": 99 * 1024, "9.0": 227 * 1024}
LEAST_SHARED = min(SHARED.values())
HELD = 96  # registers for the first layer's weights, at most

_NAME = re.compile(
    r"v5_pair_mma_(?P<part>pair|first|second)_(?P<dtype>tf32|bf16)_w(?P<warps>\d+)x(?P<rows>\d+)_i(?P<cin>\d+)"
    r"_m(?P<mid>\d+)_o(?P<cob>\d+)_p(?P<pool_mid>[01])(?P<pool_out>[01])_(?P<activation>[a-z]+)"
)


@dataclass(frozen=True)
class MmaVariant:
    """One compiled v5 kernel. Raises ValueError, naming the field, for a value that no kernel can be generated for."""

    dtype: str = "tf32"
    """What is multiplied: tf32 (inputs and outputs float32) or bf16 (all tensors bf16); sums are float32."""
    part: str = "pair"
    """Both layers, or as the dense twin the `first` or the `second`."""
    warps: int = 4
    rows: int = 4
    """Rows of the tile that a warp computes, each one fragment of 16 columns."""
    cin: int = 4
    """Most input channels of the first layer."""
    mid: int = 64
    """Most channels between the layers: all are in shared memory at once."""
    cob: int = 64
    """Output channels of a block."""
    pool_mid: bool = False
    pool_out: bool = False
    activation: str = "relu"

    rung = "v5_pair_mma"

    def __post_init__(self) -> None:
        self._check("part", self.part in ("pair", "first", "second"), "pair, first or second")
        self._check("dtype", self.dtype in DTYPES, f"one of {', '.join(DTYPES)}")
        self._check("activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        self._check("warps", 1 <= self.warps <= 16, "an integer from 1 to 16")
        self._check("rows", self.rows in (2, 4), "2 or 4")
        self._check("cin", self.cin in (4, 8, 16), "4, 8 or 16")
        self._check("mid", self.mid in (32, 64, 128), "32, 64 or 128")
        self._check("cob", self.cob in (16, 32, 64), "16, 32 or 64")
        self._check("pool_mid", not self.pool_mid or self.part != "second", "False: its layer is not in it")
        self._check("pool_out", not self.pool_out or self.part != "first", "False: its layer is not in it")

    def _check(self, field: str, good: bool, allowed: str) -> None:
        if not good:
            raise ValueError(f"tiled variant: {field} = {getattr(self, field)!r}: {allowed} is allowed.")

    @property
    def th(self) -> int:
        """Rows of the tile."""
        return self.warps * self.rows

    @property
    def tw(self) -> int:
        """Columns of the tile."""
        return TW

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def q(self) -> int:
        """Rows of the first convolution that one row between the layers is the maximum of."""
        return 2 if self.pool_mid else 1

    @property
    def middle(self) -> tuple[int, int]:
        """Rows and columns between the layers that a block computes or reads."""
        halo = 0 if self.part == "first" else 2
        return self.th + halo, TW + halo

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of the input that a block reads."""
        return self.q * self.middle[0] + 2, self.q * self.middle[1] + 2

    @property
    def element(self) -> int:
        """Bytes of a number in shared memory."""
        return DTYPES[self.dtype]

    @property
    def step(self) -> int:
        """Products that one matrix instruction adds to a sum: 8 (tf32) or 16 (bf16)."""
        return 32 // self.element

    @property
    def pitch(self) -> int:
        """Bytes from one position between the layers to the next: an odd number of 16-byte words, so that the eight
        rows of a matrix are in different banks."""
        return self.mid * self.element + 16

    @property
    def first_steps(self) -> int:
        """Matrix instructions for a sum of the first layer: 9·cin products, filled up with zeros."""
        return -(-9 * self.cin // self.step)

    @property
    def held(self) -> int:
        """Channels between the layers, in eights, that a warp computes at a time, their weights in registers."""
        most = HELD // (2 * self.first_steps)
        return max(size for size in (2, 4, 8) if size <= max(2, min(most, self.mid // 8)))

    @property
    def shared_terms(self) -> dict[str, int]:
        """Bytes of shared memory by what they are for."""
        (mh, mw), (ih, iw) = self.middle, self.window
        return {
            "input": -(-ih * iw * self.cin * self.element // 16) * 16 * (self.part != "second"),
            "middle": mh * mw * self.pitch * (self.part != "first"),
        }

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory a block."""
        return sum(self.shared_terms.values())

    @property
    def name(self) -> str:
        """A file name without spaces; `parse` reads it back."""
        return (
            f"{self.rung}_{self.part}_{self.dtype}_w{self.warps}x{self.rows}_i{self.cin}_m{self.mid}_o{self.cob}"
            f"_p{self.pool_mid:d}{self.pool_out:d}_{self.activation}"
        )

    @classmethod
    def parse(cls, name: str) -> MmaVariant:
        """The variant of a name. Raises ValueError if it is not one."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is no variant of the v5 kernels: a name looks like {cls().name}.")
        fields = {key: int(value) if value.isdigit() else value for key, value in match.groupdict().items()}
        return cls(**{**fields, "pool_mid": fields["pool_mid"] == 1, "pool_out": fields["pool_out"] == 1})

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """(name, kind) of the kernel's arguments, in order."""
        return v5_pair_mma.parameters(self)

    @property
    def twin(self) -> tuple[MmaVariant, MmaVariant]:
        """The dense twin of a pair: the same tile code as two launches."""
        return (
            dataclasses.replace(self, part="first", pool_out=False),
            dataclasses.replace(self, part="second", pool_mid=False),
        )

    def source(self, capability: str | None = None) -> KernelSource:
        """The generated kernel for `kernels.build.build`; the simulator has no tensor cores.

        Raises ValueError for a capability without these instructions, or without that much shared memory.
        """
        if capability is not None:
            self._check("dtype", float(capability) >= 8, "on compute capability 8.0 and up")
            most, terms = SHARED.get(capability, LEAST_SHARED), self.shared_terms
            bound = max(terms, key=terms.__getitem__)
            self._check(
                "rows",
                self.shared_bytes <= most,
                f"fewer, or fewer warps, on capability {capability}, whose blocks have {most} bytes of shared memory "
                f"({self.shared_bytes} are needed, {terms[bound]} of them for the {bound})",
            )
        return KernelSource(
            family="tiled",
            variant=self.name,
            entry=self.rung,
            python_source=v5_pair_mma.source(self),
            parameters=self.parameters,
            threads=self.threads,
            dynamic_shared_bytes=self.shared_bytes,
        )
