"""What SFT's campaign measures: its experiments, their cases (axes) and arms, as the rows name them.

Axes of every case but those of `kernels`: network, width_divisor, batch, h, w, precision (fp32, tf32, bf16; fp64 in
`exactness`), channels_last, input (`device`, or `host`: the image comes from main memory within the step), norms
(`none`, `frozen`, `train`). The columns n, c, h, w and network repeat them. An arm is `<method>` or
`<method>@<key>=<value>,…` with the methods of frugal.sft.methods; arm_json holds its settings, and of a planned arm its
plan's `segments` (their number), `kinds`, `peak_predicted`, `macs_predicted`, `time_predicted`, `host_bytes`. Roles:
`ours` (planned, tiled, tiles, strips, tiled_1seg), `paper_emulation` (sft_artifact), `baseline` (all others).

| experiment | its cases | axes beside those | arms | metrics (unit) |
|---|---|---|---|---|
| sizes | timed sessions | | vanilla, checkpoint@segments=5, checkpoint_blocks, save_on_cpu, compile, activation_budget@budget=0.5, sft_artifact@tiles=4, tiled_1seg@tiles=4, tiled, strips and planned, each @budget_mib=… | time (s) of a step, regime wall |
| pareto | timed sessions; memory as `memory` | | planned@budget_mib=… (up to eight), and the others of sizes | time (s); and the metrics of memory |
| tile_rate | timed sessions | | vanilla, tiled_1seg@tiles=… (tile side = h ÷ tiles); on a GPU also …,graphs=1, …,stack=8,graphs=0 (1) and …,backend=kernel | time (s) |
| streaming | timed sessions | pixels (uint8, float32) | planned@budget_mib=…,prefetch=1 (2, 4), and as its baseline planned@budget_mib=…,image=device, which copies nothing | time (s) |
| memory | on a GPU a process a step; on a CPU tensors are counted on the meta device | | those of sizes | peak_live (B), macs (1); on a GPU also peak_allocated, peak_reserved, workspace (B), time_forward, time_backward (s) |
| largest | bisection | cap_gib, device (cuda, or meta: bytes of live tensors are counted); no h and w | vanilla, checkpoint@segments=5, sft_artifact@tiles=32, planned, planned@host_mib=… | size_max (1): h of the largest square image, a multiple of the step; its column reason says where the search's own limit fitted |
| macs | closed forms and plans; no device | | vanilla, sft_artifact@tiles=…, tiled_1seg@tiles=…, strips, planned@budget_mib=… | macs (1) of a step, macs_ratio (1): ÷ vanilla's |
| prediction | plans under random budgets | plan (its number) | planned@budget_mib=… | peak_predicted, peak_total, on a GPU peak_allocated (B), fits (1): 1 where it stayed within the budget; on a GPU time_predicted, time_step (s) |
| exactness | one step against float64 | | vanilla, tiles@windows=…, strips@windows=… | error (1): the greatest of max|a − b| ÷ max|b| over output, image gradient and gradients of parameters; arm_json names the `worst` |
| training | twenty steps | step (from 0) | vanilla, planned@budget_mib=… | loss (1) |
| kernels | timed sessions | stem (vgg16, darknet19), precision (fp32, or reduced: the arms in TF32 and 16 bits, with cudnn_fp32), batch, h, w; no other axis | v1_naive, v2_tile, v3_pair, v4_pair_reg, v5_pair_mma_tf32, v5_pair_mma_bf16, their dense twins v3_pair_twin, v4_pair_reg_twin, v5_pair_mma_tf32_twin, v5_pair_mma_bf16_twin; on a CPU cpu_pair and cpu_twin; cudnn_fp32, cudnn_tf32, cudnn_fp16_cl, cudnn_bf16_cl, torch_compile_fp32, torch_compile_tf32, torch_compile_bf16; onednn_fp32 | time (s), regime graph (on a CPU wall); flop, bytes_min; arm_json: `extra_bytes` between the layers |

peak_live is beside base_bytes (parameters, the optimiser's state, the image); peak_total holds them, as budgets do.
Every attempted case leaves rows: one that does not fit has the status `oom`, one that a method does not support
`unsupported`, with the reason, and no value.
"""  # noqa: E501 - a table's rows are lines

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from frugal.data.mosaic import mosaic
from frugal.memory import LiveBytes
from frugal.sft import methods
from frugal.sft.counts import vanilla_macs
from frugal.sft.dryrun import on_meta
from frugal.sft.errors import BudgetError, SftError
from frugal.sft.host import HostImage
from frugal.sft.methods import Forward, Setup, Step
from frugal.sft.offered import MIB, Method, Subject
from frugal.sft.planner import plan
from frugal.sft.plans import Plan
from frugal.timing.arms import Unsupported

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DATASET = "mosaic of photographs"


