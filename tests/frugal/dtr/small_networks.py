"""Small networks for tests of the runtime, with dropout, batch norm, in-place operators, views and loops."""

import torch
import torch.nn.functional as F
from torch import nn


class Convolutional(nn.Module):
    """Batch norm, in-place ReLU, an in-place residual, dropout."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.last = nn.Linear(8, 10)

    def forward(self, x):
        x = F.dropout(F.relu_(self.norms[0](self.first(x))), 0.5, self.training)
        y = self.norms[1](self.second(x))
        y += x
        return self.last(F.relu(y, inplace=True).mean((2, 3)))


class Attention(nn.Module):
    """Two encoder layers with dropout and fused attention."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.5, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.last = nn.Linear(16, 10)

    def forward(self, x):
        return self.last(F.dropout(self.encoder(x), 0.5, self.training)[:, 0])


class Loop(nn.Module):
    """An LSTM cell in a Python loop, which writes its outputs into slices of one tensor, with dropout."""

    def __init__(self, cell=nn.LSTMCell):
        super().__init__()
        self.cell, self.last = cell(6, 12), nn.Linear(12, 10)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 12)
        c, kept = h, x.new_empty(x.shape[1], x.shape[0], 12)
        for i in range(x.shape[1]):
            state = self.cell(x[:, i], (h, c) if isinstance(self.cell, nn.LSTMCell) else h)
            h, c = state if isinstance(state, tuple) else (state, c)
            kept[i].copy_(h.detach())
            h = F.dropout(h, 0.5, self.training)
        return self.last(h + kept.mean(0))


class Shaped(nn.Module):
    """Down, up and concatenation, with max pooling and bilinear interpolation, as a U-Net has them."""

    def __init__(self):
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.middle, self.up = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(12, 4, 1)
        self.last = nn.Linear(4, 10)

    def forward(self, x):
        skip = F.relu_(self.norm(self.down(x)))
        y = F.relu_(self.middle(F.max_pool2d(F.dropout(skip, 0.5, self.training), 2)))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
        return self.last(self.up(torch.cat([skip, y], 1)).mean((2, 3)))


class Fused(nn.Module):
    """torch's own recurrent module, whose kernels may keep state of their own."""

    def __init__(self, kind=nn.GRU):
        super().__init__()
        self.recurrent, self.last = kind(6, 12, batch_first=True), nn.Linear(12, 10)

    def forward(self, x):
        return self.last(F.dropout(self.recurrent(x)[0], 0.5, self.training)[:, -1])


IMAGES, SEQUENCES, WORDS = (4, 3, 16, 16), (16, 10, 6), (4, 6, 16)
NETWORKS = {
    "convolutional": (Convolutional, IMAGES),
    "attention": (Attention, WORDS),
    "lstm": (Loop, SEQUENCES),
    "gru": (lambda: Loop(nn.GRUCell), SEQUENCES),
    "shaped": (Shaped, IMAGES),
    "fused_gru": (Fused, SEQUENCES),
    "fused_lstm": (lambda: Fused(nn.LSTM), SEQUENCES),
}


def made(name, seed=0):
    """(model, inputs, targets) from a seed, which the random numbers of the step go on from."""
    torch.manual_seed(seed)
    kind, shape = NETWORKS[name]
    return kind(), torch.randn(shape), torch.randint(0, 10, (shape[0],))
