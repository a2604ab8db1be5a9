"""What computes a convolution: our skipping kernel, its dense twin, or torch's own in exact float32.

`plan` decides for one shape, from the kernels' measured table and model. `NetworkPlan` holds the decisions for a whole
network as they were measured on one machine (frugal.cusnn.calibrate), and is a file that can be read and shared: it is
refused on another kind of machine and with other kernels, whose times it does not know.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from frugal.cusnn.kernel_store import sm_count
from frugal.errors import FrugalError
from frugal.files import publishing
from frugal.provenance import source_hash
from kernels import sparse
from kernels.sparse import ConvShape, Fused, UnsupportedShape, pointwise
from kernels.sparse.planning import cut
from kernels.sparse.predict import H200, predict

SCHEMA_VERSION = 1
SPARSE, DENSE_TWIN = "sparse", "dense_twin"
DENSE = {"cuda": "cudnn_fp32", "cpu": "onednn_fp32"}  # torch's own, by kind of device
OURS = (SPARSE, DENSE_TWIN)
POLICIES = ("auto", "always", "never")
CANDIDATES_MAX = 11  # with torch's own they are as many arms as a case may have
CPU_TWIN = "cpu"  # stands for a variant's name where kernels.sparse.cpu computes


class PlanError(FrugalError, ValueError):
    """A plan file that is damaged, or was made for another machine, network or set of kernels."""


@dataclass(frozen=True)
class Plan:
    """How one convolution is computed.

    backend: `sparse` (skips zeros), `dense_twin` (the same kernel without the test), or torch's own in float32:
    `cudnn_fp32` on a GPU, `onednn_fp32` on a CPU. launch: the kernel and its launch; None on a CPU and for torch's own.
    """

    shape: ConvShape
    backend: str
    launch: sparse.Plan | None = None

    @property
    def skips(self) -> bool:
        """Whether zeros are skipped."""
        return self.backend == SPARSE

    @property
    def device_type(self) -> str:
        """The kind of device that it is for: `cuda` or `cpu`."""
        return "cuda" if self.launch is not None or self.backend == DENSE["cuda"] else "cpu"


def plan(
    shape: ConvShape,
    *,
    device: torch.device | str,
    batch: int | None = None,
    sparsity: float | None = None,
    policy: str = "auto",
    deterministic: bool = True,
    fused: Fused = Fused(),  # noqa: B008 - frozen
) -> Plan:
    """The plan for a shape on a device, without measuring anything.

    batch: instead of shape.B. sparsity: the expected share of zeros, 0 to 1; with it, `auto` takes the twin where the
    model calls it faster, without it the skipping kernel. policy: `auto`, `always` (skip) or `never` (the twin).
    deterministic: False also allows kernels whose sums change in their last digits from run to run. fused: what the
    launch shall do besides; its sizes are checked. Times measured here are `frugal.cusnn.sparsify`'s and the rule
    `cusnn_plan`'s. Raises UnsupportedShape, and ValueError for a policy or sparsity that there is not.
    """
    check_policy(policy)
    if sparsity is not None and not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity = {sparsity}: a share of zeros from 0 to 1 is needed")
    shape = shape if batch is None else replace(shape, B=batch)
    check_shape(shape)
    check_fused(shape, fused)
    device = torch.device(device)
    if device.type == "cpu":
        return Plan(shape, DENSE_TWIN if policy == "never" else SPARSE)
    kernels, sms = _variants(device, deterministic), sm_count(device)
    twin, skipping = (_planned(shape, sms, skip, kernels) for skip in (False, True))
    if policy == "never" or skipping is None:
        if twin is None:
            raise UnsupportedShape(f"no kernel is built for {shape}: leave this layer to cuDNN.")
        return Plan(shape, DENSE_TWIN, twin)
    pays = sparsity is None or twin is None or _seconds(skipping, sparsity) <= _seconds(twin, sparsity)
    return Plan(shape, SPARSE, skipping) if policy == "always" or pays else Plan(shape, DENSE_TWIN, twin)


def candidates(
    shape: ConvShape,
    device: torch.device,
    *,
    sparsity: float,
    deterministic: bool = True,
    more: Sequence[str] = (),
) -> list[Plan]:
    """What may be fastest for a shape at this share of zeros: of each kernel that fits, its best launch by prediction.

    At most `CANDIDATES_MAX` of them, again by prediction. more: names of kernels beside the default ones. Raises
    UnsupportedShape where there is none.
    """
    check_shape(shape)
    if device.type == "cpu":
        return [Plan(shape, SPARSE), Plan(shape, DENSE_TWIN)]
    kernels, sms = _variants(device, deterministic, more), sm_count(device)
    found = []
    for backend, skip in ((SPARSE, True), (DENSE_TWIN, False)):
        fitting = [variant for variant in kernels if variant.skip == skip]
        launches = [_planned(shape, sms, skip, [variant]) for variant in fitting]
        found += [Plan(shape, backend, launch) for launch in launches if launch is not None]
    if not found:
        raise UnsupportedShape(f"no kernel is built for {shape}: leave this layer to cuDNN.")
    if len(found) > CANDIDATES_MAX:
        found.sort(key=lambda plan: _seconds(plan.launch, sparsity))
    return found[:CANDIDATES_MAX]


def check_policy(policy: str) -> None:
    """Raises ValueError for a policy that there is not."""
    if policy not in POLICIES:
        raise ValueError(f"policy = {policy!r}: {', '.join(POLICIES)} are allowed; take auto unless you compare")


def check_shape(shape: ConvShape) -> None:
    """Raises UnsupportedShape, naming field, value and what is allowed, for what no kernel here computes."""
    for field, allowed in (("k", (1, 3)), ("stride", (1, 2)), ("pad", (shape.k // 2,))):
        if getattr(shape, field) not in allowed:
            raise UnsupportedShape(
                f"{field} = {getattr(shape, field)}: {' or '.join(map(str, allowed))} is allowed"
                f"{f' with k = {shape.k}' if field == 'pad' else ''}; leave this layer to torch."
            )


def check_fused(shape: ConvShape, fused: Fused) -> None:
    """Raises UnsupportedShape for a tensor of another size than the shape asks for."""
    sizes = {
        "pre_scale": (shape.C,),
        "pre_shift": (shape.C,),
        "residual": (shape.B, shape.N, shape.H_out, shape.W_out),
    }
    for name, wanted in sizes.items():
        tensor = getattr(fused, name)
        if tensor is not None and tuple(tensor.shape) != wanted:
            raise UnsupportedShape(f"fused.{name} has shape {tuple(tensor.shape)}: {wanted} is needed for {shape}.")


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """The decision for one layer, and what it rests on.

    seconds, dense_seconds: medians of one run of the choice, and of torch's own in float32; None where nothing was
    timed. sparsity: the share of zeros in the layer's input. reason: why this backend.
    """

    layer: str
    shape: ConvShape
    backend: str
    variant: str | None = None
    splits: int | None = None
    sparsity: float | None = None
    seconds: float | None = None
    dense_seconds: float | None = None
    reason: str

    @property
    def plan(self) -> Plan:
        """The plan that was decided for."""
        if self.variant is None or self.splits is None:
            return Plan(self.shape, self.backend)
        return Plan(self.shape, self.backend, cut(sparse.parse(self.variant), self.shape, self.splits))


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """The decisions for a network's convolutions at one batch size, measured on one machine.

    kernels: variant → hash of its code; on a CPU the one entry `cpu`. images: how many the decisions were measured on.
    """

    network: str
    batch: int
    device_key: str
    kernels: dict[str, str]
    images: int
    layers: tuple[LayerPlan, ...]
    schema_version: int = SCHEMA_VERSION

    def __str__(self) -> str:
        """A table for people: a line a layer."""
        head = ("layer", "shape", "zeros", "choice", "time", "torch", "why")
        table = [head, *(_cells(layer) for layer in self.layers)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([f"{self.network}, batch {self.batch}, on {self.device_key}", *lines])

    def of(self, layer: str) -> LayerPlan | None:
        """The decision for a layer, by the name of its convolution; None where there is none."""
        return next((found for found in self.layers if found.layer == layer), None)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, beside and renamed."""
        with publishing(path) as file:
            file.write((json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode())


def load_plan(
    path: str | Path, *, device_key: str, hash_of: Callable[[str], str], network: str | None = None
) -> NetworkPlan:
    """Read a plan file for this machine.

    device_key: this machine's (frugal.provenance.device_key). hash_of: the hash of a variant's code as it is here
    (`kernel_hash`). network: whose plan it must be; None: any. Raises PlanError for a file that is damaged, and for a
    plan of another machine, network or code.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
        if given["schema_version"] != SCHEMA_VERSION:
            raise PlanError(
                f"{path} has schema version {given['schema_version']}, this frugal reads {SCHEMA_VERSION}: calibrate "
                "again"
            )
        layers = tuple(LayerPlan(**layer | {"shape": ConvShape(**layer["shape"])}) for layer in given["layers"])
        found = NetworkPlan(**given | {"layers": layers})
    except FileNotFoundError:
        raise PlanError(f"there is no plan {path}: calibrate first") from None
    except PlanError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise PlanError(f"{path} is no plan of a network: delete it and calibrate again") from None
    if found.device_key != device_key:
        raise PlanError(
            f"{path} was measured on {found.device_key}, this machine is {device_key}: its choices do not hold here, "
            "calibrate again"
        )
    if network is not None and found.network != network:
        raise PlanError(f"{path} is for {found.network}, not for {network}: give that network's plan, or calibrate it")
    for variant, known in found.kernels.items():
        if hash_of(variant) != known:
            raise PlanError(
                f"{path} was measured with another build of kernel {variant}: its times do not hold, calibrate again"
            )
    return found


def kernel_hash(kernels, variant: str) -> str:
    """The hash of a variant's code: its cubin's in `kernels` (a KernelStore, or what has its `kernel`); for `cpu` the
    source's."""
    return source_hash("kernels.sparse.cpu") if variant == CPU_TWIN else kernels.kernel(variant).report.cubin_sha256


def _planned(shape: ConvShape, sms: int, skip: bool, variants: Sequence[sparse.Variant]) -> sparse.Plan | None:
    """The launch of these kernels that the measured table or the model prefers; None where no kernel fits."""
    try:
        return sparse.plan(shape, sms, skip=skip, variants=variants)
    except UnsupportedShape:
        return None


def _variants(device: torch.device, deterministic: bool, more: Sequence[str] = ()) -> list[sparse.Variant]:
    """The kernels to choose among; those that add up in no fixed order only where that is allowed."""
    given = dict.fromkeys([*sparse.variants(), *map(sparse.parse, more)])
    return [variant for variant in given if not deterministic or variant.reduce != "atomic"]


def _seconds(launch: sparse.Plan, sparsity: float) -> float:
    if launch.variant.rung == "pointwise":
        return pointwise.clocks(launch, H200.sm_count) / H200.clock_hz
    return predict(launch, launch.shape, sparsity).seconds


def _cells(layer: LayerPlan) -> tuple[str, ...]:
    shape = layer.shape
    size = f"{shape.C},{shape.H}x{shape.W}->{shape.N} {shape.k}x{shape.k}/{shape.stride}"
    kernel = f" {layer.variant} /{layer.splits}" if layer.variant else ""
    seconds = ["" if value is None else f"{value * 1e6:.2f} us" for value in (layer.seconds, layer.dense_seconds)]
    zeros = "" if layer.sparsity is None else f"{layer.sparsity:.0%}"
    return layer.layer, size, zeros, layer.backend + kernel, *seconds, layer.reason
