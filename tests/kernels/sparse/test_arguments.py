"""Arguments of a launch from tensors, and the workspace that launches share."""

import pytest
import torch

from kernels.sparse import (
    ConvShape,
    UnsupportedShape,
    Variant,
    Workspace,
    arguments,
    pack_weights,
    plan,
    weights_are_ready,
)
from kernels.sparse.planning import cut

SHAPE = ConvShape(2, 40, 9, 7, 33)
PLAN = plan(SHAPE, 132)
PACKED = pack_weights(torch.ones(33, 40, 3, 3))


def named(x, y, workspace=None):
    given = arguments(PLAN, x, PACKED, y, workspace or Workspace("cpu"))
    return dict(zip((name for name, _ in PLAN.variant.parameters), given, strict=True))


def test_channel_slices_are_passed_from_their_first_element_with_their_batch_stride():
    x, y = torch.rand(2, 50, 9, 7)[:, 5:45], torch.zeros(2, 64, 9, 7)[:, 16:49]
    found = named(x, y)
    assert (found["x_batch"], found["y_batch"]) == (50 * 63, 64 * 63)
    assert found["x"].data_ptr() == x.data_ptr()
    assert len(found["x"]) == 50 * 63 + 40 * 63  # up to the end of the last image, not beyond
    for image in range(2):
        start = image * found["x_batch"]
        assert torch.equal(found["x"][start : start + 40 * 63], x[image].flatten())
    assert len(found["y"]) == 64 * 63 + 33 * 63
    assert found["groups"] == 64 // (32 * PLAN.variant.outputs_per_lane)
    assert (found["tiles_h"], found["splits"]) == (-(-9 // PLAN.variant.th), PLAN.splits)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(2, 40, 9, 8), "plan anew"),
        (torch.zeros(2, 40, 9, 7, dtype=torch.float16), "float16"),
        (torch.zeros(2, 40, 9, 7).to(memory_format=torch.channels_last), "dense in memory"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(x, sentence):
    with pytest.raises(UnsupportedShape, match=sentence):
        named(x, torch.zeros(2, 33, 9, 7))


def test_a_workspace_grows_and_keeps_zero_tickets():
    workspace = Workspace("cpu")
    first = workspace.reserve(100, 3)
    assert workspace.reserve(10, 2)[0].data_ptr() == first[0].data_ptr()
    slots, tickets = workspace.reserve(200, 30)
    assert len(slots) >= 200
    assert (tickets.dtype, len(tickets), int(tickets.abs().sum())) == (torch.int32, 30, 0)
    assert workspace.nbytes == 4 * (len(slots) + 1 + len(tickets))


def test_a_cluster_needs_a_workspace_only_where_a_gpu_has_none(monkeypatch: pytest.MonkeyPatch):
    found = cut(Variant("v6_fused", th=2, tw=7, warps=16, reduce="cluster"), ConvShape(1, 64, 14, 14, 32), 2)
    before, now = Workspace("cpu"), Workspace("cpu")
    monkeypatch.setattr(now, "_clusters", True)
    assert not before.has_room_for(found)
    assert now.has_room_for(found)
    slots, tickets = before.reserve_for(found)
    assert before.has_room_for(found)
    assert (len(slots), len(tickets)) == (found.slot_floats, found.tickets)
    assert now.nbytes == 12


def test_weights_are_laid_out_once_and_again_after_a_write():
    shape = ConvShape(1, 4, 14, 14, 64)
    found = cut(Variant("v6_fused", th=2, tw=7, warps=4, outputs_per_lane=2, reduce="cluster"), shape, 1)
    x, y, packed = torch.zeros(1, 4, 14, 14), torch.zeros(1, 64, 14, 14), torch.rand(4, 3, 3, 64)
    laid_out = lambda: arguments(found, x, packed, y, Workspace("cpu"))[1]  # noqa: E731
    assert not weights_are_ready(found, packed)
    first = laid_out()
    assert torch.equal(first, packed.reshape(-1))  # one group of 64 channels: the same order
    assert weights_are_ready(found, packed)
    assert laid_out() is first
    packed[0] = 7
    assert not weights_are_ready(found, packed)
    assert torch.equal(laid_out(), packed.reshape(-1))
