"""The search against trying every schedule."""

import itertools
import random

import pytest

from frugal.sft.search import Option, front, search, smallest


def option(generator: random.Random) -> Option:
    need = generator.randint(1, 40)
    return Option(
        "tiles", 1, 1, generator.choice(["device", "host"]), "device", need, generator.randint(1, 40),
        generator.randint(0, 20), generator.randint(0, 5), generator.randint(1, 99) / 10, "a tile",
    )  # fmt: skip


def grouped(options: list[Option]) -> list[list[Option]]:
    """As the search wants them: alike in what they keep, each slower than the one before and in need of less."""
    groups: dict[tuple, list[Option]] = {}
    for each in sorted(options, key=lambda o: (o.seconds, o.need)):
        group = groups.setdefault((each.kept, each.host, each.boundary), [])
        if not group or each.need < group[-1].need:
            group.append(each)
    return list(groups.values())


class Chain:
    """A chain of maps 0 … n − 1, with random options of each segment."""

    def __init__(self, seed: int, maps: int = 4) -> None:
        self.generator = random.Random(seed)
        self.names = [f"map{i}" for i in range(maps)]
        self.known: dict[tuple[str, str, str], list[Option]] = {}

    def of(self, before: str, place: str, node: str) -> list[Option]:
        key = before, place, node
        if key not in self.known:
            self.known[key] = [option(self.generator) for _ in range(3)]
        return self.known[key]

    def options(self, open_, node):
        (before, place), *_ = [*open_, ("image", "device")]
        return grouped(self.of(before, place, node))

    def open_after(self, boundaries):
        last = max(boundaries, key=self.names.index)
        return frozenset({last} - {self.names[-1]})

    def everything(self, forced: frozenset[str]):
        """(seconds, peak, host) of every schedule."""
        inner = self.names[:-1]
        for count in range(len(inner) + 1):
            for cuts in itertools.combinations(inner, count):
                if forced <= set(cuts):
                    yield from self._runs([*cuts, self.names[-1]], "image", "device", 0, 0, 0, 0.0)

    def _runs(self, rest, before, place, kept, peak, host, seconds):
        if not rest:
            yield seconds, peak, host
            return
        for each in self.of(before, place, rest[0]):
            yield from self._runs(
                rest[1:], rest[0], each.boundary, kept + each.kept, max(peak, kept + each.need), host + each.host,
                seconds + each.seconds,
            )  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("forced", [frozenset(), frozenset({"map1"})])
def test_no_schedule_that_fits_is_quicker(seed, forced):
    chain = Chain(seed)
    found = search(chain.names, forced, chain.open_after, chain.options, 45, 6)
    fitting = [seconds for seconds, peak, host in chain.everything(forced) if peak <= 45 and host <= 6]
    if not fitting:
        assert found is None
        return
    assert found.seconds == pytest.approx(min(fitting))
    assert found.peak <= 45
    assert found.host <= 6
    assert forced <= set(found.members)
    assert found.members[-1] == chain.names[-1]


@pytest.mark.parametrize("seed", range(40))
def test_no_schedule_needs_less_than_the_smallest(seed):
    chain = Chain(seed)
    found = smallest(chain.names, frozenset(), chain.open_after, chain.options, 6)
    peaks = [peak for _, peak, host in chain.everything(frozenset()) if host <= 6]
    assert found.peak == min(peaks)


def test_a_front_has_no_entry_that_another_one_beats():
    generator = random.Random(0)
    entries = [(*(generator.randint(0, 9) for _ in range(3)), i, None) for i in range(300)]
    found = front(entries)
    for entry in entries:
        beaten = [
            other
            for other in entries
            if other != entry and all(a <= b for a, b in zip(other[:3], entry[:3], strict=True))
        ]
        same = any(other[:3] == entry[:3] for other in beaten)
        assert (entry in found) <= (not beaten or same)
        assert any(all(a <= b for a, b in zip(other[:3], entry[:3], strict=True)) for other in found)
    assert len({entry[:3] for entry in found}) == len(found)
