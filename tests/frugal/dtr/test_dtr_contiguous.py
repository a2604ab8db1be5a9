"""Evicting for one piece of free memory: which piece there would be, what is chosen, and that nothing else changes."""

import pytest
import torch
import trained_networks
from hypothesis import given, settings
from hypothesis import strategies as st

from frugal.dtr import Budget, budgeted_step
from frugal.dtr.holes import Holes
from frugal.dtr.policy import CLOSEST, Node, Policy, Storage


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 6)), max_size=40))
def test_holes_are_the_bytes_that_were_left(moves):
    holes, there, left = Holes(), {}, set()  # storage → its bytes; bytes that were left and not taken since
    for leaving, start, size in moves:
        if leaving and there:
            storage = list(there)[start % len(there)]
            holes.leave(storage)
            left |= there.pop(storage)
        else:
            taken = set(range(start, start + size))
            if any(taken & other for other in there.values()):
                continue
            storage = Storage(size, 0, None)
            holes.take(storage, start)
            there[storage] = taken
            left -= taken
        for storage, own in there.items():
            piece = set(own)
            for step in (-1, 1):
                at = (min(own) if step < 0 else max(own)) + step if own else -1
                while at in left:
                    piece.add(at)
                    at += step
            assert holes.size_without(storage) == len(piece)


def storages(policy, costs, address=1 << 20):
    """Storages of 8 bytes beside one another, material and in the pool, with these costs."""
    made, memory = [], torch.empty(len(costs), dtype=torch.float64)
    for at, cost in enumerate(costs):
        storage = Storage(8, at, None)
        storage.cost, storage.material = cost, True
        node = Node(at, None, storage, 0, at)
        # each value is a storage of its own, at the place that it has in `memory`
        node.value = torch.frombuffer(memory.numpy()[at : at + 1], dtype=torch.float64)
        storage.nodes.append(node)
        policy.restored(storage)
        policy.append(storage)
        made.append(storage)
    return made


def gone(policy, storage):
    policy.pool.pop(storage)
    storage.material = False
    policy.evicted(storage)


def test_the_largest_hole_decides_among_the_cheapest():
    policy = Policy("local", "size", 0, None, 0, contiguous=True)
    made = storages(policy, [5, 1, 4, 3, *[100] * CLOSEST])
    assert policy.choose(10) is made[1]  # all holes are equal: the cheapest
    gone(policy, made[1])
    assert policy.choose(10) is made[2]  # beside the hole, and cheaper than 0, which is too
    gone(policy, made[2])
    gone(policy, made[-1])
    assert policy.choose(10) is made[3]
    made[3].cost, made[3].score = 1000, None  # the dearest of more than CLOSEST
    assert policy.choose(10) is made[0]


def test_a_storage_outside_the_cheapest_is_left_alone():
    policy = Policy("local", "size", 0, None, 0, contiguous=True)
    made = storages(policy, [50, 60, *[1] * (2 * CLOSEST)])
    gone(policy, made[0])
    assert policy.choose(10) in made[2:]  # though 1 alone lies beside the hole


@pytest.mark.parametrize("heuristic", ["h_dtr_eq", "h_dtr", "ab.eq.stale"])
def test_a_step_is_the_same_and_within_its_budget(heuristic):
    gradients, peak = [], None
    for options in ({"budget_bytes": None}, {"contiguous": True, "heuristic": heuristic}):
        model, inputs, loss_of = trained_networks.made("resnet32")
        options.setdefault("budget_bytes", peak and int(0.6 * peak))
        torch.manual_seed(1)
        done = budgeted_step(model, loss_of, inputs, cost="flops", thrash=10.0, **options)
        peak = peak or done.report.peak_managed_bytes
        gradients.append([done.loss, *(p.grad for p in model.parameters())])
    assert done.report.n_evictions > 0
    assert done.report.peak_managed_bytes <= 0.6 * peak
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_what_chooses_at_random_has_no_cheapest():
    with pytest.raises(ValueError, match="which h_rand does not know: leave it out"):
        Budget(None, heuristic="h_rand", contiguous=True)
