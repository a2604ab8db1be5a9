"""Single convolutions to be timed: experiments `layers`, `break_even` and `ladder`.

`layers`: those of the configured networks, each on its own real input (frugal.cusnn.cases). `break_even`: eleven shapes
at chosen sparsities (frugal.cusnn.break_even_cases). `ladder`: four shapes, our kernels step by step
(frugal.cusnn.ladder). All arms of a case do the same work, a plain convolution: neither side adds a bias or a ReLU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from frugal.cusnn import baselines, break_even_cases, ladder, offered, ours, paper, shapes
from frugal.cusnn.cases import Layer, case, layers
from frugal.cusnn.convolutions import Shape, groups
from frugal.cusnn.rows import DATASET
from frugal.data.image_to_bin import Manifest, read_bin
from frugal.models.weights import RANDOM, WeightsInfo, load_network
from frugal.timing import Arm, Case, Device
from kernels.sparse import ConvShape

Say = Callable[[str], None]
Cases = Iterator[tuple[Case, list[Arm]]]


def cases(
    machine: Device,
    record: Mapping[str, object],
    say: Say,
    *,
    experiment: str,
    cusnn: Mapping[str, object],
    weights: Sequence[str],
    images: Sequence[str],
    kernels: Sequence[str],
) -> Cases:
    """The cases of one experiment, with the arms that this machine offers (frugal.jobs.Job.cases).

    cusnn: that section of the configuration (frugal.config.cusnn). weights, images: a converted network and its images,
    pairwise. kernels: reports of built kernels, of which those of family `sparse` are used on a GPU.
    """
    built = None
    if machine.kind == "cuda":
        prefixes = [Path(path).with_suffix("") for path in kernels]
        more = {"deterministic": cusnn["deterministic"], "more": cusnn["variants"]}
        built = ours.Kernels(prefixes, record["sm_count"], **more)
    wanted = [*cusnn["ours"], *cusnn["baselines"]]
    made = partial(arms, built=built)
    pairs = list(zip(weights, images, strict=True))
    if experiment == "layers":
        return _layers(machine, say, made, wanted, cusnn, pairs)
    if experiment == "break_even":
        return _break_even(machine, say, made, wanted, cusnn, pairs)
    return _ladder(machine, made, cusnn)


def _layers(machine: Device, say: Say, made: Callable, wanted: list[str], cusnn: Mapping, pairs: list) -> Cases:
    for weight_file, image_file in pairs:
        model, info = load_network(Path(weight_file))
        manifest, found = _inputs(
            machine,
            model,
            info,
            image_file,
            lambda named, side: groups(named, cusnn["layers"], cusnn["kernel_sizes"], cusnn["preset"], side),
        )
        say(f"{info.network} ({info.origin}): the inputs of its layers from {manifest.count} images")
        for layer in found:
            for size in cusnn["batch_sizes"]:
                shape = layer.shape(size)
                names = offered.arms(wanted, machine.kind, shape, info.network)
                yield case(layer, info, size, DATASET, manifest.sha256), made(shape, layer.sparsity, names)


def _break_even(machine: Device, say: Say, made: Callable, wanted: list[str], cusnn: Mapping, pairs: list) -> Cases:
    device = torch.device(machine.kind)
    regimes = (offered.ONE_REGIME[machine.kind],)
    named = shapes.break_even(cusnn["preset"], cusnn["kernel_sizes"], cusnn["batch_sizes"])

    def with_arms(item: Case, shape: ConvShape) -> tuple[Case, list[Arm]]:
        names = offered.one_regime(wanted, machine.kind, shape)
        chosen = made(shape, item.columns["sparsity_measured"], names)
        return item, [dataclasses.replace(arm, regimes=regimes) for arm in chosen]

    for layer, size in named:
        for sparsity in cusnn["sparsities"]:
            item = break_even_cases.bernoulli(layer, size, sparsity, device)
            yield with_arms(item, layer.shape(size))
    missing: dict[Shape, list[tuple[shapes.Layer, int]]] = {}
    for layer, size in named:
        missing.setdefault((layer.c, layer.h, layer.h, layer.n, layer.k, 1), []).append((layer, size))
    for weight_file, image_file in pairs:
        model, info = load_network(Path(weight_file))
        if info.origin == RANDOM:
            continue  # the zeros of random weights are drawn to a number, and lie as nobody's do
        manifest, found = _inputs(machine, model, info, image_file, lambda every, _: _by_shape(every, missing))
        trained = [layer for layer in found if layer.weights == "trained"]
        say(f"{info.network} ({info.origin}): {len(trained)} shapes with real zeros")
        for layer in trained:
            conv = layer.conv
            for own, size in missing.pop((conv.C, conv.H, conv.W, conv.N, conv.k, conv.stride)):
                for item in break_even_cases.real(own, layer, size, cusnn["sparsities"], DATASET, manifest.sha256):
                    yield with_arms(item, own.shape(size))


def _ladder(machine: Device, made: Callable, cusnn: Mapping) -> Cases:
    regimes = (offered.ONE_REGIME[machine.kind],)
    for layer, size in shapes.ladder(cusnn["preset"], cusnn["batch_sizes"]):
        names = offered.ladder(machine.kind, layer.shape(size))
        chosen = made(layer.shape(size), layer.sparsity, names)
        item = ladder.case(layer, size, torch.device(machine.kind))
        yield item, [dataclasses.replace(arm, regimes=regimes) for arm in chosen]


def _by_shape(every: Mapping[str, Shape], wanted: Collection[Shape]) -> list[list[str]]:
    """The names of a network's convolutions of each wanted shape that it has."""
    found = [[name for name, own in every.items() if own == shape] for shape in wanted]
    return [names for names in found if names]


def _inputs(
    machine: Device, model: torch.nn.Module, info: WeightsInfo, image_file: str, choose: Callable
) -> tuple[Manifest, list[Layer]]:
    """A network's chosen layers with their inputs; choose: of {name: shape} and the images' height."""
    photographs, manifest = read_bin(image_file, preprocess=info.preprocess)
    side = photographs.shape[2]
    found = layers(model, info, photographs, lambda named: choose(named, side), torch.device(machine.kind))
    return manifest, found


def arms(shape: ConvShape, sparsity: float, names: Sequence[str], built: ours.Kernels | None) -> list[Arm]:
    """The arms of these names for a layer; built: the kernels of a GPU, None on a CPU.

    FLOP and bytes are those of one run: a sparse arm's FLOP leave out the multiply-adds on zeros; bytes count input,
    weights and output once, in float32.
    """
    values = shape.B * (shape.C * shape.H * shape.W + shape.N * shape.H_out * shape.W_out)
    moved = 4.0 * (values + shape.C * shape.N * shape.k**2)
    found = []
    for name in names:
        if name in offered.BASELINES["cuda"] | offered.BASELINES["cpu"]:
            found.append(baselines.arm(name, shape, bytes_min=moved))
        else:
            made = paper.arm if name in offered.PAPER else ours.arm
            found.append(made(name, shape, built, sparsity=sparsity, bytes_min=moved))
    return [arm for arm in found if arm is not None]
