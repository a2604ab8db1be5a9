"""The training steps that DTR's campaign runs: a network of frugal.models, its inputs, and its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from frugal.models import build
from frugal.models.gan import unrolled_gan
from frugal.models.recurrent import gru, lstm, treelstm
from frugal.models.transformer import transformer

CLASSIFIERS = ("resnet32", "resnet1202", "densenet100", "densenet121", "inceptionv4")


@dataclass(frozen=True)
class Program:
    """One step: `loss(model(*inputs))`, forward and backward, on the inputs of a turn, a number from 0.

    seed: of torch's generators at the beginning of a step, so that dropout is the same in every step of a turn.
    """

    network: str
    model: nn.Module
    inputs: tuple
    loss: Callable[[Tensor], Tensor]
    seed: int
    initial: Mapping[str, Tensor]
    """What a step changes of the model's state and the next one needs as it was; empty where that is nothing."""

    def inputs_of(self, turn: int) -> tuple:
        """The inputs, values turned round along the last axis."""

        def turned(value: Tensor) -> Tensor:
            return torch.roll(value, turn, -1) if turn and value.is_floating_point() else value

        return tuple([turned(v) for v in value] if isinstance(value, list) else turned(value) for value in self.inputs)

    def begin(self, turn: int = 0) -> None:
        """Make the model and torch's generators what they are at the beginning of a step; gradients are None."""
        for parameter in self.model.parameters():
            parameter.grad = None
        if self.initial:
            state = self.model.state_dict()
            with torch.no_grad():
                for name, value in self.initial.items():
                    state[name].copy_(value)
        torch.manual_seed(self.seed + turn)

    def resident(self) -> list[Tensor]:
        """Tensors that are there before a step."""
        given = [part for value in self.inputs for part in (value if isinstance(value, list) else [value])]
        return [*self.model.parameters(), *self.model.buffers(), *self.initial.values(), *given]


def program(network: str, sizes: Mapping[str, int], device: str, seed: int) -> Program:
    """A network of frugal.dtr.offered.SIZES at these sizes, float32, on a device (cpu, cuda or meta).

    Weights, inputs and targets come from the seed and are the same on every device.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _model(network, sizes).train()
        inputs, loss = _data(network, sizes, device)
    model = model.to(device)
    given = tuple(
        [part.to(device) for part in value] if isinstance(value, list) else value.to(device) for value in inputs
    )
    # Unrolling learns: the discriminator's parameters are others after a step.
    initial = {name: value.detach().clone() for name, value in model.state_dict().items()} if _learns(network) else {}
    return Program(network, model, given, loss, seed, initial)


def _learns(network: str) -> bool:
    return network == "unrolled_gan"


def _model(network: str, sizes: Mapping[str, int]) -> nn.Module:
    if network == "unrolled_gan":
        return unrolled_gan(sizes["hidden"], sizes["noise"], sizes["steps"])
    if network in ("lstm", "gru", "treelstm"):
        return {"lstm": lstm, "gru": gru, "treelstm": treelstm}[network](sizes["input"], sizes["hidden"])
    if network == "transformer":
        hidden, heads = sizes["hidden"], sizes["heads"]
        return transformer(hidden, heads, sizes["layers"], sizes["decoder_layers"], feedforward=4 * hidden)
    return build(network, width_divisor=sizes.get("width_divisor", 1))


def _data(network: str, sizes: Mapping[str, int], device: str) -> tuple[tuple, Callable[[Tensor], Tensor]]:
    """Inputs on the CPU, and the loss with its targets on the device."""
    batch = sizes["batch"]
    if network in CLASSIFIERS:
        images = torch.randn(batch, 3, sizes["h"], sizes["w"])
        classes = {"densenet121": 1000, "inceptionv4": 1001}.get(network, 10)
        target = torch.randint(classes, (batch,)).to(device)
        measure = functional.nll_loss if network == "densenet100" else functional.cross_entropy
        return (images,), lambda out: measure(out, target)
    if network == "unet":
        target = torch.rand(batch, 1, sizes["h"], sizes["w"]).to(device)
        images = torch.randn(batch, 3, sizes["h"], sizes["w"])
        return (images,), lambda out: functional.binary_cross_entropy_with_logits(out, target)
    if network == "unrolled_gan":
        angle = torch.randint(8, (batch,)) * (torch.pi / 4)  # eight Gaussians on a ring
        real = 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.02 * torch.randn(batch, 2)
        return (torch.randn(batch, sizes["noise"]), real), lambda out: functional.binary_cross_entropy(
            out, torch.ones_like(out)
        )
    if network == "transformer":
        source = torch.randn(sizes["seq"], batch, sizes["hidden"])
        target = torch.randn(sizes["target"], batch, sizes["hidden"])
        # As published: the output [target, batch, hidden] is read as (N, classes, d), and the right class is always 1.
        ones = torch.ones(sizes["target"], sizes["hidden"], dtype=torch.int64).to(device)
        return (source, target), lambda out: functional.nll_loss(out, ones)
    nodes = 2 ** (sizes["depth"] + 1) - 1 if network == "treelstm" else sizes["seq"]
    made = torch.zeros if network == "treelstm" else torch.randn
    return ([made(batch, sizes["input"]) for _ in range(nodes)],), Tensor.sum
