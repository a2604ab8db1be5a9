"""Recurrent networks as Python loops, of which a runtime sees every operator, and one fused loop of torch's, of which
it sees nothing.

``lstm`` and ``treelstm`` have one cell, that of DTR's published experiments (a child-sum Tree-LSTM after K. S. Tai et
al., ACL 2015, section 3.1, with its own liberties, kept so that costs and sizes are the published ones): of an input x
and children (c_k, h_k)

    i, o, u = σ, σ, tanh of the three parts of W x + U Σ_k c_k
    c = i ⊙ u + Σ_k σ((F x) ⊙ (G h_k))
    h = o ⊙ tanh c

where W and F have a bias, U and G none; a node without children leaves U out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Cell(nn.Module):
    """[rows, in_dim] and the children's (c, h), [rows or 1, mem_dim] each → (c, h), [rows, mem_dim]."""

    def __init__(self, in_dim: int, mem_dim: int, dropout: float):
        super().__init__()
        self.iou_x = nn.Linear(in_dim, 3 * mem_dim)
        self.iou_c = nn.Linear(mem_dim, 3 * mem_dim, bias=False)
        self.f_x = nn.Linear(in_dim, mem_dim)
        self.f_h = nn.Linear(mem_dim, mem_dim, bias=False)
        self.dropout = dropout  # of h

    def forward(self, x: Tensor, children: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        iou = self.iou_x(x)
        if children:
            first, *others = (c for c, _ in children)
            total = first
            for c in others:
                total = total + c
            iou = iou + self.iou_c(total)
        i, o, u = torch.chunk(iou, 3, dim=1)
        c = torch.sigmoid(i) * torch.tanh(u)
        f = self.f_x(x)
        for _, h in children:
            c += torch.sigmoid(f * self.f_h(h))
        h = torch.sigmoid(o) * torch.tanh(c)
        return c, functional.dropout(h, self.dropout, self.training) if self.dropout else h


class Lstm(nn.Module):
    """A chain of cells: [rows, in_dim] for each step → the last c, [rows, mem_dim]. It starts at one row of zeros."""

    def __init__(self, in_dim: int, mem_dim: int, dropout: float):
        super().__init__()
        self.cell = Cell(in_dim, mem_dim, dropout)
        self.register_buffer("c0", torch.zeros(1, mem_dim))
        self.register_buffer("h0", torch.zeros(1, mem_dim))

    def forward(self, steps: Sequence[Tensor]) -> Tensor:
        c, h = self.c0, self.h0
        for x in steps:
            c, h = self.cell(x, [(c, h)])
        return c


class TreeLstm(nn.Module):
    """Cells on a complete binary tree: [rows, in_dim] for each node → the root's c, [rows, mem_dim].

    Node k has the children 2k + 1 and 2k + 2, so that a tree of depth d has 2^(d+1) − 1 nodes, the root first.
    """

    def __init__(self, in_dim: int, mem_dim: int, dropout: float):
        super().__init__()
        self.cell = Cell(in_dim, mem_dim, dropout)

    def forward(self, nodes: Sequence[Tensor]) -> Tensor:
        return self._state(nodes, 0)[0]

    def _state(self, nodes: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
        below = [child for child in (2 * k + 1, 2 * k + 2) if child < len(nodes)]
        return self.cell(nodes[k], [self._state(nodes, child) for child in below])


class Gru(nn.Module):
    """A chain of torch's GRU cells: [rows, in_dim] for each step → the last h, [rows, mem_dim]."""

    def __init__(self, in_dim: int, mem_dim: int, dropout: float):
        super().__init__()
        self.cell = nn.GRUCell(in_dim, mem_dim)
        self.dropout = dropout  # of h
        self.register_buffer("h0", torch.zeros(1, mem_dim))

    def forward(self, steps: Sequence[Tensor]) -> Tensor:
        h = self.h0.expand(steps[0].shape[0], -1)
        for x in steps:
            h = self.cell(x, h)
            if self.dropout:
                h = functional.dropout(h, self.dropout, self.training)
        return h


class FusedGru(nn.Module):
    """torch's own loop, on a GPU one kernel of cuDNN's: [rows, in_dim] for each step → the last h, [rows, mem_dim]."""

    def __init__(self, in_dim: int, mem_dim: int):
        super().__init__()
        self.gru = nn.GRU(in_dim, mem_dim)

    def forward(self, steps: Sequence[Tensor]) -> Tensor:
        return self.gru(torch.stack(tuple(steps)))[0][-1]


def lstm(in_dim: int = 512, mem_dim: int = 1700, dropout: float = 0.0) -> Lstm:
    return Lstm(in_dim, mem_dim, dropout)


def treelstm(in_dim: int = 10, mem_dim: int = 300, dropout: float = 0.0) -> TreeLstm:
    return TreeLstm(in_dim, mem_dim, dropout)


def gru(in_dim: int = 512, mem_dim: int = 1700, dropout: float = 0.0) -> Gru:
    return Gru(in_dim, mem_dim, dropout)


def fused_gru(in_dim: int = 512, mem_dim: int = 1700) -> FusedGru:
    return FusedGru(in_dim, mem_dim)
