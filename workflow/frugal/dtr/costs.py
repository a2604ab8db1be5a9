"""What an operator costs, in nanoseconds: measured once a key, modelled by a roofline, or read from a table.

A key is an operator with the shapes, strides and dtypes of its tensors and its other arguments; numbers with a fraction
count by type alone (a learning rate changes no cost). Decisions use these costs and no clock, so that equal costs give
equal decisions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from torch.utils.flop_counter import flop_registry

from frugal.dtr.errors import DtrError
from frugal.files import publishing

SAMPLES = 5  # of a key; the first one beside them is dropped: it holds the plan, the tuning, the allocator's growth


@dataclass(frozen=True)
class Roofline:
    """ns = max(FLOP / flops_per_s, bytes moved / bytes_per_s), at least 1 µs: Williams et al., CACM 52(4), 2009.

    The default rates are nominal, so that the same program costs the same on every machine; `frugal.timing.ceilings`
    measures a machine's own.
    """

    flops_per_s: float = 5e10
    bytes_per_s: float = 1e10

    def ns(self, func: object, shapes: Sequence[object], out: object, kwargs: Mapping[str, object], moved: int) -> int:
        """Of an overload with arguments (shapes for tensors), result shapes, and bytes of all its tensors."""
        formula = flop_registry.get(getattr(func, "overloadpacket", None))
        flop = formula(*shapes, **kwargs, out_val=out) if formula else 0
        return max(1000, int(max(flop / self.flops_per_s, moved / self.bytes_per_s) * 1e9))


class CostTable(dict[str, int]):
    """Nanoseconds by key text."""

    @classmethod
    def read(cls, path: str | Path) -> CostTable:
        """Read what `save` wrote. DtrError for a file that is none."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise DtrError(f"{path} is no table of costs ({problem}): write one with CostTable.save") from problem
        good = isinstance(found, dict) and all(isinstance(v, int) and v >= 0 for v in found.values())
        if not good:
            raise DtrError(f"{path} is no table of costs: it must be a JSON object of whole nanoseconds by key")
        return cls(found)

    def save(self, path: str | Path) -> None:
        """Write it as JSON. Atomic."""
        with publishing(path) as file:
            file.write(json.dumps(self, indent=0, sort_keys=True).encode())


class Samples:
    """The timings of one key so far."""

    __slots__ = ("_first", "_taken")

    def __init__(self) -> None:
        self._first: int | None = None
        self._taken: list[int] = []

    @property
    def done(self) -> bool:
        return len(self._taken) >= SAMPLES

    def add(self, ns: int) -> int:
        """Take a timing; the key's cost now: the first timing until there is a second, then the others' median."""
        if self._first is None:
            self._first = ns
            return ns
        self._taken.append(ns)
        return int(median(self._taken))


def key_text(name: str, parts: object) -> str:
    """A key as text, the same in every process."""
    return f"{name}{_words(parts)}"


def _words(part: object) -> str:
    if isinstance(part, (tuple, list)):
        return "(" + ",".join(_words(inner) for inner in part) + ")"
    if isinstance(part, type):
        return part.__name__
    return str(part)


def source(cost: str | Path | CostTable | Roofline) -> CostTable | Roofline | None:
    """What a Budget's `cost` means: a table, a roofline, or None for measuring. ValueError for anything else."""
    if isinstance(cost, (CostTable, Roofline)):
        return cost
    if cost == "measured":
        return None
    if cost == "flops":
        return Roofline()
    if isinstance(cost, (str, Path)) and str(cost).endswith(".json"):
        return CostTable.read(cost)
    raise ValueError(
        f'cost = {cost!r}: it must be "measured", "flops", a CostTable, a Roofline, or the path of a table (*.json)'
    )
