"""Which backend and kernel is fastest for each convolution of a network, measured on this machine.

For every convolution all candidates (frugal.cusnn.plans) and torch's own float32 convolution are timed interleaved, as
`frugal.timing` times anything: on the layer's own input, verified against float64 before and after, on a GPU in a CUDA
graph. A layer's zeros differ little between photographs, so the choice is made once. Layers of one shape, with the same
work around the convolution and about as many zeros, share one measurement.

All candidates do the same work: what stands before and after the convolution in the network is in its launch for our
kernels, and torch's operations around it for torch's own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from frugal.clock import Clock, SystemClock
from frugal.cusnn.fold import folded
from frugal.cusnn.kernel_store import KernelStore, store_of
from frugal.cusnn.network_steps import Conv, steps
from frugal.cusnn.ops import bind
from frugal.cusnn.plans import CPU_TWIN, DENSE, OURS, LayerPlan, NetworkPlan, Plan, candidates, kernel_hash
from frugal.data.image_to_bin import read_bin
from frugal.errors import FrugalError
from frugal.models.trace import hooked
from frugal.models.weights import load_network
from frugal.provenance import check_device, device_key
from frugal.records import Measurement
from frugal.timing import Arm, Case, Design, Inputs, Prepared, Reference, measure_case
from frugal.timing.devices import CpuDevice, CudaDevice, Device, device_of
from frugal.timing.flags import flags
from frugal.timing.lease import lease
from frugal.timing.warmup import warm_up
from kernels.sparse import ConvShape, Fused, UnsupportedShape, pack_weights

log = logging.getLogger(__name__)

BLOCK_S = 0.05  # of one candidate's block: a choice among times that differ by per cents needs no more
BINS = 20  # of sparsity: layers in one share a measurement; .05 of zeros moves a time by less than 5 %
REGIME = {"cuda": "graph", "cpu": "wall"}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution as the network computes it: y = relu(conv(relu(norm(x))) + residual), as far as there are.

    weight: [N, C, k, k], bias: [N] or None, float32, the norm behind the convolution folded in.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    stride: int
    prologue: bool = False
    residual: bool = False
    relu: bool = False

    @property
    def pad(self) -> int:
        """Rows and columns of zeros at each side."""
        return self.weight.shape[2] // 2

    def shape(self, x: Tensor) -> ConvShape:
        """Its sizes for an input [B, C, H, W]."""
        return ConvShape(*x.shape, self.weight.shape[0], k=self.weight.shape[2], stride=self.stride, pad=self.pad)


@dataclass(frozen=True)
class Seen:
    """What reached a convolution: the share of zeros over the images, and how often it ran in one pass."""

    sparsity: float
    calls: int


def half(images: Tensor, batch: int) -> Tensor:
    """The first half of the images, on which choices are made: the others are for judging them. All, where a half holds
    no batch. Raises FrugalError where there are fewer images than a batch."""
    if len(images) < batch:
        raise FrugalError(f"batch = {batch}, but there are {len(images)} images, and a batch repeats none: give more")
    count = -(-len(images) // 2)
    return images[: count if count >= batch else len(images)]


@torch.no_grad()
def observe(
    model: nn.Module, names: Iterable[str], images: Tensor, batch: int, first: Callable[[str, Tensor], None]
) -> dict[str, Seen]:
    """What reaches the named modules when the model sees the images [n, ...] in batches; without those not reached.

    first(name, x): called with each one's first input, which is not to be changed nor kept.
    """
    modules = dict(model.named_modules())
    zeros, values, calls = (dict.fromkeys(names, 0) for _ in range(3))

    def hook(name: str) -> Callable[[nn.Module, tuple], None]:
        def see(module: nn.Module, args: tuple) -> None:
            x = args[0]
            if not values[name]:
                first(name, x)
            zeros[name] += int((x == 0).sum())
            values[name] += x.numel()
            calls[name] += 1

        return see

    passes = len(images) // batch
    with hooked([modules[name].register_forward_pre_hook(hook(name)) for name in zeros]):
        for number in range(passes):
            model(images[number * batch : (number + 1) * batch])
    return {name: Seen(zeros[name] / values[name], calls[name] // passes) for name in zeros if values[name]}


class Calibration:
    """Choices on one device: first it sees the layers with their inputs, then it measures and decides.

    kernels: else those of the user's cache folder. deterministic: False also allows kernels that add up in no fixed
    order. more: names of kernels to time beside the default ones. say: told of each measurement. clock and timed_on are
    for tests.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        kernels: KernelStore | None = None,
        deterministic: bool = True,
        more: Sequence[str] = (),
        say: Callable[[str], None] = log.info,
        clock: Clock | None = None,
        timed_on: Device | None = None,
    ) -> None:
        self.device, self.deterministic, self.more, self.say = device, deterministic, more, say
        self.kernels = kernels or (store_of(device) if device.type == "cuda" else None)
        self._clock = clock
        self._machine = timed_on or (CudaDevice(index=self._index()) if device.type == "cuda" else CpuDevice())
        self._design = Design.of("smoke", sessions=1, block_max_s=BLOCK_S)
        self._keys: dict[str, object] = {}
        self._inputs: dict[object, tuple[Layer, Tensor]] = {}

    def see(self, layer: Layer, x: Tensor) -> None:
        """Note a layer with its input [B, C, H, W]; of layers that share a measurement the first one's is copied."""
        work = layer.bias is not None, layer.prologue, layer.residual, layer.relu
        key = self._keys[layer.name] = layer.shape(x), work, round(BINS * _sparsity(x))
        if key not in self._inputs:
            self._inputs[key] = layer, x.detach().clone(memory_format=torch.contiguous_format)

    def decide(self, seen: Mapping[str, Seen]) -> list[LayerPlan]:
        """The fastest for each layer that was seen, torch's own where no kernel of ours is as fast."""
        found = {key: self._measure(layer, x) for key, (layer, x) in self._inputs.items()}
        return [replace(found[key], layer=n, sparsity=seen[n].sparsity) for n, key in self._keys.items()]

    def network_plan(self, network: str, batch: int, images: int, layers: Sequence[LayerPlan]) -> NetworkPlan:
        """The choices as a plan that can be saved."""
        kind = self.device.type
        used = {CPU_TWIN} if kind == "cpu" else {layer.variant for layer in layers if layer.variant is not None}
        return NetworkPlan(
            network=network, batch=batch, device_key=device_key(kind), images=images, layers=tuple(layers),
            kernels={variant: kernel_hash(self.kernels, variant) for variant in sorted(used)},
        )  # fmt: skip

    def _index(self) -> int:
        return self.device.index if self.device.index is not None else torch.cuda.current_device()

    def _measure(self, layer: Layer, x: Tensor) -> LayerPlan:
        shape, dense, sparsity = layer.shape(x), DENSE[self.device.type], _sparsity(x)
        made = {"layer": layer.name, "shape": shape, "sparsity": sparsity}
        try:
            plans = candidates(shape, self.device, sparsity=sparsity, deterministic=self.deterministic, more=self.more)
        except UnsupportedShape as problem:
            return LayerPlan(**made, backend=dense, reason=str(problem))
        named = {f"{plan.backend} {number}": plan for number, plan in enumerate(plans)}
        arms = [self._arm(name, "ours", _ours(layer, plan, self.kernels)) for name, plan in named.items()]
        arms.append(self._arm(dense, "baseline", _by_torch(layer)))
        given = _given(layer, x)
        case = Case(
            system="cusnn", experiment="calibration", axes={"layer": layer.name, "batch": shape.B}, layer=layer.name,
            inputs=lambda seed, phase: {name: value.clone() for name, value in given.items()},
            reference=lambda inputs: _reference(layer, inputs),
        )  # fmt: skip
        rows = measure_case(case, arms, self._design, 0, self._machine, self._clock).rows
        found = _decided(made, named, rows, dense)
        self.say(f"{layer.name}: {found.backend}: {found.reason}")
        return found

    def _arm(self, name: str, role: str, prepare: Callable[[Inputs], Prepared]) -> Arm:
        regimes = (REGIME[self.device.type],)
        return Arm(
            name=name, role=role, prepare=prepare, tf32=False, regimes=regimes, context=lambda: flags(tf32=False)
        )  # fmt: skip


