"""Which outputs to keep whole, and how to run each segment: a dynamic programme over the candidate boundaries.

A state is what has been chosen for the network up to one boundary. Two states with the same open boundaries, those that
the rest of the network still reads, differ for the rest only by the bytes that they keep; so per set of open boundaries
it suffices to keep the Pareto front of (device bytes kept, host bytes kept, value). On a chain the open boundary is the
last one, and the search is exact as long as no front is longer than `BEAM`; elsewhere it is a beam search of at most
`WIDTH` states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Open = frozenset[tuple[str, str]]
OpenAfter = Callable[[frozenset[str]], frozenset[str]]
Options = Callable[[Open, str], Sequence[Sequence["Option"]]]
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

    @property
    def need(self) -> int:
        return max(self.forward, self.backward)


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
        longer: dict[Open, list[State]] = {}
        for states in fronts.values():
            for state in states:
                unread = open_after(frozenset([node, *(name for name, _ in state.open)]))
                for group in options(state.open, node):
                    option = _best(group, limit, state.kept)
                    if option is not None and state.host + option.host <= host_limit:
                        grown = _grow(state, node, unread, option)
                        longer.setdefault(grown.open, []).append(grown)
        if node == last or node in forced:
            fronts = {}  # no schedule goes on without this boundary
        for key, states in longer.items():
            fronts[key] = front(fronts.get(key, []) + states, value)
        fronts = _beam(fronts, value)
    found = [state for states in fronts.values() for state in states]
    return min(found, key=lambda state: (value(state), state.peak), default=None)


def _best(group: Sequence[Option], limit: int | None, kept: int) -> Option | None:
    """Of options that differ for the rest of the network in seconds and in peak alone the only one that matters."""
    if limit is None:
        return group[-1]
    return next((option for option in group if option.need <= limit - kept), None)


def _seconds(state: State) -> float:
    return state.seconds


def _peak(state: State) -> float:
    return state.peak


def _grow(state: State, node: str, unread: frozenset[str], option: Option) -> State:
    moment = state.kept + option.need
    places = {*state.open, (node, option.boundary)}
    return State(
        (*state.members, node),
        (*state.options, option),
        frozenset(each for each in places if each[0] in unread),
        state.kept + option.kept,
        state.host + option.host,
        max(state.peak, moment),
        state.kept if moment > state.peak else state.held,
        state.seconds + option.seconds,
        option.binding if moment > state.peak else state.binding,
    )


def front(states: list[State], value: Callable[[State], float]) -> list[State]:
    """The states that no other one beats in kept bytes, host bytes and value at once."""
    found: list[State] = []
    for state in sorted(states, key=lambda state: (value(state), state.kept, state.host)):
        if not any(other.kept <= state.kept and other.host <= state.host for other in found):
            found.append(state)
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