class DoesNotFit(SftError, MemoryError):
    """A budget that no plan fits, as what it is for a campaign: too little memory."""


class Training:
    """One subject on one device: its network, images and targets, from which every arm starts.

    folder: where the images lie, or are written on first use. device: a kind, `cpu`, `cuda` or `meta`.
    """

    def __init__(self, subject: Subject, folder: str, device: str, seed: int) -> None:
        self.subject, self.folder, self.device, self.seed = subject, folder, device, seed
        self.setup = Setup("fp32" if subject.precision == "fp64" else subject.precision, subject.channels_last)
        self._image: tuple[int, Tensor] | None = None

    def network(self) -> nn.Module:
        """A new copy of the network, float32, in training mode, with the same weights each time."""
        return methods.network(
            self.subject.network,
            self.device,
            self.setup,
            width_divisor=self.subject.width_divisor,
            frozen_norms=self.subject.norms == "frozen",
            seed=self.seed,
        )

    @cached_property
    def on_meta(self) -> nn.Module:
        """The network without numbers."""
        return on_meta(self.network())

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-adds of an untiled step, by purpose."""
        return vanilla_macs(self.on_meta, self.subject.image_shape)

    @cached_property
    def target(self) -> Tensor:
        """What the network's output should be."""
        return methods.target_of(self.network(), self.subject.image_shape, self.seed)

    def pixels(self, turn: int) -> np.ndarray:
        """The images as they lie in main memory: uint8 [N, H, W, 3], for one image a view of the memory map.

        turn: 0 as it is, 1 mirrored, 2 upside down, 3 both.
        """
        batch, _, height, width = self.subject.image_shape
        whole = mosaic(height, width * batch, self.folder)
        rows, columns = (slice(None, None, -1 if turn & bit else 1) for bit in (2, 1))
        each = [whole[:, i * width : (i + 1) * width][rows, columns] for i in range(batch)]
        return each[0][None] if batch == 1 else np.stack(each)

    def image(self, turn: int) -> Tensor:
        """The images on the device, normalised: float32 [N, 3, H, W]. The last one that was asked for is kept."""
        if self._image is None or self._image[0] != turn:
            self._image = None
            on_meta = self.device == "meta"
            if on_meta:
                x = torch.empty(self.subject.image_shape, device="meta").to(memory_format=self.setup.memory_format)
            else:
                x = methods.uploaded(self.pixels(turn), self.device, self.setup, MEAN, STD)()
            self._image = turn, x
        return self._image[1]

    def given(self, turn: int, method: Method) -> Callable[[], Tensor | HostImage]:
        """What a step of an arm begins with: the image on the device, or what brings it there."""
        if self._on_device(method):
            x = self.image(turn)
            return lambda: x
        array, ahead = self.pixels(turn), int(method.settings.get("prefetch", 2))
        if dict(self.subject.more).get("pixels") == "float32":
            array = array.astype(np.float32) / 255
        return methods.from_host(method.name, array, self.device, self.setup, MEAN, STD, ahead)

    def _on_device(self, method: Method) -> bool:
        return self.subject.input == "device" or method.settings.get("image") == "device"

    def forward(self, model: nn.Module, method: Method) -> Forward:
        """A method's forward pass. Raises DoesNotFit and, for what it does not support, Unsupported."""
        settings = dict(method.settings)
        for own in ("image", "prefetch"):
            settings.pop(own, None)
        if "budget_mib" in settings:
            settings["budget_bytes"] = int(settings.pop("budget_mib")) * MIB
            settings["host_budget_bytes"] = int(settings.pop("host_mib", 0)) * MIB
            settings["resident_bytes"] = self.momentum_bytes
            settings["input"] = "device" if self._on_device(method) else "host"
        try:
            return methods.forward_of(method.name, model, self.subject.image_shape, self.setup, **settings)
        except BudgetError as problem:
            raise DoesNotFit(str(problem)) from None
        except SftError as problem:
            raise Unsupported(str(problem)) from None

    def step(
        self, model: nn.Module, forward: Forward, turn: int, method: Method, optimiser: torch.optim.Optimizer
    ) -> Step:
        """A step of an arm on the images of a turn."""
        return methods.step(model, forward, self.given(turn, method), self.target, self.setup, optimiser)

    def float64(self, turn: int) -> list[Tensor]:
        """The right loss and the right gradients of the parameters, from the untiled network in float64."""
        model = copy.deepcopy(self.network()).double()
        loss = nn.functional.mse_loss(model(self.image(turn).double()), self.target.double())
        return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

    def least_budget(self) -> int:
        """The smallest budget that a plan works under, in bytes."""
        try:
            self.planned(1)
        except BudgetError as problem:
            return problem.smallest_bytes
        raise AssertionError("a plan under one byte")

    def planned(self, budget_bytes: int, **more: object) -> Plan:
        """The plan of the method `planned`, for a network that needs no memory; nothing is run for it."""
        return plan(
            self.on_meta,
            self.subject.image_shape,
            budget_bytes,
            autocast=self.setup.autocast,
            channels_last=self.setup.channels_last,
            device="cuda" if self.device == "cuda" else None,
            calibrate=False,
            resident_bytes=self.momentum_bytes,
            **more,
        )

    @property
    def momentum_bytes(self) -> int:
        """What SGD keeps beside the parameters."""
        return sum(p.nbytes for p in self.on_meta.parameters())

    def untiled_peak(self) -> int:
        """Bytes of an untiled step at its worst moment: parameters, gradients, momentum and the image among them."""
        model = self.on_meta
        x = torch.empty(self.subject.image_shape, device="meta")
        for p in model.parameters():
            p.grad = torch.empty_like(p)
        live = LiveBytes(collect=False)
        live.track([*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()), x])
        with live:
            y = model(x)
            y.backward(torch.empty_like(y))
            del y
        for p in model.parameters():
            p.grad = None
        return live.peak_total + self.momentum_bytes

    def budgets_mib(self, count: int) -> list[int]:
        """At most so many budgets, evenly spaced in their logarithm, from the smallest that works to the untiled
        step's."""
        low, high = self.least_budget() / MIB, self.untiled_peak() / MIB
        spaced = np.geomspace(low, max(low, high), count)
        return list(dict.fromkeys(int(np.ceil(each)) for each in spaced))


def plan_settings(forward: Forward) -> dict[str, object]:
    """What a row says of an arm's plan; nothing of an arm that has none."""
    made = getattr(forward, "plan", None)
    if made is None:
        return {}
    return {
        "segments": len(made.segments),
        "kinds": [each.kind for each in made.segments],
        "peak_predicted": made.predicted_peak_bytes,
        "macs_predicted": sum(made.predicted_macs.values()) or None,
        "time_predicted": made.predicted_time_s,
        "host_bytes": made.host_bytes,
    }


def gradients(model: nn.Module) -> Sequence[Tensor]:
    """Those of all parameters, in order."""
    return [p.grad for p in model.parameters() if p.grad is not None]
