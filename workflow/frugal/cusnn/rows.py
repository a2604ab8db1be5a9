"""The rows of experiment `sparsity`: what was counted in each convolution's input, as measurements."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from frugal import provenance
from frugal.clock import SystemClock
from frugal.cusnn.sparsity import LayerSparsity, measure, origins
from frugal.data.image_to_bin import Manifest, read_bin
from frugal.models.weights import RANDOM, WeightsInfo, load_network
from frugal.records import Measurement, Run, canonical_json, case_id, write_job

MEASURED, ESTIMATED = "measured", "bn_closed_form"
DATASET = "photographs"


def write_sparsity(
    *,
    weights: str | Path,
    images: str | Path,
    device: str | Path,
    preset: str,
    threads: int,
    config_json: str,
    campaign_id: str | None,
    log: str,
    out: str | Path,
    say: Callable[[str], None] = print,
) -> None:
    """Count the zeros of one network's layers and write one job file (frugal.records) to `out`.

    weights: a converted network; images: its .bin; device: the device file, whose machine the rows are filed under
    (zeros do not depend on it).
    """
    clock = SystemClock()
    started = clock.ns()
    kind = json.loads(Path(device).read_text())["device_kind"]
    torch.set_num_threads(threads)
    model, info = load_network(Path(weights))
    batch, manifest = read_bin(images, preprocess=info.preprocess)
    run = provenance.collect(
        kind, experiment="sparsity", preset=preset, session=0, sessions_planned=1, threads=threads,
        config_json=config_json, campaign_id=campaign_id,
    )  # fmt: skip
    found = measure(model, batch)
    source = provenance.source_hash("frugal.cusnn.sparsity")
    kinds = origins([counted.layer for counted in found], info.drawn, info.origin == RANDOM)
    rows = [row for layer in found for row in _rows(layer, kinds[layer.layer.name], info, manifest, run, source, log)]
    run.finished_at = clock.now()
    run.wall_s = (clock.ns() - started) * 1e-9
    write_job(out, run, rows, {})
    mean = sum(layer.mean for layer in found) / len(found)
    say(f"{info.network} ({info.origin}): {len(found)} convolutions, {mean:.0%} zeros on average")


def _rows(
    layer: LayerSparsity, kind: str, info: WeightsInfo, manifest: Manifest, run: Run, source: str, log: str
) -> list[Measurement]:
    conv = layer.layer
    axes = {
        "network": info.network, "definition": info.definition, "layer": conv.name, "layer_index": conv.index,
        "weights": kind, "dataset": manifest.sha256,
    }  # fmt: skip
    common = {
        "run_id": run.run_id, "case_id": case_id("cusnn", "sparsity", axes), "session": run.session,
        "system": "cusnn", "experiment": "sparsity", "network": info.network, "layer": conv.name, "role": "ours",
        "axes_json": canonical_json(axes), "n": 1, "c": conv.C, "h": conv.H, "w": conv.W, "k": conv.N,
        "r": conv.k, "s": conv.k, "stride": conv.stride, "pad": conv.pad, "groups": 1, "dtype": "float32",
        "dataset": DATASET, "dataset_sha256": manifest.sha256, "seed": 0, "source_hash": source,
        "metric": "sparsity", "unit": "1", "higher_is_better": True, "conditional": False, "order_seed": 0,
        "status": "ok", "log": log,
    }  # fmt: skip
    counts = {"n_discarded": 0, "n_mild": 0, "n_severe": 0}
    rows = [
        Measurement(
            **common,
            **counts,
            arm=MEASURED,
            n_samples=layer.images,
            n_blocks=1,
            value=layer.mean,
            stdev=layer.std,
            min=layer.min,
            max=layer.max,
            sparsity_measured=layer.mean,
            sparsity_pattern="real",
        )
    ]
    if layer.estimate is not None:
        rows.append(Measurement(**common, **counts, arm=ESTIMATED, n_samples=0, n_blocks=0, value=layer.estimate))
    return rows
