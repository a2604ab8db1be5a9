"""`sparse_conv2d` against a convolution in float64, on a CPU; what it launches on a GPU, on kernels without one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import frugal.cusnn
from frugal.cusnn import Fused, NotDifferentiable, UnsupportedInput, UnsupportedShape, ops, pack_weights, sparse_conv2d
from frugal.cusnn.kernel_store import NotReady
from frugal.cusnn.plans import Plan
from kernels import sparse
from kernels.sparse import ConvShape, Workspace, variants
from kernels.sparse.fused import BIAS, POST_RELU, PRE_AFFINE, PRE_RELU, RESIDUAL
from kernels.sparse.variant import ladder

# The a-priori bound of a float32 sum of K products is K·2⁻²⁴ of the sum of their absolute values; here K <= 9·7 + 3
# and values are of order 1, so that 1e-5 of the largest output is above it and far below any wrong tap.
TOLERANCE = 1e-5


def tensors(k: int = 3, *, batch: int = 2, n: int = 5, side: int = 7, stride: int = 1) -> dict[str, torch.Tensor]:
    """An input with zeros, weights and all that may be fused."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    out = (side - 1) // stride + 1
    return {
        "x": draw(batch, 7, side, side + 2).clamp_min(0), "w": draw(n, 7, k, k), "bias": draw(n),
        "scale": draw(7), "shift": draw(7) + 1, "residual": draw(batch, n, out, (side + 1) // stride + 1),
    }  # fmt: skip


def expected(given: dict[str, torch.Tensor], stride: int = 1, **parts: bool) -> torch.Tensor:
    """In float64: relu(conv(relu(x·scale + shift)) + bias + residual), as far as `parts` names them."""
    wide = {name: tensor.double() for name, tensor in given.items()}
    x = wide["x"]
    if parts.get("pre"):
        x = (x * wide["scale"][:, None, None] + wide["shift"][:, None, None]).relu()
    bias = wide["bias"] if parts.get("bias") else None
    y = torch.nn.functional.conv2d(x, wide["w"], bias, stride, given["w"].shape[2] // 2)
    if parts.get("residual"):
        y = y + wide["residual"]
    return y.relu() if parts.get("relu") else y


def fused_of(given: dict[str, torch.Tensor], **parts: bool) -> Fused:
    scale, shift = (given["scale"], given["shift"]) if parts.get("pre") else (None, None)
    residual = given["residual"] if parts.get("residual") else None
    return Fused(scale, shift, bool(parts.get("pre")), residual, bool(parts.get("relu")))


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=TOLERANCE * wanted.abs().max().item())


PARTS = [{}, {"bias": True}, {"pre": True}, {"bias": True, "pre": True, "residual": True, "relu": True}]


# ---- on a CPU --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join(parts) or "plain")
@pytest.mark.parametrize(("k", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
def test_it_is_the_convolution_with_what_is_fused(k: int, stride: int, parts: dict):
    given = tensors(k, stride=stride)
    bias = given["bias"] if parts.get("bias") else None
    out = torch.full_like(given["residual"], torch.nan)
    found = sparse_conv2d(
        given["x"], pack_weights(given["w"]), bias, stride=stride, out=out, fused=fused_of(given, **parts)
    )
    assert found is out
    assert_close(found, expected(given, stride, **parts))


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join(parts) or "plain")
def test_torchs_own_convolution_in_a_plan_gives_the_same(parts: dict):
    given = tensors()
    plan = Plan(ConvShape(2, 7, 7, 9, 5), "onednn_fp32")
    bias = given["bias"] if parts.get("bias") else None
    found = sparse_conv2d(given["x"], pack_weights(given["w"]), bias, plan=plan, fused=fused_of(given, **parts))
    assert_close(found, expected(given, **parts))


def test_the_twin_gives_the_same_bits():
    given = tensors()
    packed, shape = pack_weights(given["w"]), ConvShape(2, 7, 7, 9, 5)
    found = [sparse_conv2d(given["x"], packed, plan=Plan(shape, name)) for name in ("sparse", "dense_twin")]
    assert torch.equal(*found)


def test_channel_slices_are_read_and_written_in_place():
    given = tensors()
    buffer = torch.full((2, 12, 7, 9), torch.nan)
    buffer[:, :7] = given["x"]
    sparse_conv2d(buffer[:, :7], pack_weights(given["w"]), out=buffer[:, 7:])
    assert torch.equal(buffer[:, :7], given["x"])
    assert_close(buffer[:, 7:], expected(given))


def test_without_anything_that_says_how_many_channels_all_packed_ones_are_computed():
    given = tensors()
    found = sparse_conv2d(given["x"], pack_weights(given["w"]))
    assert found.shape == (2, 32, 7, 9)
    assert_close(found[:, :5], expected(given))
    assert not found[:, 5:].any()
    assert sparse_conv2d(given["x"], pack_weights(given["w"]), given["bias"]).shape[1] == 5


# ---- what is refused -------------------------------------------------------------------------------------------------


def channels_last(given: dict) -> dict:
    return {"x": given["x"].to(memory_format=torch.channels_last)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (channels_last, r"x is channels-last \(strides .*\): call x.contiguous\(\)"),
        (lambda g: {"x": g["x"].half()}, r"x is torch.float16: .* call x.float\(\)"),
        (lambda g: {"x": g["x"].transpose(2, 3)}, r"x is not NCHW in memory .*: call x.contiguous\(\)"),
        (lambda g: {"x": g["x"][0]}, r"x has shape \(7, 7, 9\): four dimensions"),
        (lambda g: {"x": g["x"][:, :6]}, r"x has 6 channels, w_packed is for 7"),
        (lambda g: {"x": g["x"][:0]}, r"x has shape \(0, 7, 7, 9\): an image at least"),
        (lambda g: {"w_packed": g["w"]}, r"w_packed is torch.float32 \(5, 7, 3, 3\): what pack_weights makes"),
        (lambda g: {"bias": g["bias"].double()}, r"bias is torch.float64 \(5,\): float32 \[5\] is needed"),
        (lambda g: {"out": torch.zeros(2, 5, 7, 9).half()}, r"out is torch.float16"),
        (lambda g: {"fused": Fused(g["bias"], g["bias"])}, r"fused.pre_scale is torch.float32 \(5,\)"),
        (lambda g: {"x": g["x"].to("meta")}, r"x is torch.strided on meta: a dense tensor on a CPU or a CUDA GPU"),
    ],
)  # fmt: skip
def test_a_tensor_that_would_be_converted_is_refused(change, sentence: str):
    given = tensors()
    call = {"x": given["x"], "w_packed": pack_weights(given["w"])} | change(given)
    with pytest.raises(UnsupportedInput, match=sentence):
        sparse_conv2d(**call)


def test_the_input_as_output_is_refused():
    x = torch.randn(1, 32, 5, 5)
    with pytest.raises(UnsupportedInput, match="out is x's own memory"):
        sparse_conv2d(x, pack_weights(torch.randn(32, 32, 3, 3)), out=x)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"stride": 3}, "stride = 3: 1 or 2 is allowed"),
        ({"padding": 0}, "pad = 0: 1 is allowed with k = 3"),
        ({"bias": torch.zeros(33)}, "N = 33: w_packed holds 1 to 32 output channels"),
        ({"out": torch.zeros(2, 5, 7, 8)}, r"out has shape \(2, 5, 7, 8\): \(2, 5, 7, 9\) is needed"),
        ({"fused": Fused(residual=torch.zeros(1, 5, 7, 9))}, r"fused.residual has shape \(1, 5, 7, 9\)"),
        ({"plan": Plan(ConvShape(1, 7, 7, 9, 5), "sparse")}, "the plan was made for .*B=1.*: plan anew"),
    ],
)
def test_sizes_that_do_not_fit_name_themselves(more: dict, sentence: str):
    given = tensors()
    with pytest.raises(UnsupportedShape, match=sentence):
        sparse_conv2d(given["x"], pack_weights(given["w"]), **more)


