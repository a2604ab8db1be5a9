"""`sparsify`: a copy of any torch CNN in which convolutions skip the zeros of their input, where that is no slower.

torch.fx shows which batch norm and ReLU read a convolution's output, and they become part of its launch. A model that
torch.fx cannot trace (control flow that looks at tensors) keeps its own code, and its convolutions are replaced alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from frugal.cusnn.calibrate import Calibration, Layer, Seen, half, observe
from frugal.cusnn.errors import UnsupportedInput
from frugal.cusnn.fold import folded
from frugal.cusnn.kernel_store import KernelStore
from frugal.cusnn.module import SparseConv2d, check_conv, check_norm
from frugal.cusnn.ops import check_tensor
from frugal.cusnn.plans import DENSE, OURS, LayerPlan, NetworkPlan, PlanError, check_policy
from frugal.cusnn.plans import plan as default_plan
from frugal.errors import FrugalError
from frugal.timing.flags import flags
from frugal.timing.verify import NORM_BOUND
from kernels.sparse import ConvShape, UnsupportedShape, Workspace

RELU_FUNCTIONS = (functional.relu, functional.relu_, torch.relu, torch.relu_)


@dataclass(frozen=True)
class Site:
    """A convolution and what of the model goes into its launch: a batch norm, a ReLU, and their nodes in the graph."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None = None
    relu: bool = False
    behind: tuple[fx.Node, ...] = ()


@dataclass(frozen=True)
class Report:
    """What `sparsify` did.

    plan: the choice for each convolution that ours could compute. left: {name: reason} of those that they cannot.
    error: the relative L2 distance of the copy's results from the model's on images that no choice was made on.
    """

    plan: NetworkPlan
    left: Mapping[str, str]
    error: float

    @property
    def replaced(self) -> tuple[str, ...]:
        """The convolutions that are ours now."""
        return tuple(layer.layer for layer in self.plan.layers if layer.backend in OURS)

    def __str__(self) -> str:
        """A table for people."""
        kept = [f"{name}: left alone: {reason}" for name, reason in self.left.items()]
        count = f"{len(self.replaced)} of {len(self.plan.layers) + len(kept)} convolutions replaced"
        return "\n".join([str(self.plan), *kept, f"{count}; results differ by {self.error:.1e} (relative L2)"])


def sparsify(
    model: nn.Module,
    calibration: Tensor | Iterable[Tensor],
    *,
    policy: str = "auto",
    batch: int = 1,
    plan: NetworkPlan | None = None,
    kernels: KernelStore | None = None,
    measured_by: Calibration | None = None,
) -> nn.Module:
    """A copy of the model, in evaluation mode and without gradients, whose convolutions are ours where that pays.

    calibration: images [n, ...] float32 on the model's device, or batches of them; real ones, prepared as the model
    wants, since the choice depends on their zeros. policy: `auto` times for each convolution all that could compute it,
    on the first half of the images, and leaves it to torch where torch is faster (cuDNN in exact float32 with all its
    algorithms tried; oneDNN on a CPU); `always` takes the skipping kernels and `never` their dense twins, untimed.
    batch: the images of one call; others work too, with kernels that were not timed. plan: the choices of an earlier
    call (`report.plan`) instead of new ones. kernels: else those of the user's cache folder, built on first use.
    measured_by is for tests.

    The copy has `report`, a `Report`. On a GPU it runs on one stream at a time; run it once before you capture it in a
    CUDA graph. Raises FrugalError for images that do not fit, for fewer than a batch, for a plan of another batch size,
    and where the copy's results on the other half of the images are not the model's.
    """
    check_policy(policy)
    if plan is not None and plan.batch != batch:
        raise PlanError(f"the plan is for batch {plan.batch}, not {batch}: calibrate for this one, or pass that batch")
    own = copy.deepcopy(model).eval().requires_grad_(False)
    device = next((parameter.device for parameter in own.parameters()), torch.device("cpu"))
    images = _images(calibration, device)
    chosen = half(images, batch)
    held_out = images[len(chosen) :] if len(images) - len(chosen) >= batch else chosen
    graph = _traced(own)
    found, left = sites(own, graph)
    meter = measured_by or Calibration(device, kernels=kernels)
    with flags(tf32=False):
        expected = _results(own, held_out, batch)
        layers, seen = _seen(own, found, left, chosen, batch, meter, timed=policy == "auto" and plan is None)
        if policy == "auto" and plan is None:
            choices = meter.decide(seen)
        else:
            choices = [_untimed(name, layers[name], seen[name], policy, plan, device) for name in layers]
        result = _replaced(own, graph, found, choices, policy, device, kernels)
        error = _distance(_results(result, held_out, batch), expected)
    if not error <= NORM_BOUND["float32"]:
        raise FrugalError(
            f"the copy's results differ from the model's by {error:.1e} (relative L2), more than "
            f"{NORM_BOUND['float32']:g}: the model depends on something that torch.fx does not see; keep it as it is"
        )
    result.report = Report(meter.network_plan(type(model).__name__, batch, len(chosen), choices), left, error)
    return result


