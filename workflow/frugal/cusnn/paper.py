"""The paper's own scheme as arms of a layer, so that its claims can be judged on this machine: on a GPU alone.

`paper_scheme`: two clears, then the kernels that make the lists and multiply them, with the tiles that the paper gives
for a V100. `paper_dispatch`: what its networks do at each such layer of each image besides. A kernel applies the ReLU
and counts the zeros, the host waits for the count, and only then it is chosen between the scheme and a dense
convolution. This wait cannot stand in a CUDA graph, so the regimes in graphs are not offered.

Both work on channels-last tensors; the input is brought into this layout, and the weights are packed, outside the timed
part, as for the baselines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from frugal.cusnn.offered import OURS as OFFERED
from frugal.cusnn.ours import Kernels
from frugal.provenance import source_hash
from frugal.timing import Arm, Inputs, Prepared, Unsupported
from frugal.timing.flags import flags
from kernels.sparse import ConvShape, UnsupportedShape, pack_weights, paper, paper_scheme

SCHEME, DISPATCH = "paper_scheme", "paper_dispatch"
TUNED_FOR = "v100"  # the GPU for which the paper states its claims


def arm(name: str, shape: ConvShape, kernels: Kernels, *, sparsity: float, bytes_min: float) -> Arm:
    """`paper_scheme` or `paper_dispatch` for a layer; a layer that the paper's scheme has not is `unsupported`.

    sparsity: the share of zeros in the input, by which the scheme has less FLOP; bytes_min: input, weights and output
    once.
    """
    common = {
        "name": name,
        "role": "paper_emulation",
        "tf32": False,
        "layout": "nhwc",
        "compiled": True,
        "regimes": OFFERED["cuda"][name],
        "bytes_min": bytes_min,
        "source_hash": source_hash("frugal.cusnn.paper", "kernels.launch", "kernels.sparse"),
    }
    try:
        scheme = paper_scheme.scheme(shape, TUNED_FOR)
    except UnsupportedShape as problem:
        return Arm(prepare=_refuse(str(problem)), **common)
    dispatches = name == DISPATCH
    skips = not dispatches or sparsity >= scheme.threshold
    report = kernels.reports.get(scheme.conv.name)
    return Arm(
        prepare=_prepare_dispatch(scheme, kernels) if dispatches else _prepare_scheme(scheme, kernels),
        context=lambda: flags(tf32=False),
        flop=2.0 * shape.macs * (1 - sparsity if skips else 1),
        binary_hash=_binary_hash(kernels, scheme, dispatches),
        registers=report.registers if report else None,
        spill_bytes=report.local_bytes if report else None,
        shared_bytes=report.shared_bytes if report else None,
        settings={
            "variant": scheme.conv.name,
            "splits": scheme.groups,
            "backend": SCHEME if skips else "cudnn_fp32",
            "tile": f"{scheme.conv.th}x{scheme.conv.tw}x{scheme.group}",
            "tuned_for": TUNED_FOR,
            **({"threshold": scheme.threshold} if dispatches else {}),
        },
        **common,
    )


@dataclass(frozen=True)
class _Layer:
    """The scheme with its buffers. x: [H, W, C]; y: [H, W, N]; `run()` enqueues all of it."""

    x: Tensor
    y: Tensor
    run: Callable[[], None]
    keep: tuple

    @property
    def image(self) -> Tensor:
        """y as [1, N, H, W], the same memory."""
        return self.y.permute(2, 0, 1)[None]


def _bind(scheme: paper_scheme.Scheme, kernels: Kernels, inputs: Inputs) -> _Layer:
    shape, given = scheme.shape, inputs["x"]
    x = given[0].permute(1, 2, 0).clone(memory_format=torch.contiguous_format)  # its own: a ReLU may be applied to it
    y = torch.empty((shape.H, shape.W, shape.N), dtype=torch.float32, device=given.device)
    w, lists = pack_weights(inputs["w"]), paper_scheme.Lists(scheme, given.device)
    transform = kernels.kernel(scheme.transform.name).bind(
        scheme.transform_grid, scheme.transform_block, paper_scheme.transform_arguments(scheme, x, lists)
    )
    conv = kernels.kernel(scheme.conv.name).bind(
        scheme.conv_grid, scheme.conv_block, paper_scheme.conv_arguments(scheme, lists, w, y)
    )
    return _Layer(x, y, lambda: paper_scheme.run(lists, y, transform, conv), (x, w, lists))


def _prepare_scheme(scheme: paper_scheme.Scheme, kernels: Kernels) -> Callable[[Inputs], Prepared]:
    def prepare(inputs: Inputs) -> Prepared:
        layer = _bind(scheme, kernels, inputs)
        return Prepared(run=layer.run, outputs=(layer.image,), keep=layer.keep)

    return prepare


def _prepare_dispatch(scheme: paper_scheme.Scheme, kernels: Kernels) -> Callable[[Inputs], Prepared]:
    def prepare(inputs: Inputs) -> Prepared:
        if (inputs["x"] < 0).any():
            raise Unsupported(f"{DISPATCH} applies a ReLU to its input, and this input has negative values")
        layer = _bind(scheme, kernels, inputs)
        activations = layer.x.numel()
        zeros = torch.zeros(1, dtype=torch.int32, device=layer.x.device)
        count = kernels.kernel(paper.Count.name).bind(
            paper_scheme.count_grid(activations), paper.Count.threads, [layer.x.view(-1), zeros, activations]
        )
        x, image = layer.x.permute(2, 0, 1)[None], layer.image
        w = inputs["w"].contiguous(memory_format=torch.channels_last)
        least = scheme.threshold * activations

        @torch.inference_mode()
        def run() -> Tensor:
            zeros.zero_()
            count()
            if zeros.item() >= least:  # the host waits here, at every layer
                layer.run()
                return image
            return functional.conv2d(x, w, padding=1)

        return Prepared(run=run, outputs=(image,), keep=(*layer.keep, zeros, w))

    return prepare


def _refuse(reason: str) -> Callable[[Inputs], Prepared]:
    def prepare(inputs: Inputs) -> Prepared:
        raise Unsupported(reason)

    return prepare


def _binary_hash(kernels: Kernels, scheme: paper_scheme.Scheme, dispatches: bool) -> str | None:
    """One hash over the cubins that run; None where one was not built."""
    names = [scheme.transform.name, scheme.conv.name, *([paper.Count.name] if dispatches else [])]
    if any(name not in kernels.reports for name in names):
        return None
    return hashlib.sha256(" ".join(kernels.reports[name].cubin_sha256 for name in names).encode()).hexdigest()
