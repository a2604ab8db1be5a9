"""One timing session over the 3×3 layers of the configured networks: experiment `layers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from frugal import provenance
from frugal.cusnn import baselines, ours
from frugal.cusnn.cases import case, layers
from frugal.cusnn.rows import DATASET
from frugal.data.image_to_bin import read_bin
from frugal.models.weights import load_network
from frugal.timing import Arm, Case, Design, device_of, run_session
from frugal.timing.ceilings import ceilings
from kernels.sparse import ConvShape

Say = Callable[[str], None]

# What the configuration says of a design, under the same names.
TIMING = (
    "rounds", "n_min", "block_min_s", "block_max_s", "seed", "flush", "spin_factor", "affinity", "case_timeout_s",
    "first_call_timeout_s", "energy", "energy_span_s", "poll_s", "discard_clock_fraction", "cooldown_s",
)  # fmt: skip


def session(
    *,
    preset: str,
    timing: Mapping[str, object],
    cusnn: Mapping[str, object],
    weights: Sequence[str | Path],
    images: Sequence[str | Path],
    kernels: Sequence[str | Path],
    device: str | Path,
    session: int,
    sessions: int,
    threads: int,
    config_json: str,
    campaign_id: str | None,
    log: str,
    out: str | Path,
    say: Say = print,
) -> None:
    """Measure every case once and write one job file (frugal.records); a killed session goes on where it was.

    timing, cusnn: those sections of the configuration, as mappings. weights, images: a converted network and its
    images, pairwise. kernels: reports of built kernels. device: the device file. Raises FrugalError where this machine
    is another one than the device file's.
    """
    record = provenance.check_device(device)
    regimes = cusnn["regimes"] or timing["regimes"]
    given = {name: timing[name] for name in TIMING}
    design = Design.of(preset, **given, sessions=sessions, regimes=regimes, threads=timing["threads"] or threads)
    machine = device_of(record)
    built = None
    if machine.kind == "cuda":
        built = ours.Kernels([Path(path).with_suffix("") for path in kernels], record["sm_count"])
    run = provenance.collect(
        machine,
        experiment="layers",
        preset=preset,
        session=session,
        sessions_planned=design.sessions,
        threads=design.threads,
        config_json=config_json,
        campaign_id=campaign_id,
    )
    cases = list(_cases(cusnn, weights, images, machine.kind, built, say))
    run_session(cases, design, session, machine, run, Path(out), on_progress=say, log=log, calibrate=ceilings)


def arms(
    shape: ConvShape,
    sparsity: float,
    wanted: Sequence[str],
    kind: str,
    built: ours.Kernels | None,
) -> list[Arm]:
    """The wanted arms, ours first, as far as a device of this kind (`cpu` or `cuda`) offers them.

    FLOP and bytes are those of one run: a sparse arm's FLOP leave out the multiply-adds on zeros; bytes count input,
    weights and output once, in float32.
    """
    dense = 2.0 * shape.macs
    values = shape.B * (shape.C * shape.H * shape.W + shape.N * shape.H_out * shape.W_out)
    moved = 4.0 * (values + shape.C * shape.N * shape.k**2)
    found = []
    for name in ours.OFFERED[kind]:
        if name in wanted:
            flop = dense * (1 - sparsity) if ours.RUNGS[name][1] else dense
            found.append(ours.arm(name, shape, built, flop=flop, bytes_min=moved))
    found += [
        baselines.arm(name, shape.pad, flop=dense, bytes_min=moved)
        for name in baselines.OFFERED[kind]
        if name in wanted
    ]
    return found


def _cases(
    cusnn: Mapping[str, object],
    weights: Sequence[str | Path],
    images: Sequence[str | Path],
    kind: str,
    built: ours.Kernels | None,
    say: Say,
) -> Iterator[tuple[Case, list[Arm]]]:
    wanted = [*cusnn["ours"], *cusnn["baselines"]]
    for weight_file, image_file in zip(weights, images, strict=True):
        model, info = load_network(Path(weight_file))
        photographs, manifest = read_bin(image_file, preprocess=info.preprocess)
        say(f"{info.network} ({info.origin}): the inputs of its layers from {len(photographs)} images")
        for layer in layers(model, info, photographs, cusnn["layers"], torch.device(kind)):
            conv = layer.conv
            for size in cusnn["batch_sizes"]:
                shape = ConvShape(size, conv.C, conv.H, conv.W, conv.N, k=conv.k, stride=conv.stride, pad=conv.pad)
                made = case(layer, info, size, DATASET, manifest.sha256)
                yield made, arms(shape, layer.sparsity, wanted, kind, built)
