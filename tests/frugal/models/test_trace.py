"""What stands before a convolution, on networks small enough to say by eye."""

import torch
from torch import nn

from frugal.models import build
from frugal.models.trace import trace


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.a, self.norm1 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 1)
        self.c = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.pool(self.relu(self.norm0(self.stem(x))))
        y = self.b(self.relu(self.norm1(self.a(x))))
        return self.c(self.relu(x + y))


def test_trace_sees_pooling_sums_and_direct_inputs():
    sites = {site.name: site for site in trace(Small(), (1, 3, 8, 8))}
    assert [(s.relu_call, s.norm, s.direct, s.pooled is not None, s.norm_after) for s in sites.values()] == [
        (None, None, False, False, "norm0"),
        (0, "norm0", False, True, "norm1"),
        (1, "norm1", True, False, None),
        (2, "norm1", False, False, None),
    ]
    assert sites["a"].input_shape == (1, 4, 4, 4)


def test_trace_leaves_no_hook_no_mode_and_no_statistics_changed():
    model = Small().train()
    model.norm1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trace(model, (1, 3, 8, 8))
    assert model.training
    assert model.norm0.training
    assert not model.norm1.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_trace_of_a_network_on_meta_sees_which_inputs_batch_norm_makes_directly():
    with torch.device("meta"):
        resnet, densenet = build("resnet50"), build("densenet169")
    direct = {site.name for site in trace(resnet) if site.direct}
    assert direct == {f"layer{s + 1}.{b}.conv{i}" for s, n in enumerate((3, 4, 6, 3)) for b in range(n) for i in (2, 3)}
    assert sum(site.direct for site in trace(densenet)) == 167  # all but the stem
