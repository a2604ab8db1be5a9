"""Whole networks, ours beside torch's, in time, energy and memory: experiment `networks`.

A case is a network at one batch size, on real photographs; every phase of a session draws others as far as there are
enough. The reference is the same network in float64. Besides being held to 5e-6 of it in relative L2, ours must name
the same class as torch in float32 on every image: `top1_same` of `top1_images` in the arm's settings, where images on
which the two greatest logits lie closer than the two results differ count as ties (`top1_ties`).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from frugal.cusnn import network_baselines, ours
from frugal.cusnn.cases import images_of
from frugal.cusnn.network import Network
from frugal.cusnn.network_offered import SMOKE_IMAGES, measured, offered
from frugal.cusnn.plans import SPARSE, NetworkPlan, kernel_hash, load_plan
from frugal.cusnn.rows import DATASET
from frugal.cusnn.sparsity import ConvLayer, conv_layers, measure, origins
from frugal.data.image_to_bin import read_bin
from frugal.errors import FrugalError
from frugal.models.weights import RANDOM, WeightsInfo, load_network
from frugal.provenance import source_hash
from frugal.timing import Arm, Case, Device, Inputs, Prepared, Reference
from frugal.timing.flags import flags

Say = Callable[[str], None]

NORM = 5e-6  # relative L2 of the logits: seen are 6e-7 to 8e-7 against cuDNN (the paper's networks), and 7e-7 here


class Subject:
    """One network with its images, and what is computed of it once.

    `model`: float32, on the CPU; `images`: [count, 3, H, W] float32, on the session's device.
    """

    def __init__(self, model: nn.Module, info: WeightsInfo, images: Tensor, dataset_sha256: str) -> None:
        self.model, self.info, self.images, self.dataset_sha256 = model, info, images, dataset_sha256
        self.device = images.device

    @cached_property
    def on_device(self) -> nn.Module:
        """The network as torch has it, float32."""
        return copy.deepcopy(self.model).to(self.device)

    @cached_property
    def without_norms(self) -> nn.Module:
        """What the baselines run, on the CPU."""
        return network_baselines.without_norms(self.model)

    @cached_property
    def in_float64(self) -> nn.Module:
        """The reference."""
        return copy.deepcopy(self.model).to(self.device, torch.float64)

    @cached_property
    def logits(self) -> Tensor:
        """torch's in float32 on every image: [count, classes]."""
        with torch.inference_mode(), flags(tf32=False):
            return torch.cat([self.on_device(image[None]) for image in self.images])

    @cached_property
    def zeros(self) -> dict[str, float]:
        """{convolution: share of zeros in its input}, mean over the images."""
        with flags(tf32=False):
            return {found.layer.name: found.mean for found in measure(self.on_device, self.images)}

    @cached_property
    def layers(self) -> list[ConvLayer]:
        """Its convolutions."""
        return conv_layers(self.model, (1, *self.images.shape[1:]))

    @cached_property
    def macs(self) -> dict[str, int]:
        """{convolution: multiply-adds for one image}."""
        return {layer.name: layer.macs for layer in self.layers}

    @cached_property
    def weights(self) -> str:
        """`trained`, or `random` where any weight was drawn."""
        kinds = origins(self.layers, self.info.drawn, self.info.origin == RANDOM)
        return "random" if "random" in kinds.values() else "trained"


def cases(
    machine: Device,
    record: Mapping[str, object],
    say: Say,
    *,
    cusnn: Mapping[str, object],
    weights: Sequence[str],
    images: Sequence[str],
    kernels: Sequence[str],
    plans: Sequence[str] = (),
) -> Iterator[tuple[Case, list[Arm]]]:
    """Every network at every batch size, with the arms that this machine offers (frugal.jobs.Job.cases).

    cusnn: that section of the configuration, its preset's numbers filled in. weights, images: a converted network and
    its images, pairwise. kernels: reports of built kernels, of which those of family `sparse` are used on a GPU. plans:
    files of `frugal.cusnn.plans`, for some or all of the networks and batch sizes.
    """
    device = torch.device(machine.kind)
    built = None
    if machine.kind == "cuda":
        built = ours.Kernels([Path(path).with_suffix("") for path in kernels], record["sm_count"])
    planned = [load_plan(path, device_key=machine.key, hash_of=lambda name: kernel_hash(built, name)) for path in plans]
    files = dict(zip((_network_of(path) for path in weights), zip(weights, images, strict=True), strict=True))
    subject = None
    for network, batch in measured(cusnn["preset"], list(files), cusnn["batch_sizes"]):
        if subject is None or subject.info.network != network:
            subject = _subject(*files[network], cusnn["preset"], device)
            say(f"{network} ({subject.info.origin}): whole, on {len(subject.images)} images")
        plan = next((found for found in planned if (found.network, found.batch) == (network, batch)), None)
        yield case(subject, batch, chosen_on=plan.images if plan else 0), arms(subject, batch, cusnn, built, plan)


