"""LiveBytes against bytes computed by hand, against the tensors that a random program holds, and at its limit."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from frugal.errors import FrugalError, out_of_memory
from frugal.memory import LiveBytes, LiveBytesExceeded, Peak, peak_live
from frugal.timing.faults import fault_of

KB = 1024


def kilobyte(n=1):
    return torch.empty(n * KB, dtype=torch.uint8)


# ---- by hand ---------------------------------------------------------------------------------------------------------

ACTIVATION = 8 * 256 * 256 * 4  # 2 MiB


def chain(device):
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())))
    return net.to(device), torch.randn(1, 8, 256, 256, device=device)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_chain_of_convolutions(device):
    net, x = chain(device)
    live = LiveBytes()
    live.track([net, x])
    assert live.base == 6 * (8 * 8 * 9 + 8) * 4 + ACTIVATION
    with live:
        y = net(x)
        # Each ReLU keeps its result for the backward pass; a convolution's result goes when its ReLU is done.
        assert live.live == 6 * ACTIVATION
        assert live.peak == 7 * ACTIVATION
        y.sum().backward()
    # In the backward of the last convolution: six activations, the gradients of its output and input, of its weight
    # and bias; the sum and the one that it is the gradient of. The ReLU before it comes to as much.
    assert live.peak == 8 * ACTIVATION + (8 * 8 * 9 + 8) * 4 + 2 * 4
    assert live.peak_total == live.base + live.peak
    gradients = 6 * (8 * 8 * 9 + 8) * 4
    assert live.live == gradients + ACTIVATION
    del y
    assert live.live == gradients
    net.zero_grad()
    assert live.live == 0


def test_a_perceptron():
    batch, inputs, hidden, outputs = 64, 16, 32, 8
    w1, w2 = (nn.Parameter(torch.randn(n, m)) for n, m in ((hidden, inputs), (outputs, hidden)))
    x = torch.randn(batch, inputs)
    live = LiveBytes()
    live.track((w1, w2, x))
    with live:
        loss = (torch.relu(x @ w1.t()) @ w2.t()).sum()
        assert live.live == 4 * (batch * hidden + 1)  # the hidden layer, saved; the loss
        assert live.peak == 4 * 2 * batch * hidden  # before and after ReLU
        loss.backward()
    # In ReLU's backward: the hidden layer, the gradients of its result and of its argument, that of w2, loss and one.
    assert live.peak == 4 * (3 * batch * hidden + outputs * hidden + 2)
    assert live.live == 4 * (hidden * inputs + outputs * hidden + 1)


def test_checkpointing_saves_what_it_should():
    net, x = chain("cpu")
    halves = net[:6], net[6:]
    live = LiveBytes()
    live.track([net, x])
    with live:
        middle = checkpoint(halves[0], x, use_reentrant=False)
        loss = checkpoint(halves[1], middle, use_reentrant=False).sum()
        del middle
        assert live.live == ACTIVATION + 4
        loss.backward()
    # In the first half, when the second is done: the gradients of its three layers' parameters, the first three
    # activations made again, the gradient that arrives and the one that the last of them passes on.
    parameters = (8 * 8 * 9 + 8) * 4
    assert live.peak == 5 * ACTIVATION + 3 * parameters + 2 * 4
    net.zero_grad()
    plain = peak_live(lambda: net(x).sum().backward(), base=[net, x])
    # As in the chain above, less the result, which nobody holds.
    assert plain == Peak("peak_live", 7 * ACTIVATION + parameters + 2 * 4, live.base)


# ---- what counts, and what does not ----------------------------------------------------------------------------------


def test_views_and_what_writes_in_place_are_no_new_memory():
    before = torch.zeros(4, KB)
    with LiveBytes() as live:
        before[1:3].t().reshape(2, KB).add_(1)  # reshape copies: 2 rows
        assert live.live == 0
        assert live.peak == 2 * KB * 4
        made = torch.zeros(4, KB)
        rows = made.view(2, -1), made[1], made.detach(), made.expand(3, 4, KB)
        made.mul_(2).relu_()
        torch.add(made, 1, out=made)
        assert live.live == 4 * KB * 4
        del made
        assert live.live == 4 * KB * 4  # a view keeps it all
        del rows
        assert live.live == 0


def test_what_was_there_before_counts_nothing_unless_tracked():
    old, tracked = kilobyte(), kilobyte(2)
    live = LiveBytes()
    live.track(tracked)
    live.track([tracked[:5], {"again": tracked}])
    with live:
        parts = old[10:], tracked[10:]
        old.add_(1)
        assert (live.live, live.peak, live.base, live.peak_total) == (0, 0, 2 * KB, 2 * KB)
        live.track(old)  # after it was first met
        assert (live.live, live.base) == (0, 3 * KB)
        made = kilobyte(4)
        live.track(made)  # is live already
        assert (live.live, live.base, live.peak_total) == (4 * KB, 3 * KB, 7 * KB)
        del parts, tracked
        assert (live.live, live.base) == (4 * KB, KB)
    assert made.numel() == 4 * KB


def test_what_can_be_tracked():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4, affine=False))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(3, 4)).sum().backward()
    optimiser.step()
    for tracked, expected in (
        (net, 64 + 16 + 16 + 8),  # weight, running mean and variance, the count of batches
        (net.parameters(), 64),
        (net.state_dict(), 104),
        ([parameter.grad for parameter in net.parameters()], 64),
        (optimiser.state_dict(), 64),
        ((None, "text", 3, {"a": [kilobyte(), (kilobyte(),)]}), 2 * KB),
    ):
        live = LiveBytes()
        live.track(tracked)
        assert live.base == expected


def test_several_results_each_count():
    with LiveBytes() as live:
        found = torch.topk(torch.arange(100.0), 7)  # values, float32, and indices, int64
        assert live.live == 7 * (4 + 8)
        assert live.peak == 400 + 7 * (4 + 8)
        parts = torch.arange(100).split(10)  # views
        assert live.live == 800 + 7 * (4 + 8)
        assert len(parts) == 10
    del found


def test_a_resized_storage_counts_its_new_size():
    old = kilobyte()
    with LiveBytes() as live:
        made = kilobyte()
        made.resize_(3 * KB)
        assert live.live == 3 * KB
        old.resize_(5 * KB)  # a part of it was there before
        assert live.live == 3 * KB + 4 * KB
        made.untyped_storage().resize_(0)  # no operation: seen when the next one writes to it
        made.set_()
        assert live.live == 4 * KB
    del old, made
    assert live.live == 0


def test_what_python_numbers_become_counts_and_numpys_memory_does_not():
    with LiveBytes() as live:
        made = torch.tensor([1.0, 2.0])
        borrowed = torch.from_numpy(np.zeros(KB))
        borrowed.add_(1)
        assert live.live == 8
        assert made.sum() == 3


def test_a_granularity_rounds_each_storage_up():
    with LiveBytes(granularity=512) as live:
        kept = [torch.empty(n, dtype=torch.uint8) for n in (0, 1, 512, 513)]
        assert live.live == 0 + 512 + 512 + 1024
    live = LiveBytes(granularity=512)
    live.track(kept)
    assert live.base == 2048


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors_count_their_parts():
    dense = torch.eye(8)
    with LiveBytes() as live:
        coo = dense.to_sparse()
        assert live.live == 8 * 4 + 2 * 8 * 8
        csr = torch.sparse_csr_tensor(torch.arange(9), torch.arange(8), torch.ones(8), check_invariants=True)
        assert live.live == 8 * 4 + 2 * 8 * 8 + 8 * 4 + 9 * 8 + 8 * 8
    live = LiveBytes()
    live.track([coo, csr])
    assert live.base == 8 * 4 + 2 * 8 * 8 + 8 * 4 + 9 * 8 + 8 * 8


def test_a_layout_without_a_storage_is_refused_and_not_missed():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN, whose layout hides its storage")
    with pytest.raises(FrugalError, match=r"cannot see the bytes of a tensor in layout torch\._mkldnn"), LiveBytes():
        torch.ones(4, 4).to_mkldnn()


# ---- when memory goes ------------------------------------------------------------------------------------------------


def test_a_storages_python_object_lives_as_long_as_the_storage():
    # What LiveBytes rests on; a torch for which this fails cannot be measured with it.
    freed = []
    tensor = kilobyte()
    ref = weakref.ref(tensor.untyped_storage(), freed.append)
    view = tensor[1:]
    del tensor
    gc.collect()
    assert ref() is view.untyped_storage()
    assert freed == []
    del view
    assert freed == [ref]


def test_a_cycle_lives_until_it_is_collected():
    class Holder:
        pass

    with LiveBytes() as live:
        holder = Holder()
        holder.tensor, holder.self = kilobyte(), holder
        del holder
        assert live.live == KB
    assert live.live == 0  # collected at the end


def test_without_collecting_a_cycle_outlives_the_block():
    class Holder:
        pass

    gc.disable()
    try:
        with LiveBytes(collect=False) as live:
            holder = Holder()
            holder.tensor, holder.self = kilobyte(), holder
            del holder
        assert live.live == KB
        assert live.peak == KB
    finally:
        gc.enable()
        gc.collect()
    assert live.live == 0


def test_a_cycle_of_before_does_not_die_inside():
    class Holder:
        pass

    holder = Holder()
    holder.tensor, holder.self = kilobyte(), holder
    live = LiveBytes()
    live.track(holder.tensor)
    del holder
    with live:
        assert live.base == 0


def test_another_thread_may_drop_the_last_reference():
    held = []
    with LiveBytes() as live:
        held.append(kilobyte())
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
        assert live.live == 0
        kilobyte(2)
    assert live.peak == 2 * KB


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["new", "view", "add_", "cat", "drop", "swap"]), st.integers(0, 99)), max_size=30
    )
)
def test_random_programs_live_bytes_are_those_of_the_tensors_that_are_held(program):
    old = torch.zeros(64)
    held, peak = [old], 0
    with LiveBytes() as live:
        for what, number in program:
            chosen = held[number % len(held)]
            if what == "new":
                held.append(torch.empty(number))
            elif what == "view":
                held.append(chosen[: number // 2])
            elif what == "add_":
                chosen.add_(1)
            elif what == "cat":
                held.append(torch.cat([chosen, held[-1]]))
            elif what == "swap":
                held[-1] = chosen * 2
            elif len(held) > 1:
                held.pop(1 + number % (len(held) - 1))
            del chosen
            storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held if t is not old}
            storages.pop(old.data_ptr(), None)
            assert live.live == sum(storages.values())
            peak = max(peak, live.live)
    # what `swap` replaces lives until its replacement is there
    assert live.peak >= peak


# ---- the limit -------------------------------------------------------------------------------------------------------


def test_the_limit_refuses_the_operation_that_exceeds_it():
    before = kilobyte()
    live = LiveBytes(limit=4 * KB)
    live.track(before)
    with live:
        kept = kilobyte(2)
        with pytest.raises(
            LiveBytesExceeded, match="tried to allocate 2048 bytes with 3072 of 4096 bytes live"
        ) as caught:
            kilobyte(2)
        assert (caught.value.asked, caught.value.live, caught.value.limit) == (2 * KB, 3 * KB, 4 * KB)
        kilobyte(1)
        assert (live.live, live.peak, live.peak_total) == (2 * KB, 3 * KB, 4 * KB)  # to the byte
        del kept
        kilobyte(3)
    assert live.live == 0


def test_a_refused_tensor_is_freed_although_its_exception_is_held():
    with LiveBytes(limit=KB), pytest.raises(LiveBytesExceeded) as caught:
        torch.empty(2 * KB, dtype=torch.uint8).add(1)
    alive = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.numel() == 2 * KB and o.dtype == torch.uint8]
    assert caught.value.asked == 2 * KB
    assert alive == []


def test_the_limit_holds_in_a_backward_pass_too():
    net, x = chain("cpu")
    live = LiveBytes(limit=7 * ACTIVATION + KB)
    with live:
        loss = net(x).sum()
        with pytest.raises(LiveBytesExceeded):
            loss.backward()
    assert live.peak_total <= live.limit
    exact = 8 * ACTIVATION + (8 * 8 * 9 + 8) * 4 + 2 * 4 - ACTIVATION  # its input is dropped: nothing keeps the result
    net.zero_grad()
    with LiveBytes(limit=exact):
        net(x).sum().backward()


def test_what_is_tracked_may_exceed_the_limit_by_itself():
    with pytest.raises(LiveBytesExceeded, match="3072 bytes with 0 of 2048 bytes live"):
        LiveBytes(limit=2 * KB).track(kilobyte(3))


def test_a_refusal_is_out_of_memory_for_a_row():
    refused = LiveBytesExceeded(5, 3, 4)
    assert out_of_memory(refused)
    assert fault_of(refused).status == "oom"
    assert fault_of(refused).reason == "tried to allocate 5 bytes"


@pytest.mark.parametrize("given", [{"granularity": 0}, {"limit": 0}, {"limit": -1}])
def test_less_than_a_byte_is_refused(given):
    with pytest.raises(ValueError, match="must be at least 1 byte"):
        LiveBytes(**given)


# ---- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch")
def test_on_a_gpu_the_backward_pass_is_seen_and_no_more_is_counted_than_allocated():
    net, x = chain("cuda")
    gc.collect()  # LiveBytes does so at its start: what it frees then would hide in the difference
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    live = LiveBytes(granularity=512)
    with live:
        y = net(x)
        y.sum().backward()
    allocated = torch.cuda.max_memory_allocated() - before
    # autograd runs a GPU's backward in a thread of its own, which must inherit the mode
    assert live.peak >= 8 * ACTIVATION
    assert live.peak <= allocated
