"""A generative adversarial network whose generator looks ahead (L. Metz et al., "Unrolled Generative Adversarial
Networks", ICLR 2017, section 2.2): its loss is that of a discriminator which has learnt for some more steps, and the
gradient goes through that learning.

Adam's step (D. Kingma and J. Ba, ICLR 2015, algorithm 1) is differentiated here, which needs a constant under its root
as well: the root's slope at 0, where a unit that never fires leaves its squares, is infinite.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

LEARNING_RATE = 1e-4
BETAS = (0.5, 0.999)
EPS = 1e-8
UNDER_ROOT = EPS**2


class Learnt(NamedTuple):
    """A discriminator's parameters by name, Adam's running means and squares of each, and its count of steps."""

    parameters: dict[str, Tensor]
    means: dict[str, Tensor]
    squares: dict[str, Tensor]
    steps: Tensor


def adam(state: Learnt, gradients: dict[str, Tensor]) -> Learnt:
    """One step of Adam, as a function: nothing is written in place, and it can be differentiated."""
    first, second = BETAS
    steps = state.steps + 1
    mean_share, square_share = 1 - first**steps, 1 - second**steps
    means = {name: first * state.means[name] + (1 - first) * g for name, g in gradients.items()}
    squares = {name: second * state.squares[name] + (1 - second) * g * g for name, g in gradients.items()}
    parameters = {
        name: value - LEARNING_RATE * (means[name] / mean_share) / (squares[name] / square_share + UNDER_ROOT).sqrt()
        for name, value in state.parameters.items()
    }
    return Learnt(parameters, means, squares, steps)


def _perceptron(c_in: int, hidden: int, c_out: int, dropout: float) -> list[nn.Module]:
    between = nn.Dropout(dropout) if dropout else nn.Identity()  # the names of parameters are the same either way
    layers = [nn.Linear(c_in, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
    return [*layers, between, nn.Linear(hidden, c_out)]


class UnrolledGan(nn.Module):
    """(noise [B, noise], real [B, 2]) → how real the generated points look, [B, 1], to an unrolled discriminator.

    In training a call takes one step of the discriminator (its parameters and the buffers of its Adam change), then
    `steps` more on a copy; gradients flow to the generator through all of these. In evaluation nothing is learnt.
    """

    def __init__(self, hidden: int, noise: int, steps: int, dropout: float):
        super().__init__()
        self.generator = nn.Sequential(*_perceptron(noise, hidden, 2, dropout))
        self.discriminator = nn.Sequential(*_perceptron(2, hidden, 1, dropout), nn.Sigmoid())
        for name, value in self.discriminator.named_parameters():
            self.register_buffer(_mean_of(name), torch.zeros_like(value))
            self.register_buffer(_square_of(name), torch.zeros_like(value))
        self.register_buffer("learnt", torch.zeros(()))
        self.steps = steps

    def forward(self, noise: Tensor, real: Tensor) -> Tensor:
        fake = self.generator(noise)
        if not self.training:
            return self.discriminator(fake)
        self._learn(fake.detach(), real)
        state = self._state()
        for _ in range(self.steps):
            state = adam(state, self._gradients(state.parameters, fake, real, unrolled=True))
        return functional_call(self.discriminator, state.parameters, (fake,))

    def _learn(self, fake: Tensor, real: Tensor) -> None:
        """One step of the discriminator, written to its parameters and buffers."""
        state = self._state()
        state = adam(state, self._gradients(state.parameters, fake, real, unrolled=False))
        with torch.no_grad():
            for name, value in self.discriminator.named_parameters():
                value.copy_(state.parameters[name])
                getattr(self, _mean_of(name)).copy_(state.means[name])
                getattr(self, _square_of(name)).copy_(state.squares[name])
            self.learnt.copy_(state.steps)

    def _state(self) -> Learnt:
        """What is learnt so far; the parameters are leaves of their own."""
        parameters = {name: value.detach().clone() for name, value in self.discriminator.named_parameters()}
        means = {name: getattr(self, _mean_of(name)) for name in parameters}
        squares = {name: getattr(self, _square_of(name)) for name in parameters}
        return Learnt({name: value.requires_grad_() for name, value in parameters.items()}, means, squares, self.learnt)

    def _gradients(self, of: dict[str, Tensor], fake: Tensor, real: Tensor, unrolled: bool) -> dict[str, Tensor]:
        """Of the discriminator's loss to its parameters `of`; unrolled: differentiable."""
        on_real = functional_call(self.discriminator, of, (real,))
        on_fake = functional_call(self.discriminator, of, (fake,))
        loss = functional.binary_cross_entropy(on_real, torch.ones_like(on_real))
        loss = loss + functional.binary_cross_entropy(on_fake, torch.zeros_like(on_fake))
        found = torch.autograd.grad(loss, list(of.values()), create_graph=unrolled)
        return dict(zip(of, found, strict=True))


def _mean_of(name: str) -> str:
    return f"mean_of_{name.replace('.', '_')}"


def _square_of(name: str) -> str:
    return f"square_of_{name.replace('.', '_')}"


def unrolled_gan(hidden: int = 512, noise: int = 256, steps: int = 10, dropout: float = 0.0) -> UnrolledGan:
    return UnrolledGan(hidden, noise, steps, dropout)
