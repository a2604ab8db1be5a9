"""The methods on a GPU: the same steps as the network as it is, in every precision and layout."""

import copy

import numpy as np
import pytest
import torch
from test_sft_methods import model_of

from frugal.memory import LiveBytes
from frugal.sft.methods import Setup, forward_of, sgd, step, target_of, uploaded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]

GPU = torch.device("cuda", 0)
SHAPE = (1, 3, 128, 128)
# One rounding of the type that is computed in, relative to a tensor's largest value.
ROUNDING = {"fp32": 2**-24, "tf32": 2**-11, "bf16": 2**-9}


def gradients(model, forward, image, setup) -> dict[str, torch.Tensor]:
    work = step(model, forward, image, target_of(model, SHAPE), setup, sgd(model))
    with setup.flags():
        loss = work.forward()
        work.backward(loss)
    found = {name: parameter.grad.double() for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found | {"loss": loss.detach().double()}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize(
    ("name", "method", "settings"),
    [
        ("vgg16", "checkpoint", {"segments": 5}),
        ("resnet50", "checkpoint_blocks", {}),
        ("vgg16", "save_on_cpu", {}),
        ("darknet19_bn", "sft_artifact", {"tiles": 2}),
        ("vgg16", "sft_artifact", {"tiles": 4}),
    ],
)
def test_gradients_are_no_worse_than_the_networks_own(name, method, settings, precision, channels_last):
    setup = Setup(precision, channels_last)
    right_model = model_of(name).to(GPU)
    model = copy.deepcopy(right_model).float().to(memory_format=setup.memory_format)
    pixels = np.random.default_rng(0).integers(0, 256, (*SHAPE[2:], 3), dtype=np.uint8)
    image = uploaded(pixels, GPU, setup, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    right = gradients(right_model, right_model, lambda: image().double(), Setup())
    untiled = gradients(model, model, image, setup)
    ours = gradients(model, forward_of(method, model, SHAPE, setup, **settings), image, setup)
    for key, b in right.items():
        # Twice the network's own error, and ten roundings where that happens to be next to nothing.
        limit = 2 * (untiled[key] - b).abs().max() + 10 * ROUNDING[precision] * b.abs().max()
        assert (ours[key] - b).abs().max() <= limit, key


@pytest.mark.parametrize(("method", "settings"), [("compile", {}), ("activation_budget", {"budget": 0.5})])
def test_compiled_steps(method, settings):
    torch.compiler.reset()
    model = model_of("vgg16").float().to(GPU)
    image = torch.randn(SHAPE, device=GPU)
    untiled = gradients(model, model, lambda: image, Setup())
    ours = gradients(model, forward_of(method, model, SHAPE, Setup(), **settings), lambda: image, Setup())
    for key, b in untiled.items():
        # float32 sums in another order, through 13 layers
        assert (ours[key] - b).abs().max() <= 1e-4 * b.abs().max(), key


def test_what_autograd_saves_leaves_the_device():
    model = model_of("vgg16").float().to(GPU)
    image = torch.randn(SHAPE, device=GPU)

    def kept(method: str) -> int:
        before = torch.cuda.memory_allocated()
        output = forward_of(method, model, SHAPE, Setup())(image)
        torch.cuda.synchronize()
        assert output.requires_grad
        return torch.cuda.memory_allocated() - before

    assert kept("save_on_cpu") < 0.1 * kept("vanilla")


def test_live_bytes_of_the_published_schedule_are_those_of_the_meta_device():
    def peak(device) -> int:
        model = model_of("vgg16").float().to(device)
        image = torch.empty(SHAPE, device=device)
        forward = forward_of("sft_artifact", model, SHAPE, Setup(), tiles=4)
        live = LiveBytes()
        live.track((model, image))
        with live:
            forward(image).sum().backward()
        return live.peak

    assert peak(GPU) == peak(torch.device("meta"))