@pytest.mark.parametrize("name", ["x", "bias"])
def test_a_gradient_is_refused_and_inference_mode_is_not(name: str):
    given = tensors()
    call = {"x": given["x"], "bias": given["bias"], "w_packed": pack_weights(given["w"])}
    call[name].requires_grad_()
    with pytest.raises(NotDifferentiable, match=r"call it under torch.inference_mode\(\)"):
        sparse_conv2d(**call)
    with torch.inference_mode():
        assert_close(sparse_conv2d(**call), expected(given, bias=True))


# ---- on a GPU, faked -------------------------------------------------------------------------------------------------


class FakeKernel:
    """Notes how it is bound; a launch writes what its kernel would: the 3×3 convolution and what its flags say."""

    def __init__(self, given: dict) -> None:
        self.given, self.bound = given, []

    def bind(self, grid, block, args, **more):
        names = [name for name, _ in self.parameters]
        self.bound.append((grid, block, dict(zip(names, args, strict=True)), more))
        read = dict(zip(names, args, strict=True))

        def launch() -> None:
            y = torch.nn.functional.conv2d(read["x"].view(2, 7, 7, 9), self.given["w"], padding=1)
            flags = read.get("flags", 0)
            assert not flags & (PRE_AFFINE | PRE_RELU)  # neither kernel has a prologue
            if flags & BIAS:
                y += read["bias"][:, None, None]
            if flags & RESIDUAL:
                y += read["residual"].view_as(y)
            read["y"].copy_((y.relu() if flags & POST_RELU else y).reshape(-1))

        return launch


