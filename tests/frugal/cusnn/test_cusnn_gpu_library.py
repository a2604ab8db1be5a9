"""The library on a GPU: kernels built on first use, what may be fused, converted networks, graphs."""

from __future__ import annotations

import copy

import pytest
import torch
from small_network import photographs, small
from test_cusnn_ops import PARTS, TOLERANCE, expected, fused_of, tensors
from test_cusnn_sparsify import mixed, ours_of

from frugal.cusnn import SparseConv2d, kernel_store, load_plan, pack_weights, plan, sparse_conv2d, sparsify
from frugal.cusnn.kernel_store import KernelStore, NotReady, store_of
from frugal.cusnn.plans import candidates, kernel_hash
from frugal.timing.flags import flags
from kernels.sparse import ConvShape, Workspace

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible to torch"),
]

GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory):
    """A kernel cache of this module's own, empty at first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        kernel_store._store.cache_clear()
        yield
    kernel_store._store.cache_clear()


@pytest.fixture(autouse=True)
def _float32():
    """torch's own convolutions without TF32, since they are what is compared with."""
    with flags(tf32=False):
        yield


def on_gpu(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(GPU) for name, tensor in given.items()}


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=TOLERANCE * wanted.abs().max().item())


# ---- one convolution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["always", "never"])
@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join(parts) or "plain")
@pytest.mark.parametrize(("k", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
def test_it_is_the_convolution_with_what_is_fused(k: int, stride: int, parts: dict, policy: str):
    given = on_gpu(tensors(k, batch=3, n=40, side=15, stride=stride))
    packed, bias = pack_weights(given["w"]), given["bias"] if parts.get("bias") else None
    shape = ConvShape(3, 7, 15, 17, 40, k=k, stride=stride, pad=k // 2)
    chosen = plan(shape, device=GPU, policy=policy)
    out = torch.full_like(given["residual"], torch.nan)
    sparse_conv2d(
        given["x"], packed, bias, plan=chosen, stride=stride, out=out, fused=fused_of(given, **parts)
    )  # fmt: skip
    assert_close(out, expected(given, stride, **parts))


def test_every_candidate_is_right_and_torchs_own_too():
    given = on_gpu(tensors(batch=2, n=64, side=14))
    shape, packed = ConvShape(2, 7, 14, 16, 64), pack_weights(given["w"])
    wanted = expected(given, bias=True, relu=True)
    fused = fused_of(given, relu=True)
    found = candidates(shape, GPU, sparsity=0.5)
    assert {candidate.backend for candidate in found} == {"sparse", "dense_twin"}
    for candidate in found:
        assert_close(sparse_conv2d(given["x"], packed, given["bias"], plan=candidate, fused=fused), wanted)


def test_a_call_is_captured_after_it_was_made_once_and_gives_the_same_bits():
    given = on_gpu(tensors(batch=1, n=64, side=14))
    packed, workspace = pack_weights(given["w"]), Workspace(GPU)
    out = torch.empty_like(given["residual"])
    call = lambda: sparse_conv2d(given["x"], packed, out=out, workspace=workspace)  # noqa: E731
    once = call().clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    for _ in range(100):
        out.fill_(torch.nan)
        graph.replay()
        assert torch.equal(out, once)


def test_a_capture_before_the_first_call_is_refused_and_leaves_the_device_usable():
    given = on_gpu(tensors(batch=1, n=64, side=14))
    packed = pack_weights(given["w"])
    fresh = KernelStore(store_of(GPU).capability, store_of(GPU).sm_count)
    with pytest.raises(NotReady), torch.cuda.graph(torch.cuda.CUDAGraph()):
        sparse_conv2d(given["x"], packed, kernels=fresh)
    torch.cuda.synchronize()
    assert_close(sparse_conv2d(given["x"], packed, kernels=fresh)[:, :64], expected(given))


def test_each_stream_has_a_workspace_of_its_own():
    store = store_of(GPU)
    first = store.workspace
    with torch.cuda.stream(torch.cuda.Stream()):
        second = store.workspace
        assert store.workspace is second is not first
    assert store.workspace is first


# ---- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["auto", "always", "never"])
def test_a_converted_network_computes_the_same_also_in_a_graph(policy: str, tmp_path):
    model, images = small().to(GPU), photographs(4).to(GPU)
    found = sparsify(model, images, policy=policy, batch=2)
    if policy != "auto":
        assert len(ours_of(found)) == 7
    with torch.inference_mode():
        wanted = copy.deepcopy(model).double()(images[:2].double())
        x = images[:2].clone()
        y = found(x)
        assert_close(y, wanted)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = found(x)
        x.copy_(images[2:])
        graph.replay()
        assert_close(y, copy.deepcopy(model).double()(images[2:].double()))
    found.report.plan.save(tmp_path / "plan.json")
    again = load_plan(
        tmp_path / "plan.json", device_key=found.report.plan.device_key,
        hash_of=lambda name: kernel_hash(store_of(GPU), name),
    )  # fmt: skip
    assert again == found.report.plan
    assert sparsify(model, images, batch=2, plan=again).report.replaced == found.report.replaced


def test_what_is_replaced_is_no_slower_than_cudnn_where_it_was_measured():
    found = sparsify(mixed().to(GPU), photographs(4, size=56).to(GPU))
    for layer in found.report.plan.layers:
        ours = layer.backend in ("sparse", "dense_twin")
        assert layer.seconds <= layer.dense_seconds, layer.reason
        assert ours == (layer.layer in ours_of(found))


def test_a_module_moves_between_devices():
    conv = torch.nn.Conv2d(7, 40, 3, padding=1)
    ours, x = SparseConv2d.from_conv(conv), tensors(n=40, side=15)["x"]
    with torch.inference_mode():
        on_cpu = ours(x)
        assert ours.plan(x).launch is None
        assert_close(ours.to(GPU)(x.to(GPU)).cpu(), on_cpu.double())
        assert ours.plan(x.to(GPU)).launch is not None