def sites(model: nn.Module, graph: fx.Graph | None) -> tuple[dict[str, Site], dict[str, str]]:
    """{name: site} of the convolutions that ours can compute, and {name: reason} of the others.

    graph: the model's, in which a batch norm and a ReLU are looked for behind each convolution; None: alone.
    """
    modules = dict(model.named_modules())
    nodes: dict[nn.Module, list[fx.Node]] = {}
    for node in graph.nodes if graph is not None else ():
        if node.op == "call_module":
            nodes.setdefault(modules[node.target], []).append(node)
    found, left = {}, {}
    for name, module in modules.items():
        if not isinstance(module, _ConvNd):
            continue
        try:
            if type(module) is not nn.Conv2d:
                raise UnsupportedInput(f"module = {type(module).__name__}: nn.Conv2d itself is allowed")
            if module._forward_hooks or module._forward_pre_hooks:
                raise UnsupportedInput("it has hooks, which would no longer be called")
            check_conv(module)
        except ValueError as problem:
            left[name] = str(problem)
            continue
        calls = nodes.get(module, [])
        found[name] = _site(module, calls[0], modules, nodes) if len(calls) == 1 else Site(module)
    return found, left


def _site(
    conv: nn.Conv2d, node: fx.Node, modules: Mapping[str, nn.Module], nodes: Mapping[nn.Module, list[fx.Node]]
) -> Site:
    """The convolution with what alone reads its output: a batch norm that can be folded, then a ReLU."""
    norm, behind, last = None, [], node
    reader = _only_reader(last)
    module = modules.get(str(reader.target)) if reader is not None and reader.op == "call_module" else None
    if isinstance(module, nn.BatchNorm2d) and len(nodes[module]) == 1 and _folds(module, conv):
        norm, last = module, reader
        behind.append(reader)
        reader = _only_reader(last)
    relu = reader is not None and _is_relu(reader, modules)
    if relu:
        behind.append(reader)
    return Site(conv, norm, relu, tuple(behind))


def _only_reader(node: fx.Node) -> fx.Node | None:
    readers = list(node.users)
    return readers[0] if len(readers) == 1 and readers[0].all_input_nodes == [node] else None


def _folds(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> bool:
    try:
        check_norm(norm, conv)
    except ValueError:
        return False
    return True


def _is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.ReLU)
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return node.op == "call_function" and node.target in RELU_FUNCTIONS


def _traced(model: nn.Module) -> fx.Graph | None:
    """The model's graph; None where torch.fx cannot follow it, for whatever reason in the model's own code."""
    try:
        return fx.Tracer().trace(model)
    except Exception:
        return None


def _images(calibration: Tensor | Iterable[Tensor], device: torch.device) -> Tensor:
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    if not batches or any(not isinstance(images, Tensor) or images.dim() == 0 for images in batches):
        raise UnsupportedInput("calibration holds no images: give a tensor [n, C, H, W], or batches of them")
    images = torch.cat(batches)
    if images.dtype != torch.float32 or images.device.type != device.type:
        raise UnsupportedInput(
            f"calibration is {images.dtype} on {images.device}: float32 on the model's device {device} is needed; call "
            f".to({str(device)!r}, torch.float32)"
        )
    return images.detach()


