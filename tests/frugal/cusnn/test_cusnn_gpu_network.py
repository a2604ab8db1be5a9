"""Whole networks on a GPU: right, the same from run to run, and in a graph without allocation or a wait."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from small_models import distance, images, model, right

from frugal.cusnn.kernel_store import build_variant
from frugal.cusnn.network import GraphRunner, Network
from frugal.cusnn.network_baselines import arm, without_norms
from frugal.timing.flags import flags

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]

BOUND = 5e-6  # relative L2, of features and logits: what the project promises
TF32_LEAST = 5e-5  # what rounding a whole network's operands to TF32 costs at least
GRAPHS = [("densenet121", "torchvision_v1.5"), ("resnet50", "torchvision_v1.5"), ("resnet50", "keras_v1")]
each_graph = pytest.mark.parametrize(("name", "definition"), GRAPHS)


@pytest.fixture(scope="module", autouse=True)
def built():
    """Every kernel that the networks choose, built side by side into the user's cache."""
    names = {
        choice.launch.variant.name
        for (name, definition), policy, batch in itertools.product(GRAPHS, ("auto", "never"), (1, 3, 8))
        for choice in on_gpu(name, definition, policy=policy).choices(batch).values()
        if choice.launch is not None
    }
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    fresh = multiprocessing.get_context("spawn")  # not forked: this process holds a CUDA context
    with ProcessPoolExecutor(min(len(names), os.cpu_count() or 1), mp_context=fresh) as pool:
        list(pool.map(build_variant, sorted(names), itertools.repeat(capability)))


def on_gpu(name: str, definition: str = "torchvision_v1.5", **given) -> Network:
    return Network(model(name, definition), device="cuda", **given)


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    return images(count, 224, 224, seed).cuda()


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("policy", ["auto", "never"])
@each_graph
def test_features_and_logits_are_the_networks(name: str, definition: str, policy: str, batch: int):
    x = pictures(batch)
    network = on_gpu(name, definition, policy=policy)
    features, logits = right(name, definition, x)
    assert distance(network(x), logits) < BOUND
    assert distance(network.features(x), features) < BOUND


@each_graph
def test_most_convolutions_are_ours(name: str, definition: str):
    choices = on_gpu(name, definition).choices(1).values()
    left = [choice.reason for choice in choices if not choice.is_ours]
    assert left == []


@pytest.mark.parametrize("name", ["densenet121", "resnet50"])
def test_what_is_fused_is_what_is_done_apart(name: str):
    x = pictures(2)
    fused, apart = (on_gpu(name, fused=fused)(x) for fused in (True, False))
    assert distance(fused, apart.double()) < 1e-6


def captured(name: str, batch: int) -> GraphRunner:
    return on_gpu(name).capture(batch)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", ["densenet121", "resnet50"])
def test_a_replay_is_the_pass_bit_for_bit_however_often(name: str, batch: int):
    network, x = on_gpu(name), pictures(batch)
    want = network(x)
    runner = network.capture(batch)
    other = pictures(batch, seed=1)
    for _ in range(50):
        assert torch.equal(runner(x), want)
        runner(other)  # and after another image has used every buffer and the workspace


@pytest.mark.parametrize("name", ["densenet121", "resnet50"])
def test_a_replay_allocates_nothing_and_waits_for_nothing(name: str):
    runner, x = captured(name, 1), pictures(1)
    runner(x)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            runner(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    after = torch.cuda.memory_stats()
    for counter in ("allocation.all.allocated", "num_device_alloc", "num_alloc_retries"):
        assert after.get(counter) == before.get(counter), counter


@pytest.mark.parametrize("name", ["densenet121", "resnet50"])
def test_a_pass_waits_for_nothing(name: str):
    x = pictures(1)
    with flags(tf32=False):
        program = on_gpu(name).bind(x)
        program.run()
        torch.cuda.set_sync_debug_mode("error")
        try:
            program.run()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_two_networks_share_a_workspace():
    x = pictures(1)
    networks = [on_gpu(name) for name in ("densenet121", "resnet50")]
    alone = [network(x) for network in networks]
    for _ in range(5):
        for network, logits in zip(networks, alone, strict=True):
            assert torch.equal(network(x), logits)
    assert networks[0].kernels.workspace is networks[1].kernels.workspace
    assert networks[0].workspace_bytes <= 16 << 20


@pytest.mark.parametrize("name", ["cudnn_fp32", "cudnn_fp32_cl", "cudnn_tf32", "cudnn_tf32_cl"])
def test_a_baselines_error_shows_its_flags(name: str):
    x = pictures(4)
    made = arm(name, lambda: without_norms(model("resnet50")), x.device, ("graph",), flop=1.0, bytes_min=1.0)
    with made.context():
        y = made.prepare({"x": x}).run()
    error = distance(y, right("resnet50", "torchvision_v1.5", x)[1])
    assert (error < made.norm_bound) if "fp32" in name else (TF32_LEAST < error < 1e-2)
