"""What a heuristic is: a numerator over a denominator; the storage of the smallest cost is evicted first.

s is a storage's size, τ the time since its last use, c the summed cost of its operators, E the cost of its evicted
neighbourhood e* (ancestors and descendants), Ẽ that of the classes beside it (ICLR 2021, section 4.1 and appendix D).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from frugal.dtr import sim_state


@dataclass(frozen=True)
class Heuristic:
    """name: ours. published: the artifact's names of the same. formula: of the cost.

    kind: the numerator, of `frugal.dtr.sim_state`; sized, stale: whether s and τ stand in the denominator.
    """

    name: str
    published: tuple[str, ...]
    formula: str
    kind: int
    sized: bool
    stale: bool

    @property
    def searches(self) -> bool:
        """Whether it knows the evicted neighbourhood e* (what `e_star` is about)."""
        return self.kind in (sim_state.REGIONS, sim_state.ANCESTORS)

    @property
    def banishes(self) -> bool:
        """Whether it may run with dealloc="banish": it keeps neither regions nor classes."""
        return not self.searches and self.kind != sim_state.CLASSES


_NUMERATORS = (
    ("e", "E", "c + E", sim_state.REGIONS),
    ("eq", "Eq", "c + Ẽ", sim_state.CLASSES),
    ("local", "Local", "c", sim_state.LOCAL),
    ("one", "", "1", sim_state.ONE),
)
_DENOMINATORS = (
    ("size_stale", "SizeStale", "s·τ", True, True),
    ("size", "Size", "s", True, False),
    ("stale", "Stale", "τ", False, True),
    ("none", "", "1", False, False),
)
_NAMED = (
    Heuristic("h_dtr", ("DTR", "AbESizeStale"), "(c + E) / (s·τ)", sim_state.REGIONS, True, True),
    Heuristic("h_dtr_eq", ("DTREqClass", "AbEqSizeStale"), "(c + Ẽ) / (s·τ)", sim_state.CLASSES, True, True),
    Heuristic("h_local", ("DTRLocal", "AbLocalSizeStale"), "c / (s·τ)", sim_state.LOCAL, True, True),
    Heuristic("h_msps", ("MSPS",), "(c + E of ancestors) / s", sim_state.ANCESTORS, True, False),
    Heuristic("h_lru", ("LRU",), "last use", sim_state.RECENT, False, False),
    Heuristic("h_size", ("LargestStorage", "AbSize"), "1 / s", sim_state.ONE, True, False),
    Heuristic("h_rand", ("RandomStorage", "AbRandom"), "random", sim_state.RANDOM, False, False),
    Heuristic("h_dtr_unopt", ("DTRUnopt",), "(c + E) / (s·least τ of e*)", sim_state.UNOPTIMISED, True, True),
)


def _ablations() -> tuple[Heuristic, ...]:
    """The 16 variants `ab.<numerator>.<denominator>`; those that are a heuristic of another name compute the same."""
    made = []
    for numerator, published, above, kind in _NUMERATORS:
        for denominator, ending, below, sized, stale in _DENOMINATORS:
            name = f"ab.{numerator}.{denominator}"
            if (numerator, denominator) == ("one", "none"):
                made.append(Heuristic(name, ("AbRandom",), "random", sim_state.RANDOM, False, False))
            else:
                made.append(Heuristic(name, (f"Ab{published}{ending}",), f"({above}) / ({below})", kind, sized, stale))
    return tuple(made)


HEURISTICS: Mapping[str, Heuristic] = MappingProxyType({h.name: h for h in (*_NAMED, *_ablations())})
_ALIASES = {published: h for h in reversed(HEURISTICS.values()) for published in h.published}


def find(name: str) -> Heuristic:
    """A heuristic by our name or a published one. Raises ValueError with the list and the nearest name."""
    found = HEURISTICS.get(name) or _ALIASES.get(name)
    if found is None:
        near = difflib.get_close_matches(str(name), [*HEURISTICS, *_ALIASES], 1, 0)
        raise ValueError(
            f"heuristic {name!r} is not known; did you mean {near[0]!r}? Known are {', '.join(HEURISTICS)}, and the "
            f"published names {', '.join(sorted(_ALIASES))}"
        )
    return found
