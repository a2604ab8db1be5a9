"""Multiply-adds of what PyTorch runs, told apart by what they are for. FLOP = 2 MAC.

The formulas are those of torch.utils.flop_counter, by the shapes of each operation's tensors: no device is needed, and
tensors on the `meta` device will do. Its formula for the backward of a convolution does not tell the gradient of the
input from that of the weight, and counts the latter `groups` times; so ours stands in its place. Its mode,
FlopCounterMode, hooks into modules and gradients to tell modules apart, and fails in inference mode; ours does neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

from frugal.errors import FrugalError

aten = torch.ops.aten

# A product's node in the graph → its two factors by their place among the node's inputs, each with whether a leaf there
# is a weight by its place (`x @ W`, the form of a linear layer), and not only when it is a Parameter. A gradient that
# is an outer product, which sums nothing, is left out.
_FACTORS: dict[str, dict[int, bool]] = {
    "MmBackward0": {0: False, 1: True},
    "BmmBackward0": {0: False, 1: True},
    "LinearBackward0": {0: False, 1: True},
    "AddmmBackward0": {1: False, 2: True},
    "BaddbmmBackward0": {1: False, 2: True},
    "AddbmmBackward0": {1: False, 2: True},
    "MvBackward0": {1: False},
    "AddmvBackward0": {2: False},
}
# Nodes between a leaf and its use that only look at it in another way, or in another dtype (autocast).
_VIEWS = frozenset(
    f"{name}Backward{number}"
    for name in ("T", "Transpose", "Permute", "View", "UnsafeView", "Reshape", "ReshapeAlias", "Expand", "Unsqueeze",
                 "Squeeze", "ToCopy", "Alias", "Numpy", "Mt", "Adjoint")
    for number in (0, 1)
)  # fmt: skip
# Operations that do many products in one call, for which there is no formula here: not seeing them would be a lie.
_OPAQUE = frozenset(
    {"mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn", "_native_multi_head_attention", "_transformer_encoder_layer_fwd",
     "_trilinear"}
)  # fmt: skip
_CONVOLUTIONS = (
    aten.convolution,
    aten._convolution,
    aten.cudnn_convolution,
    aten._slow_conv2d_forward,
    aten.convolution_overrideable,
)


class MacCounter(TorchDispatchMode):
    """Counts multiply-adds (MAC) while it is entered, each of four sums an integer:

    `forward`: operations outside any backward pass.
    `recompute`: forward operations inside a backward pass: what checkpointing does again.
    `dgrad`: gradients of data. `wgrad`: gradients of weights.

    Convolutions (any number of dimensions, strided, dilated, grouped, transposed; padding counts as if it were
    multiplied) and products of matrices count, and attention, whose whole backward counts as `dgrad`; so does what else
    torch.utils.flop_counter has a formula for. Element-wise work does not.

    What a product inside a backward pass is for: with gradients enabled, as checkpointing does, a `recompute`; else, in
    the node of a product, the gradient of a weight where that factor is a Parameter, or the leaf W of `x @ W`, seen
    through views alone, and of data otherwise. In a `torch.autograd.Function` of one's own, with gradients disabled, a
    product with a Parameter is a `dgrad`, any other a `wgrad`. With `create_graph=True` a product's gradients count as
    `recompute`; a convolution's never do.

    What torch.compile has fused is not seen: count the eager model. FrugalError for an operation that hides its
    products (a library's LSTM, the fast path of a transformer): the sentence says which.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.recompute = self.dgrad = self.wgrad = 0
        self._node: tuple[int, int] | None = None
        self._products = 0
        formulas = flop_counter.flop_registry | _further_formulas()
        self._counts = {packet: self._counting(formula) for packet, formula in formulas.items()}
        self._counts |= dict.fromkeys(_CONVOLUTIONS, self._convolution)
        self._counts[aten.convolution_backward] = self._convolution_backward

    @property
    def total(self) -> int:
        """All multiply-adds: forward, recompute, dgrad and wgrad."""
        return self.forward + self.recompute + self.dgrad + self.wgrad

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet.__name__ in _OPAQUE:
            raise FrugalError(
                f"MacCounter cannot see the products inside aten.{packet.__name__}: count a model that is written with "
                "linear layers, matrix products and convolutions"
            )
        count = self._counts.get(packet)
        if count is None:
            # Without gradients (inference mode) composite operations such as `linear` arrive whole.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if count is not None:
            count(*args, **kwargs, out_val=result)
        return result

    def _counting(self, formula: Callable[..., int]) -> Callable[..., None]:
        """A formula of flop_counter, whose FLOP are filed as what they are for."""

        def count(*args: Any, out_val: Any, **kwargs: Any) -> None:
            self._file(self._purpose(args), formula(*args, out_val=out_val, **kwargs) // 2)

        return count

    def _convolution(self, x, w, bias, stride, padding, dilation, transposed=False, *_, out_val) -> None:
        inside = torch._C._current_graph_task_id() != -1
        self._file("recompute" if inside else "forward", _convolution_macs(x, w, out_val, transposed))

    def _convolution_backward(self, grad, x, w, biases, stride, padding, dilation, transposed, output_padding, groups,
                              output_mask, *, out_val) -> None:  # fmt: skip
        # Each product of the forward pass appears once in either gradient.
        macs = _convolution_macs(x, w, grad, transposed)
        self._file("dgrad", macs * output_mask[0])
        self._file("wgrad", macs * output_mask[1])

    def _file(self, purpose: str, macs: int) -> None:
        setattr(self, purpose, getattr(self, purpose) + macs)

    def _purpose(self, args: tuple) -> str:
        task = torch._C._current_graph_task_id()
        if task == -1:
            return "forward"
        if torch.is_grad_enabled():
            return "recompute"
        node = torch._C._current_autograd_node()
        name = node.name() if node is not None else ""
        if name.startswith("ScaledDotProduct"):
            return "dgrad"
        if name not in _FACTORS:
            return "dgrad" if any(map(_is_parameter, args)) else "wgrad"
        # Both gradients of a product have as many multiply-adds, so it does not matter which of them comes first.
        self._products = self._products + 1 if (task, node._sequence_nr()) == self._node else 0
        self._node = (task, node._sequence_nr())
        wanted = list(_wanted(node, _FACTORS[name]))
        return wanted[min(self._products, len(wanted) - 1)]


def _wanted(node: Any, factors: dict[int, bool]) -> Iterator[str]:
    """Of each factor whose gradient this node computes, what that gradient is of."""
    for place, by_place in factors.items():
        following = node.next_functions[place][0]
        if following is not None and _is_computed(following):
            leaf = _leaf(following)
            weight = isinstance(leaf, torch.nn.Parameter) or (leaf is not None and by_place)
            yield "wgrad" if weight else "dgrad"


def _is_computed(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # torch refuses to say it of a leaf that autograd.grad() was asked for, which is computed
        return True


def _leaf(node: Any) -> torch.Tensor | None:
    """The leaf that a node passes its gradient to through views alone."""
    while node.name() in _VIEWS:
        node = node.next_functions[0][0]
        if node is None:
            return None
    return getattr(node, "variable", None)


def _is_parameter(value: object) -> bool:
    """Whether a factor is a Parameter or a view of one."""
    if not isinstance(value, torch.Tensor):
        return False
    return isinstance(value, torch.nn.Parameter) or isinstance(value._base, torch.nn.Parameter)


def _convolution_macs(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, transposed: bool) -> int:
    """Each position of the smaller map (the input's, of a transposed one) meets each weight once."""
    places = (x if transposed else y).shape[2:]
    return x.shape[0] * prod(places) * w.numel()


def _further_formulas() -> dict[Any, Callable[..., int]]:
    """FLOP of products that flop_counter lacks."""
    known = flop_counter.flop_registry
    found: dict[Any, Callable[..., int]] = {
        aten.mv: lambda matrix, vector, **_: 2 * matrix.numel(),
        aten.addmv: lambda start, matrix, vector, **_: 2 * matrix.numel(),
        aten.dot: lambda a, b, **_: 2 * a.numel(),
        aten.vdot: lambda a, b, **_: 2 * a.numel(),
        aten.addbmm: lambda start, a, b, **_: 2 * a.numel() * b.shape[-1],
    }
    for direction in ("", "_backward"):
        name = f"_scaled_dot_product_flash_attention_for_cpu{direction}"
        formula = known.get(getattr(aten, f"_scaled_dot_product_flash_attention{direction}"))
        if hasattr(aten, name) and formula is not None:
            found[getattr(aten, name)] = formula
    return found
