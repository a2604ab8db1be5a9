"""Which outputs to keep whole, and how to run each segment: a dynamic programme over the candidate boundaries.

A state is what has been chosen for the network up to one boundary. Two states with the same open boundaries, those that
the rest of the network still reads, differ for the rest only by the bytes that they keep; so per set of open boundaries
it suffices to keep the Pareto front of (device bytes kept, host bytes kept, value). On a chain the open boundary is the
last one, and the search is exact as long as no front is longer than `BEAM`; elsewhere it is a beam search of at most
`WIDTH` states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

Open = frozenset[tuple[str, str]]
OpenAfter = Callable[[frozenset[str]], frozenset[str]]
Options = Callable[[Open, str], Sequence[Sequence["Option"]]]
# (value, kept, host) of a state, and how it comes to be: an earlier state and its next option, or None for itself.
Entry = tuple[float, int, int, "State", "Option | None"]
BEAM = 64  # fronts, and states of one front
WIDTH = 256  # states of all fronts together


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run one segment; all sizes in bytes.

    kind `store`, `tiles` or `strips`; th × tw output tiles, or th strips; boundary, carry:
    where the segment's output and its carries lie, `device` or `host`.
    forward, backward: device memory at the worst moment of the pass beyond what was kept before the segment.
    kept: device memory from the segment's forward to its backward, its output included. host: the same of host memory.
    seconds: modelled time of forward, recomputation and backward.
    binding: in words what takes most of it.
    """

    kind: str
    th: int
    tw: int
    boundary: str
    carry: str
    forward: int
    backward: int
    kept: int
    host: int
    seconds: float
    binding: str
    need: int = field(init=False)  # the larger of forward and backward

    def __post_init__(self) -> None:
        object.__setattr__(self, "need", max(self.forward, self.backward))


@dataclass(frozen=True, slots=True)
class State:
    """Choices up to the last of `members`, an option each. All bytes are beyond what is there anyway.

    open: the boundaries that the rest of the network reads, each with the place where it lies. kept, host: bytes of
    device and host that stay until the backward pass. peak: the worst moment; held: of it what earlier segments keep,
    binding: in words what the rest is.
    """

    members: tuple[str, ...]
    options: tuple[Option, ...]
    open: Open
    kept: int
    host: int
    peak: int
    held: int
    seconds: float
    binding: str


def search(
    candidates: Sequence[str],
    forced: frozenset[str],
    open_after: OpenAfter,
    options: Options,
    limit: int,
    host_limit: int,
) -> State | None:
    """The quickest schedule whose peak is at most `limit` bytes and whose host memory at most `host_limit`, or None.

    candidates: names of the nodes that may be kept whole, in the network's order; the last one, the body's output,
    and those in `forced` always are. open_after(boundaries): which of them the rest of the network reads, the newest
    and those that were open before it among them.
    options(open, node): the ways to run the segment that ends in the node, given the (boundary, place) pairs before it,
    in groups that keep the same bytes in the same places, the quickest first and the one that needs least last.
    """
    return _walk(candidates, forced, open_after, options, limit, host_limit)


def smallest(
    candidates: Sequence[str],
    forced: frozenset[str],
    open_after: OpenAfter,
    options: Options,
    host_limit: int,
) -> State | None:
    """The schedule of the least peak, however slow. Arguments as in `search`; None where no option exists."""
    return _walk(candidates, forced, open_after, options, None, host_limit)


def _walk(candidates, forced, open_after, options, limit, host_limit) -> State | None:
    value = _seconds if limit is not None else _peak
    last = candidates[-1]
    start = State((), (), frozenset(), 0, 0, 0, 0, 0.0, "")
    fronts: dict[Open, list[State]] = {start.open: [start]}
    for node in candidates:
        longer: dict[Open, list[Entry]] = {}
        for before, states in fronts.items():
            unread = open_after(frozenset([node, *(name for name, _ in before)]))
            ways = [(_opened(before, node, group[0], unread), group) for group in options(before, node)]
            for state in states:
                for key, group in ways:
                    entry = _entry(state, group, limit, host_limit)
                    if entry is not None:
                        longer.setdefault(key, []).append(entry)
        if node == last or node in forced:
            fronts = {}  # no schedule goes on without this boundary
        for key, entries in longer.items():
            entries += [(value(state), state.kept, state.host, state, None) for state in fronts.get(key, ())]
            fronts[key] = [_grow(state, node, key, option) for *_, state, option in front(entries)]
        fronts = _beam(fronts, value)
    found = [state for states in fronts.values() for state in states]
    return min(found, key=lambda state: (value(state), state.peak), default=None)


def _opened(before: Open, node: str, option: Option, unread: frozenset[str]) -> Open:
    places = {*before, (node, option.boundary)}
    return frozenset(each for each in places if each[0] in unread)


def _entry(state: State, group: Sequence[Option], limit: int | None, host_limit: int) -> Entry | None:
    """The state with the one option of a group that matters: for the rest of the network they differ in value alone."""
    if limit is None:
        option = group[-1]
        value = float(max(state.peak, state.kept + option.need))
    else:
        room = limit - state.kept
        for option in group:
            if option.need <= room:
                break
        else:
            return None
        value = state.seconds + option.seconds
    host = state.host + option.host
    return (value, state.kept + option.kept, host, state, option) if host <= host_limit else None


def _seconds(state: State) -> float:
    return state.seconds


def _peak(state: State) -> float:
    return state.peak


def _grow(state: State, node: str, unread: Open, option: Option | None) -> State:
    if option is None:
        return state
    moment = state.kept + option.need
    return State(
        (*state.members, node),
        (*state.options, option),
        unread,
        state.kept + option.kept,
        state.host + option.host,
        max(state.peak, moment),
        state.kept if moment > state.peak else state.held,
        state.seconds + option.seconds,
        option.binding if moment > state.peak else state.binding,
    )


def front(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that no other one beats in value, kept bytes and host bytes at once."""
    found: list[Entry] = []
    for entry in sorted(entries, key=itemgetter(0, 1, 2)):
        kept, host = entry[1], entry[2]
        for other in found:
            if other[1] <= kept and other[2] <= host:
                break
        else:
            found.append(entry)
    return found


def _beam(fronts: dict[Open, list[State]], value: Callable[[State], float]) -> dict[Open, list[State]]:
    """At most BEAM fronts, that which keeps the least and those of least value, thinned out evenly."""
    leanest = min(fronts, key=lambda key: min(state.kept for state in fronts[key]), default=None)
    ranked = sorted(fronts, key=lambda key: (key != leanest, value(fronts[key][0]), sorted(key)))[:BEAM]
    room = min(BEAM, max(4, WIDTH // max(1, len(ranked))))
    return {key: _thinned(fronts[key], room) for key in ranked}


def _thinned(states: list[State], room: int) -> list[State]:
    if len(states) <= room:
        return states
    step = (len(states) - 1) / (room - 1)
    return [states[round(i * step)] for i in range(room)]
