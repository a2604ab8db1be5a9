"""`SparseConv2d`: what stands in a network in the place of an `nn.Conv2d`, for inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from frugal.cusnn.errors import NotDifferentiable, UnsupportedInput
from frugal.cusnn.fold import folded
from frugal.cusnn.ops import check_tensor, sparse_conv2d
from frugal.cusnn.plans import Plan, check_policy, plan
from kernels.sparse import ConvShape, Fused, UnsupportedShape, Workspace, pack_weights

if TYPE_CHECKING:
    from frugal.cusnn.kernel_store import KernelStore


class SparseConv2d(nn.Module):
    """y = relu(norm(conv(x))), the norm and the ReLU as far as there are, in one launch and without gradients.

    x: [B, C, H, W] float32 (NCHW) → y: [B, N, H_out, W_out]. Made by `from_conv`; weights are buffers, packed. Layouts
    and dtypes are refused as `sparse_conv2d` says. A layer, and all that share its `workspace`, run on one stream at a
    time.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: int = 1,
        relu: bool = False,
        policy: str = "auto",
        workspace: Workspace | None = None,
        kernels: KernelStore | None = None,
    ) -> None:
        """weight: [N, C, k, k] float32, finite; bias: [N] float32 or None. Raises ValueError."""
        super().__init__()
        check_policy(policy)
        self.out_channels, self.in_channels, self.k = weight.shape[:3]
        self.stride, self.relu, self.policy = stride, relu, policy
        self.workspace, self.kernels = workspace, kernels
        self.register_buffer("weight", pack_weights(weight))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._plans: dict[tuple[str, ConvShape], Plan] = {}
        self.eval()

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        *,
        bn: nn.BatchNorm2d | None = None,
        relu: bool = False,
        policy: str = "auto",
        workspace: Workspace | None = None,
        kernels: KernelStore | None = None,
    ) -> SparseConv2d:
        """The same convolution as `conv`, followed by `bn` (its running statistics) and by ReLU where `relu`.

        conv: 1×1 or 3×3, stride 1 or 2, padded by zeros to k // 2, neither grouped nor dilated, float32; it is copied.
        policy: `auto`, `always` (skip zeros) or `never`, where no measured plan is set with `use`. workspace, kernels:
        as for `sparse_conv2d`. Raises UnsupportedShape, naming field, value and what is allowed; UnsupportedInput for
        another dtype and for a norm without running statistics; ValueError for weights that are not finite.
        """
        check_conv(conv)
        if bn is not None:
            check_norm(bn, conv)
        weight, bias = folded(conv, bn)
        return cls(
            weight, bias, stride=conv.stride[0], relu=relu, policy=policy, workspace=workspace, kernels=kernels
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, N, H_out, W_out], both float32. Raises what `sparse_conv2d` raises."""
        if self.training:
            raise NotDifferentiable(
                "SparseConv2d is in training mode, and it computes no gradients: call .eval(), and the model under "
                "torch.inference_mode()"
            )
        check_tensor("x", x)
        if x.shape[1] != self.in_channels:
            raise UnsupportedInput(f"x has {x.shape[1]} channels: this convolution takes {self.in_channels}")
        return sparse_conv2d(
            x, self.weight, self.bias, plan=self.plan(x), stride=self.stride, fused=Fused(post_relu=self.relu),
            workspace=self.workspace, kernels=self.kernels,
        )  # fmt: skip

    def plan(self, x: Tensor) -> Plan:
        """What computes an input of x's sizes on x's device: the plan set with `use`, else the default one, kept."""
        sizes = dict(zip("BCHW", x.shape, strict=True))
        shape = ConvShape(**sizes, N=self.out_channels, k=self.k, stride=self.stride, pad=self.k // 2)
        key = x.device.type, shape
        if key not in self._plans:
            self._plans[key] = plan(shape, device=x.device, policy=self.policy)
        return self._plans[key]

    def use(self, plan: Plan) -> None:
        """Take a measured plan for inputs of its sizes. Raises UnsupportedShape where it is for another convolution."""
        shape = plan.shape
        own = (self.in_channels, self.out_channels, self.k, self.stride)
        if (shape.C, shape.N, shape.k, shape.stride) != own:
            raise UnsupportedShape(f"the plan is for {shape}, this convolution is {self.extra_repr()}: plan anew.")
        self._plans[plan.device_type, shape] = plan

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.k}, stride={self.stride}"
        return f"{text}, bias={self.bias is not None}, relu={self.relu}, policy={self.policy}"


def check_conv(conv: nn.Conv2d) -> None:
    """Raises UnsupportedShape or UnsupportedInput for a convolution that `SparseConv2d` cannot be."""
    if isinstance(conv, nn.modules.conv._ConvTransposeNd) or not isinstance(conv, nn.Conv2d):
        raise UnsupportedShape(f"module = {type(conv).__name__}: nn.Conv2d is allowed; leave this layer to torch.")
    k = conv.kernel_size[0]
    for field, value, allowed in (
        ("kernel_size", conv.kernel_size, ((1, 1), (3, 3))),
        ("stride", conv.stride, ((1, 1), (2, 2))),
        ("padding", conv.padding, ((k // 2, k // 2),)),
        ("dilation", conv.dilation, ((1, 1),)),
        ("groups", conv.groups, (1,)),
        ("padding_mode", conv.padding_mode, ("zeros",)),
    ):
        if _spelled(field, value, k) not in allowed:
            listed = " or ".join(map(str, allowed))
            raise UnsupportedShape(f"{field} = {value!r}: {listed} is allowed; leave this layer to torch.")
    if conv.weight.dtype != torch.float32:
        raise UnsupportedInput(f"weight is {conv.weight.dtype}: torch.float32 is needed; call conv.float()")


def check_norm(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> None:
    """Raises UnsupportedInput for a norm that cannot be folded into this convolution."""
    if norm.running_var is None or norm.running_mean is None:
        raise UnsupportedInput("bn has no running statistics, so its output follows the batch: it cannot be folded")
    if norm.training:
        raise NotDifferentiable("bn is in training mode, where its output follows the batch: call bn.eval() first")
    if norm.num_features != conv.out_channels:
        raise UnsupportedInput(f"bn has {norm.num_features} channels, conv gives {conv.out_channels}: they must agree")


def _spelled(field: str, value: object, k: int) -> object:
    """torch's words for a padding as numbers, for stride 1: `same` pads an odd filter by k // 2, `valid` by 0."""
    if field == "padding" and isinstance(value, str):
        return (k // 2, k // 2) if value == "same" else (0, 0)
    return value
