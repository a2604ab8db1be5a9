"""Whole networks in exact float32 on our kernels: `Network`, and `GraphRunner` for one that is captured once.

    network = Network.build("densenet169", device="cuda")
    logits = network(images)                 # [B, 3, 224, 224] float32 -> [B, 1000]
    runner = network.capture(batch=1)        # one CUDA graph
    logits = runner(image)                   # static: the next call overwrites it

A forward pass has one launch for each convolution (frugal.cusnn.network_steps says which norms, sums and ReLUs it
takes in); the stem, poolings and the classifier are torch's. On a machine without a GPU the CPU twin computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from frugal.cusnn.errors import UnsupportedInput
from frugal.cusnn.executor import Choice, Kernels, Operands, Program, bind, choose, operands
from frugal.cusnn.kernel_store import store_of
from frugal.cusnn.network_steps import Conv, Step, steps
from frugal.cusnn.network_weights import weighted
from frugal.cusnn.plans import NetworkPlan, check_policy
from frugal.errors import FrugalError
from frugal.models import build as build_model
from frugal.timing.flags import flags

SIDE = 224
WARM_UP = 3  # passes before a capture: torch's guide to CUDA graphs; cuDNN tries its algorithms in the first


class NetworkError(FrugalError, ValueError):
    """A network that cannot be built so."""


class Network:
    """A network of frugal.models in evaluation mode, bound to our kernels.

    `name`, `definition`, `origin`: which network, and where its weights come from; `device`: where it computes;
    `batch`: the images of one call of `capture` and `choices` unless said otherwise. Weights are folded and packed
    once, when a convolution is first bound.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: torch.device | str = "cpu",
        kernels: Kernels | None = None,
        policy: str = "auto",
        planned: NetworkPlan | None = None,
        deterministic: bool = True,
        fused: bool = True,
        batch: int = 1,
        name: str = "",
        definition: str = "",
        origin: str = "",
    ) -> None:
        """model: of frugal.models, in evaluation mode, float32. The other arguments are `build`'s; fused False makes
        norms, bias, residual sums and ReLUs operations of their own, for comparison. Raises NetworkError, ValueError.
        """
        check_policy(policy)
        if model.training:
            raise NetworkError("the network is in training mode: call model.eval() first, its batch norms are folded")
        self.device = torch.device(device)
        self.model, self.policy, self.planned = model, policy, planned
        self.deterministic, self.fused, self.batch = deterministic, fused, batch
        self.name, self.definition, self.origin = name, definition, origin
        self.kernels = (kernels or store_of(self.device)) if self.device.type == "cuda" else None
        self._operands: dict[tuple[str, bool], Operands] = {}
        self._programs: dict[tuple[int, ...], tuple[Tensor, Program]] = {}

    @classmethod
    def build(
        cls,
        name: str,
        definition: str = "torchvision_v1.5",
        weights: str | Path | Mapping[str, Tensor] = "auto",
        *,
        batch: int = 1,
        device: torch.device | str = "cpu",
        policy: str = "auto",
        planned: NetworkPlan | None = None,
        deterministic: bool = True,
        kernels: Kernels | None = None,
    ) -> Network:
        """A network by its name, with weights as `frugal.cusnn.network_weights.weighted` finds them.

        policy: `auto` takes what a calibration has `planned` for a convolution, else our skipping kernels; `always`
        these everywhere, `never` the dense twins. deterministic: whether two passes agree bit for bit. kernels: built
        ones of the GPU; None: those of the user's cache, built where they are missing. Raises UnknownNetwork,
        WeightsError and ValueError.
        """
        check_policy(policy)
        with torch.device("meta"):
            build_model(name, definition)  # a wrong name is told before weights are looked for
        model, origin = weighted(name, definition, weights)
        return cls(
            model, device=device, kernels=kernels, policy=policy, planned=planned, deterministic=deterministic,
            batch=batch, name=name, definition=definition, origin=origin,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of images x [B, 3, H, W] float32, a tensor of its own. Raises UnsupportedInput."""
        return self._run(x).logits.clone()

    __call__ = forward

    def features(self, x: Tensor) -> Tensor:
        """The last feature map, after its ReLU: [B, C, H/32, W/32] of images x [B, 3, H, W] float32."""
        return self._run(x).features.clone()

    def choices(self, batch: int | None = None, side: int = SIDE) -> dict[str, Choice]:
        """{convolution: what computes it} for so many images of side × side pixels."""
        return self._chosen(steps(self.model, side, side), batch or self.batch)

    @property
    def workspace_bytes(self) -> int:
        """Bytes of the workspace that all launches share; 0 on a CPU."""
        return 0 if self.kernels is None else self.kernels.workspace.nbytes

    def bind(self, x: Tensor) -> Program:
        """A pass over the images in x [B, 3, H, W] float32, read anew by each run; its buffers are its own."""
        self._check(x)
        passes = steps(self.model, *x.shape[2:])
        return bind(passes, x, self._chosen(passes, len(x)), self._numbers, self.kernels, fused=self.fused)

    def capture(self, batch: int | None = None, side: int = SIDE) -> GraphRunner:
        """The pass for so many images of side × side pixels as one CUDA graph (on a CPU: as it is)."""
        x = torch.zeros((batch or self.batch, 3, side, side), device=self.device)
        with _exact():
            return GraphRunner(x, self.bind(x))

    def _chosen(self, passes: Sequence[Step], batch: int) -> dict[str, Choice]:
        return choose(
            passes, batch, self.device, policy=self.policy, planned=self.planned, deterministic=self.deterministic
        )

    def _run(self, x: Tensor) -> Program:
        self._check(x)
        key = (len(x), *x.shape[2:])
        with _exact():
            if key not in self._programs:
                own = torch.empty_like(x)
                self._programs[key] = own, self.bind(own)
            own, program = self._programs[key]
            own.copy_(x)
            program.run()
        return program

    def _check(self, x: Tensor) -> None:
        shape = tuple(x.shape)
        if x.dtype != torch.float32 or x.dim() != 4 or shape[1] != 3 or shape[0] == 0:
            raise UnsupportedInput(f"images are {x.dtype} {shape}: float32 [B, 3, H, W] is needed; call .float()")
        if x.device.type != self.device.type:
            raise UnsupportedInput(f"images are on {x.device}: this network is on {self.device}; move them there")
        if not x.is_contiguous():
            raise UnsupportedInput(f"images have strides {x.stride()}: dense NCHW is needed; call .contiguous()")

    def _numbers(self, step: Conv, packed: bool) -> Operands:
        """Kept for all batch sizes; both of our backends share a packing."""
        key = step.name, packed
        if key not in self._operands:
            self._operands[key] = operands(step, packed, self.device)
        return self._operands[key]


class GraphRunner:
    """A pass that is captured once and replayed: `runner(x)` copies x in and returns the static logits.

    `x` and `logits` stay where they are; a replay allocates nothing and waits for nothing.
    """

    def __init__(self, x: Tensor, program: Program) -> None:
        self.x, self.program, self.logits = x, program, program.logits
        self._replay = _captured(program) if x.is_cuda else program.run

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of x [B, 3, H, W] float32, overwritten by the next call. Raises UnsupportedInput."""
        if x.shape != self.x.shape or x.dtype != self.x.dtype:
            raise UnsupportedInput(
                f"images are {x.dtype} {tuple(x.shape)}: this graph was captured for {self.x.dtype} "
                f"{tuple(self.x.shape)}; capture another"
            )
        self.x.copy_(x)
        self._replay()
        return self.logits


def _captured(program: Program) -> Callable[[], object]:
    """The replay of a CUDA graph that holds one pass."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            program.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        program.run()
    return graph.replay


def _exact():
    """Full float32 also in what torch computes, which by default rounds a convolution's operands to TF32."""
    return flags(tf32=False)