def case(subject: Subject, batch: int, *, chosen_on: int = 0) -> Case:
    """A network at one batch size as a timing case. Raises FrugalError where there are fewer images than the batch.

    chosen_on: how many of the first images a calibration has seen; the others are measured, where they hold a batch.
    """
    images, info = subject.images, subject.info
    if len(images) < batch:
        raise FrugalError(
            f"cusnn.batch_sizes has {batch}, but there are {len(images)} images, and a batch repeats none: "
            "give more images (data.images) or a smaller batch"
        )
    images = images[chosen_on:] if len(images) - chosen_on >= batch else images

    def inputs(seed: int, phase: str) -> Inputs:
        pool = images_of(phase, len(images), batch)
        picked = np.random.default_rng(seed).choice(pool, size=batch, replace=False)
        return {"x": images[torch.from_numpy(np.sort(picked)).to(images.device)].clone()}

    @torch.inference_mode()
    def reference(given: Inputs) -> Reference:
        return Reference(y=subject.in_float64(given["x"].double()))

    return Case(
        system="cusnn",
        experiment="networks",
        axes={
            "network": info.network, "definition": info.definition, "layer": None, "weights": subject.weights,
            "batch": batch,
        },
        inputs=inputs,
        reference=reference,
        network=info.network,
        columns={
            "n": batch, "c": images.shape[1], "h": images.shape[2], "w": images.shape[3],
            "dataset": DATASET, "dataset_sha256": subject.dataset_sha256,
            "flop_dense_equiv": 2.0 * batch * sum(subject.macs.values()),
        },
        measures=("time", "energy", "memory"),
    )  # fmt: skip


def arms(
    subject: Subject,
    batch: int,
    cusnn: Mapping[str, object],
    built: ours.Kernels | None,
    plan: NetworkPlan | None = None,
) -> list[Arm]:
    """The wanted arms, ours first. FLOP and bytes are those of one pass: what skipping leaves out is not counted."""
    found_ours, found_baselines = offered(
        subject.device.type, cusnn["preset"], [*cusnn["ours"], *cusnn["baselines"]], subject.info.network, batch
    )
    dense = 2.0 * batch * sum(subject.macs.values())
    parameters = sum(value.numel() for value in subject.model.parameters())
    moved = 4.0 * (parameters + batch * subject.images[0].numel())
    found = [
        our_arm(name, subject, batch, built, regimes, cusnn, plan, bytes_min=moved)
        for name, regimes in found_ours.items()
    ]
    found += [
        network_baselines.arm(name, lambda: subject.without_norms, subject.device, regimes, flop=dense, bytes_min=moved)
        for name, regimes in found_baselines.items()
    ]
    return found


def our_arm(
    name: str,
    subject: Subject,
    batch: int,
    built: ours.Kernels | None,
    regimes: Sequence[str],
    cusnn: Mapping[str, object],
    plan: NetworkPlan | None,
    *,
    bytes_min: float,
) -> Arm:
    """`sparse` as the policy says; `dense_twin` never skips; `unfused` is `sparse` with what it fuses done apart."""
    network = Network(
        subject.model,
        device=subject.device,
        kernels=built,
        policy="never" if name == "dense_twin" else cusnn["policy"],
        planned=plan,
        deterministic=cusnn["deterministic"],
        fused=name != "unfused",
        batch=batch,
        name=subject.info.network,
    )
    choices = network.choices(side=subject.images.shape[-1])
    kept = {layer: 1 - subject.zeros[layer] for layer, choice in choices.items() if choice.backend == SPARSE}
    settings = {
        "backends": dict(Counter(choice.backend for choice in choices.values())),
        "left_to_torch": dict(Counter(choice.reason for choice in choices.values() if not choice.is_ours)),
        "fused": network.fused,
        "policy": network.policy,
        "planned": plan is not None,
        "transition": "pooled before its 1x1",
    }

    def prepare(inputs: Inputs) -> Prepared:
        program = network.bind(inputs["x"])
        if "buffer_bytes" not in settings:
            settings.update(buffer_bytes=program.nbytes, workspace_bytes=network.workspace_bytes)
        elif "top1_images" not in settings:  # not in the first call, whose time is in the rows
            settings.update(top1(network, subject, batch))
        return Prepared(run=program.run, outputs=program.buffers, keep=(program, inputs["x"]))

    modules = ["frugal.cusnn.network", *(["kernels.launch", "kernels.sparse"] if built else ["kernels.sparse.cpu"])]
    return Arm(
        name=name,
        role="ours",
        prepare=prepare,
        tf32=False,
        layout="nchw",
        compiled=True,
        regimes=tuple(regimes),
        flop=2.0 * batch * sum(macs * kept.get(layer, 1.0) for layer, macs in subject.macs.items()),
        bytes_min=bytes_min,
        source_hash=source_hash(*modules),
        settings=settings,
        context=lambda: flags(tf32=False),
        tolerance="norm",
        norm_bound=NORM,
    )


@torch.inference_mode()
def top1(network: Network, subject: Subject, batch: int) -> dict[str, int]:
    """On how many images ours names the class that torch names in float32, and how many are too close to tell."""
    x = torch.empty_like(subject.images[:batch])
    program, found = network.bind(x), torch.empty_like(subject.logits)
    for start in range(0, len(found), batch):
        first = min(start, len(found) - batch)
        x.copy_(subject.images[first : first + batch])
        found[first : first + batch] = program.run()
    best = subject.logits.topk(2, dim=1).values
    close = best[:, 0] - best[:, 1] <= (found - subject.logits).abs().amax(dim=1)
    same = found.argmax(dim=1) == subject.logits.argmax(dim=1)
    return {"top1_images": len(found), "top1_same": int(same.sum()), "top1_ties": int(close.sum())}


def _subject(weights: str, images: str, preset: str, device: torch.device) -> Subject:
    model, info = load_network(Path(weights))
    photographs, manifest = read_bin(images, preprocess=info.preprocess)
    if preset == "smoke":
        photographs = photographs[:SMOKE_IMAGES]
    return Subject(model, info, photographs.to(device), manifest.sha256)


def _network_of(weights: str) -> str:
    """From a converted file's name, <network>-<definition>.safetensors: the file itself is large."""
    return Path(weights).name.partition("-")[0]