def _seen(
    model: nn.Module,
    found: Mapping[str, Site],
    left: dict[str, str],
    images: Tensor,
    batch: int,
    meter: Calibration,
    timed: bool,
) -> tuple[dict[str, tuple[Layer, ConvShape]], dict[str, Seen]]:
    """The layers to choose for, with their sizes, and what reached them; the reasons of the others go to `left`."""
    layers: dict[str, tuple[Layer, ConvShape]] = {}

    def first(name: str, x: Tensor) -> None:
        try:
            check_tensor("its input", x)
            layer = _layer(name, found[name])
        except ValueError as problem:
            left[name] = str(problem)
            return
        layers[name] = layer, layer.shape(x)

    seen = observe(model, found, images[:batch], batch, first)
    left |= {name: "no image reaches it" for name in found if name not in seen}
    left |= {name: f"it runs {seen[name].calls} times in one pass" for name in layers if seen[name].calls > 1}
    layers = {name: layer for name, layer in layers.items() if name not in left}
    see = (lambda name, x: meter.see(layers[name][0], x)) if timed else (lambda name, x: None)
    return layers, observe(model, layers, images, batch, see)


def _layer(name: str, site: Site) -> Layer:
    weight, bias = folded(site.conv, site.norm)
    if not torch.isfinite(weight).all():
        raise UnsupportedInput("its weights are not finite: skipping zeros is exact for finite weights only")
    return Layer(name=name, weight=weight, bias=bias, stride=site.conv.stride[0], relu=site.relu)


def _untimed(
    name: str, layer: tuple[Layer, ConvShape], seen: Seen, policy: str, given: NetworkPlan | None, device: torch.device
) -> LayerPlan:
    """The choice that a given plan or the policy asks for."""
    shape = layer[1]
    if given is not None:
        known = given.of(name)
        if known is None or known.shape != shape:
            raise PlanError(f"the plan has nothing for {name} with {shape}: it is another model's, or of other images")
        return known
    made = {"layer": name, "shape": shape, "sparsity": seen.sparsity}
    try:
        plan = default_plan(shape, device=device, policy=policy)
    except UnsupportedShape as problem:
        return LayerPlan(**made, backend=DENSE[device.type], reason=str(problem))
    launch = {} if plan.launch is None else {"variant": plan.launch.variant.name, "splits": plan.launch.splits}
    return LayerPlan(**made, **launch, backend=plan.backend, reason=f"policy {policy}")


def _replaced(
    model: nn.Module,
    graph: fx.Graph | None,
    found: Mapping[str, Site],
    choices: Sequence[LayerPlan],
    policy: str,
    device: torch.device,
    kernels: KernelStore | None,
) -> nn.Module:
    """The model with our convolutions in it; where there is a graph, what they take in is no longer computed apart."""
    workspace = Workspace(device) if device.type == "cuda" else None
    for choice in choices:
        if choice.backend not in OURS:
            continue
        site = found[choice.layer]
        new = SparseConv2d.from_conv(
            site.conv, bn=site.norm, relu=site.relu, policy=policy, workspace=workspace, kernels=kernels
        )  # fmt: skip
        new.use(choice.plan)
        for parent in model.modules():
            for name, child in list(parent._modules.items()):  # named_children gives a child once
                if child is site.conv:
                    setattr(parent, name, new)
        for node in reversed(site.behind):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
    if graph is None or not any(choice.backend in OURS for choice in choices):
        return model
    graph.lint()
    return fx.GraphModule(model, graph, type(model).__name__)


@torch.no_grad()
def _results(model: nn.Module, images: Tensor, batch: int) -> list[Tensor]:
    """All tensors that the model returns for the images."""
    passes = [model(images[start : start + batch]) for start in range(0, len(images) - batch + 1, batch)]
    return [leaf for leaf in tree_leaves(passes) if isinstance(leaf, Tensor)]


def _distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The greatest relative L2 distance of two results; infinite where they differ in number or shape.

    NaN agrees with NaN: a model may give it.
    """
    if [x.shape for x in found] != [x.shape for x in expected]:
        return float("inf")
    greatest = torch.zeros((), dtype=torch.float64)
    for a, b in zip(found, expected, strict=True):
        a, b = a.double(), b.double()
        apart = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, a - b)
        scale = b.nan_to_num(0.0, 0.0, 0.0).norm().clamp_min(1e-300)
        greatest = torch.maximum(greatest, (apart.norm() / scale).cpu())  # keeps NaN
    return greatest.item()