class FakeStore:
    """Has one kernel."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.workspace, self._kernel, self.asked = Workspace("cpu"), kernel, []

    def kernel(self, variant: str) -> FakeKernel:
        self.asked.append(variant)
        return self._kernel


@pytest.fixture(params=["v3_ballot", "v6_fused"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """(tensors, their plan on a GPU, a store): ops sees a GPU. v3 fuses nothing, v6 all but a prologue."""
    given = tensors()
    shape = ConvShape(2, 7, 7, 9, 5)
    kernel = FakeKernel(given)
    plan = Plan(shape, "sparse", sparse.plan(shape, 132, rung=request.param, variants=(*ladder(), *variants())))
    kernel.parameters = plan.launch.variant.parameters
    monkeypatch.setattr(ops, "on_cpu", lambda x: False)
    return given, plan, FakeStore(kernel)


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "-".join(parts) or "plain")
def test_what_a_kernel_cannot_fuse_torch_does_around_it(parts: dict, gpu):
    given, plan, store = gpu
    bias = given["bias"] if parts.get("bias") else None
    before = given["x"].clone()
    found = sparse_conv2d(
        given["x"], pack_weights(given["w"]), bias, plan=plan, fused=fused_of(given, **parts), kernels=store
    )
    assert_close(found, expected(given, **parts))
    assert torch.equal(given["x"], before)
    assert store.asked == [plan.launch.variant.name]


def test_a_launch_is_bound_as_it_was_planned(gpu):
    given, plan, store = gpu
    workspace, packed = Workspace("cpu"), pack_weights(given["w"])
    found = sparse_conv2d(given["x"], packed, plan=plan, kernels=store, workspace=workspace)
    ((grid, block, args, more),) = store.kernel("").bound
    assert (grid, block) == (plan.launch.grid, plan.launch.block)
    assert more == {"cluster": plan.launch.cluster, "overlap": plan.launch.overlap}
    assert args["x"].data_ptr() == given["x"].data_ptr()
    assert args["w"].data_ptr() == packed.data_ptr() or plan.launch.variant.rung == "v6_fused"
    assert args["y"].data_ptr() == found.data_ptr()
    assert args["slots"] is workspace.slots  # not the store's own


def test_a_capture_that_would_allocate_is_refused(gpu, monkeypatch: pytest.MonkeyPatch):
    given, plan, store = gpu
    plan = replace(plan, launch=replace(plan.launch, slot_floats=100, tickets=2))
    call = {"x": given["x"], "w_packed": pack_weights(given["w"]), "plan": plan, "kernels": store}
    monkeypatch.setattr(ops, "capturing", lambda: True)
    with pytest.raises(NotReady, match="make the same call once before"):
        sparse_conv2d(**call)
    monkeypatch.setattr(ops, "capturing", lambda: False)
    sparse_conv2d(**call)
    monkeypatch.setattr(ops, "capturing", lambda: True)
    sparse_conv2d(**call)
    again = call | {"w_packed": call["w_packed"].clone()}
    if plan.launch.variant.rung == "v6_fused":  # which has its weights in an order of its own
        with pytest.raises(NotReady, match="with the same tensor of weights"):
            sparse_conv2d(**again)
    else:
        sparse_conv2d(**again)


def test_a_cpus_plan_is_refused_on_a_gpu(gpu):
    given, plan, store = gpu
    with pytest.raises(UnsupportedShape, match=r"plan with device=x.device"):
        sparse_conv2d(given["x"], pack_weights(given["w"]), plan=Plan(plan.shape, "sparse"), kernels=store)


# ---- the package -----------------------------------------------------------------------------------------------------


def test_every_public_name_is_there_and_no_other():
    for name in frugal.cusnn.__all__:
        assert getattr(frugal.cusnn, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'sparsfy'"):
        frugal.cusnn.sparsfy  # noqa: B018
