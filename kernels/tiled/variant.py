"""What is fixed when a kernel of the tiled family is compiled; everything else is a size at run time.

Read while a campaign is planned: neither torch nor numba is loaded.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from kernels.build import KernelSource
from kernels.tiled import layout, v1_naive, v2_tile, v3_pair, v4_pair_reg
from kernels.tiled.shape import ACTIVATIONS

RUNGS = {"v1_naive": v1_naive, "v2_tile": v2_tile, "v3_pair": v3_pair, "v4_pair_reg": v4_pair_reg}
PARTS = {
    "v1_naive": ("layer",),
    "v2_tile": ("layer",),
    "v3_pair": ("pair", "first", "second"),
    "v4_pair_reg": ("pair", "first", "second"),
}
PORTABLE_SHARED = 48 * 1024  # bytes a block gets on every GPU without asking for more

_NAME = re.compile(
    r"(?P<rung>v\d_[a-z_]+?)_(?P<part>layer|pair|first|second)_t(?P<th>\d+)x(?P<tw>\d+)_i(?P<cin>\d+)_m(?P<chunk>\d+)"
    r"_o(?P<cob>\d+)_b(?P<buffers>\d)_p(?P<pool_mid>[01])(?P<pool_out>[01])_(?P<activation>[a-z]+)"
)


@dataclass(frozen=True)
class Variant:
    """One compiled kernel. Raises ValueError, naming the field, for a value that no kernel can be generated for."""

    rung: str
    """Step of the ladder whose generator writes it: v1_naive, v2_tile, v3_pair or v4_pair_reg."""
    part: str = "pair"
    """Both layers (`pair`); the same code with what lies between them in global memory, as two launches (`first` and
    `second`: the dense twin); or any one `layer` (v1 and v2)."""
    th: int = 16
    """Rows of the tile: results of the last convolution, before its maximum."""
    tw: int = 16
    """Columns of the tile."""
    cin: int = 3
    """Most input channels of the first layer."""
    chunk: int = 8
    """Channels between the layers that are in shared memory at a time."""
    cob: int = 64
    """Output channels of a block."""
    buffers: int = 1
    """Chunks in shared memory: with 2, the next is computed while other warps still read the one before."""
    pool_mid: bool = False
    pool_out: bool = False
    activation: str = "relu"

    dtype = "f32"
    """What it computes in."""

    def __post_init__(self) -> None:
        self._check("rung", self.rung in RUNGS, f"one of {', '.join(RUNGS)}")
        self._check("part", self.part in PARTS[self.rung], f"one of {', '.join(PARTS[self.rung])}")
        self._check("activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        self._check("th", 2 <= self.th <= 32 and self.th % 2 == 0, "an even number from 2 to 32")
        self._check("tw", 4 <= self.tw <= 32 and self.tw % 4 == 0, "a multiple of 4 from 4 to 32")
        self._check("cin", self.cin in (3, 4, 8, 16), "3, 4, 8 or 16")
        self._check("chunk", self.chunk in (4, 8, 16), "4, 8 or 16")
        self._check("buffers", self.buffers in (1, 2), "1 or 2")
        self._check("cob", 4 <= self.cob <= 128 and self.cob % layout.CHANNELS[self.rung] == 0,
                    f"a multiple of {layout.CHANNELS[self.rung]} up to 128")  # fmt: skip
        self._check("buffers", self.buffers == 1 or self.part == "pair", "1 for a kernel of one layer")
        self._check("pool_mid", not self.pool_mid or self.part in ("pair", "first"), "False: its layer is not in it")
        self._check("pool_out", not self.pool_out or self.part != "first", "False: its layer is not in it")
        self._check("th", self.threads <= 1024, "a smaller tile or cob, so that a block has at most 1024 threads")
        bound = max(layout.shared_terms(self).items(), key=lambda term: term[1])
        self._check(
            "chunk",
            layout.shared_bytes(self) <= PORTABLE_SHARED,
            f"one with which shared memory ({layout.shared_bytes(self)} bytes, {bound[1]} of them for the {bound[0]}) "
            f"stays within {PORTABLE_SHARED}",
        )

    def _check(self, field: str, good: bool, allowed: str) -> None:
        if not good:
            raise ValueError(f"tiled variant: {field} = {getattr(self, field)!r}: {allowed} is allowed.")

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return layout.threads(self)

    @property
    def middle(self) -> tuple[int, int]:
        """Rows and columns between the layers that a block computes or reads."""
        return layout.middle(self)

    @property
    def name(self) -> str:
        """A file name without spaces; `parse` reads it back."""
        return (
            f"{self.rung}_{self.part}_t{self.th}x{self.tw}_i{self.cin}_m{self.chunk}_o{self.cob}_b{self.buffers}"
            f"_p{self.pool_mid:d}{self.pool_out:d}_{self.activation}"
        )

    @classmethod
    def parse(cls, name: str) -> Variant:
        """The variant of a name. Raises ValueError if it is not one."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is no variant of the tiled kernels: a name looks like {cls('v3_pair').name}.")
        fields = {key: int(value) if value.isdigit() else value for key, value in match.groupdict().items()}
        return cls(**{**fields, "pool_mid": fields["pool_mid"] == 1, "pool_out": fields["pool_out"] == 1})

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """(name, kind) of the kernel's arguments, in order."""
        return RUNGS[self.rung].PARAMETERS[self.part]

    @property
    def twin(self) -> tuple[Variant, Variant]:
        """The dense twin of a pair: the same tile code as two launches."""
        return (
            dataclasses.replace(self, part="first", buffers=1, pool_out=False),
            dataclasses.replace(self, part="second", buffers=1, pool_mid=False),
        )

    def source(self, capability: str | None = None) -> KernelSource:
        """The generated kernel, for `kernels.build.build` or the simulator; the same for every capability."""
        return KernelSource(
            family="tiled",
            variant=self.name,
            entry=self.rung,
            python_source=RUNGS[self.rung].source(self),
            parameters=self.parameters,
            threads=self.threads,
            max_registers=128 if self.rung in ("v3_pair", "v4_pair_reg") else None,
            dynamic_shared_bytes=layout.shared_bytes(self),
        )