def calibrate_network(
    model: nn.Module, network: str, images: Tensor, batch: int, calibration: Calibration
) -> NetworkPlan:
    """The choices for a network of frugal.models at a batch size, as `frugal.cusnn.Network` computes it.

    model: in evaluation mode, on the calibration's device; images: [n, 3, H, W] float32, of which `half` is used.
    """
    chosen = half(images, batch)
    found = {step.name: step for step in steps(model, *images.shape[2:]) if isinstance(step, Conv)}

    def first(name: str, x: Tensor) -> None:
        step = found[name]
        if tuple(x.shape[2:]) != (step.x.H, step.x.W):
            x = functional.avg_pool2d(x, 2)  # of a transition, which pools before its convolution there
        calibration.see(_layer(step, x.device), x)

    seen = observe(model, found, chosen, batch, first)
    return calibration.network_plan(network, batch, len(chosen), calibration.decide(seen))


def write_plan(
    *,
    weights: str | Path,
    images: str | Path,
    device: str | Path,
    kernels: Sequence[str],
    batch: int,
    deterministic: bool,
    more: Sequence[str],
    threads: int,
    out: str | Path,
    say: Callable[[str], None] = print,
) -> None:
    """Calibrate one network at one batch size on this machine and write the plan to `out`: the job of a rule.

    weights: a converted network; images: its .bin; device: the device file; kernels: reports of built kernels. The
    machine is warmed up first, and a GPU leased. Raises FrugalError on another machine than the device file's.
    """
    record = check_device(device)
    torch.set_num_threads(threads)
    machine, clock, design = device_of(record), SystemClock(), Design.of("quick")
    model, info = load_network(Path(weights))
    photographs, _ = read_bin(images, preprocess=info.preprocess)
    here, store = torch.device(machine.kind), None
    if machine.kind == "cuda":
        built = next(Path(path).parent for path in kernels if Path(path).parent.name == "sparse")
        store = KernelStore(str(record["capability"]), int(record["sm_count"]), built)
    calibration = Calibration(
        here, kernels=store, deterministic=deterministic, more=more, say=say, clock=clock, timed_on=machine
    )  # fmt: skip
    with lease(machine.uuid, say):
        with machine.active():
            warm_up(machine, design, clock)
        found = calibrate_network(model.to(here), info.network, photographs.to(here), batch, calibration)
    found.save(out)
    ours = sum(layer.backend in OURS for layer in found.layers)
    say(f"{info.network}, batch {batch}: {ours} of {len(found.layers)} convolutions are ours")


def _layer(step: Conv, device: torch.device) -> Layer:
    weight, bias = folded(step.conv, step.after)
    return Layer(
        name=step.name,
        weight=weight.to(device),
        bias=None if bias is None else bias.to(device),
        stride=step.conv.stride[0],
        prologue=step.before is not None,
        residual=step.residual is not None,
        relu=step.relu,
    )


def _decided(made: Mapping, plans: Mapping[str, Plan], rows: Sequence[Measurement], dense: str) -> LayerPlan:
    """The fastest of the plans where it is as fast as torch's own, which stands where nothing of ours was right."""
    times = {row.arm: row.value for row in rows if row.value is not None}
    torch_s = times.get(dense)
    ours = {name: seconds for name, seconds in times.items() if name in plans}
    name = min(ours, key=ours.__getitem__, default=None)
    if name is None:
        why = next((f"{row.status}: {row.reason}" for row in rows if row.arm in plans), "nothing was timed")
        return LayerPlan(**made, backend=dense, seconds=torch_s, dense_seconds=torch_s, reason=why)
    if torch_s is not None and torch_s < ours[name]:
        why = f"the best of ours takes {ours[name] / torch_s:.2f} times as long"
        return LayerPlan(**made, backend=dense, seconds=torch_s, dense_seconds=torch_s, reason=why)
    why = f"{dense} has no time" if torch_s is None else f"{torch_s / ours[name]:.2f} times as fast as {dense}"
    plan = plans[name]
    launch = {} if plan.launch is None else {"variant": plan.launch.variant.name, "splits": plan.launch.splits}
    return LayerPlan(
        **made, **launch, backend=plan.backend, seconds=ours[name], dense_seconds=torch_s, reason=why
    )  # fmt: skip


def _ours(layer: Layer, plan: Plan, kernels: KernelStore | None) -> Callable[[Inputs], Prepared]:
    def prepare(inputs: Inputs) -> Prepared:
        x, shape = inputs["x"], plan.shape
        out = torch.empty((shape.B, shape.N, shape.H_out, shape.W_out), dtype=torch.float32, device=x.device)
        fused = Fused(inputs.get("scale"), inputs.get("shift"), layer.prologue, inputs.get("residual"), layer.relu)
        launch = bind(plan, x, pack_weights(inputs["w"]), inputs.get("bias"), out, fused=fused, kernels=kernels)

        @torch.inference_mode()
        def run() -> None:
            launch()

        return Prepared(run=run, outputs=(out,))

    return prepare


def _by_torch(layer: Layer) -> Callable[[Inputs], Prepared]:
    def prepare(inputs: Inputs) -> Prepared:
        x, w, bias, residual = (inputs.get(name) for name in ("x", "w", "bias", "residual"))

        @torch.inference_mode()
        def run() -> Tensor:
            given = x
            if layer.prologue:
                scale, shift = (inputs[name][:, None, None] for name in ("scale", "shift"))
                given = torch.addcmul(shift, x, scale).relu_()
            y = functional.conv2d(given, w, bias, layer.stride, layer.pad)
            if residual is not None:
                y += residual
            return y.relu_() if layer.relu else y

        return Prepared(run=run)

    return prepare


def _given(layer: Layer, x: Tensor) -> dict[str, Tensor]:
    """What a launch reads. x is what the norm and ReLU before the convolution left, so that norm scales by one here."""
    given = {"x": x, "w": layer.weight}
    if layer.bias is not None:
        given["bias"] = layer.bias
    if layer.prologue:
        given |= {"scale": x.new_ones(x.shape[1]), "shift": x.new_zeros(x.shape[1])}
    if layer.residual:
        shape = layer.shape(x)
        given["residual"] = x.new_ones((shape.B, shape.N, shape.H_out, shape.W_out))
    return given


def _reference(layer: Layer, inputs: Inputs) -> Reference:
    """In float64, and on absolute values for the a-priori bound, which a ReLU does not widen."""
    x, w = inputs["x"].double(), inputs["w"].double()
    bias = inputs["bias"].double() if layer.bias is not None else None
    residual = inputs["residual"].double() if layer.residual else 0.0
    options = {"stride": layer.stride, "padding": layer.pad}
    y = functional.conv2d(x, w, bias, **options) + residual
    s = functional.conv2d(x.abs(), w.abs(), None if bias is None else bias.abs(), **options) + residual
    return Reference(y=y.relu() if layer.relu else y, s=s, terms=w[0].numel() + 2)


def _sparsity(x: Tensor) -> float:
    return (x == 0).double().mean().item()
