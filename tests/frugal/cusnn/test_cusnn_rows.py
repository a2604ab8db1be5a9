"""The rows of experiment `sparsity`, as they are read back from the job file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_network import info, small

from frugal import provenance, records
from frugal.cusnn import rows
from frugal.cusnn.sparsity import conv_layers, estimate_sparsity
from frugal.data.image_to_bin import image_to_bin, read_bin
from frugal.models.weights import RANDOM

IMAGES = 3


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the rows of the small network, whose weights are of the given origin, and reads them back."""
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    image_to_bin(tmp_path, tmp_path / "images.bin", size=24, resize=24)
    provenance.write_device_record(provenance.device_record("cpu"), tmp_path / "device.json")
    said: list[str] = []

    def call(origin: str):
        monkeypatch.setattr(rows, "load_network", lambda path: (small(), info(origin)))
        rows.write_sparsity(
            weights=tmp_path / "w.safetensors",
            images=tmp_path / "images.bin",
            device=tmp_path / "device.json",
            preset="quick",
            threads=torch.get_num_threads(),
            config_json="{}",
            campaign_id=None,
            log="logs/x.log",
            out=tmp_path / "out" / "sparsity.parquet",
            say=said.append,
        )
        return (*records.read_job(tmp_path / "out" / "sparsity.parquet"), said)

    return call


def test_every_convolution_has_its_counted_zeros(write, tmp_path: Path):
    run, found, samples, said = write(RANDOM)
    model, (images, manifest) = small(), read_bin(tmp_path / "images.bin")
    assert (run.experiment, run.preset, run.device_kind, samples) == ("sparsity", "quick", "cpu", {})
    assert run.finished_at >= run.started_at
    counted = [row for row in found if row.arm == "measured"]
    layers = conv_layers(model, (1, 3, 24, 24))
    assert [row.layer for row in counted] == [layer.name for layer in layers]
    x = images
    shares = {}
    for name, module in model.steps.named_children():
        if isinstance(module, torch.nn.Conv2d):
            shares[f"steps.{name}"] = [np.mean(image == 0) for image in x.numpy()]
        with torch.no_grad():
            x = module(x)
    for row, layer in zip(counted, layers, strict=True):
        share = shares[row.layer]
        # counts are exact; only the last divisions are rounded
        assert row.value == row.sparsity_measured == pytest.approx(np.mean(share), rel=1e-12, abs=1e-12)
        assert row.stdev == pytest.approx(np.std(share), rel=1e-9, abs=1e-12)
        assert (row.min, row.max) == (pytest.approx(min(share), abs=1e-12), pytest.approx(max(share), abs=1e-12))
        assert (row.n_samples, row.metric, row.unit, row.status) == (IMAGES, "sparsity", "1", "ok")
        assert (row.c, row.h, row.w, row.k, row.r, row.stride, row.pad) == (
            layer.C, layer.H, layer.W, layer.N, layer.k, layer.stride, layer.pad,
        )  # fmt: skip
        assert (row.dataset, row.dataset_sha256, row.run_id) == ("photographs", manifest.sha256, run.run_id)
    mean = sum(row.value for row in counted) / len(counted)
    assert said == [f"resnet50 (random weights): {len(layers)} convolutions, {mean:.0%} zeros on average"]


def test_what_batch_norm_alone_predicts_stands_beside(write):
    _, found, _, _ = write(RANDOM)
    estimated = {row.layer: row for row in found if row.arm == "bn_closed_form"}
    assert {row.arm for row in found} == {"measured", "bn_closed_form"}
    model = small()
    # every convolution but the first reads the ReLU of the batch norm two steps before it
    assert set(estimated) == {layer.name for layer in conv_layers(model, (1, 3, 24, 24))[1:]}
    measured = {row.layer: row for row in found if row.arm == "measured"}
    for layer, row in estimated.items():
        norm = model.steps[int(layer.split(".")[1]) - 2]
        assert row.value == estimate_sparsity(norm.weight, norm.bias)
        assert (row.n_samples, row.n_blocks, row.sparsity_measured) == (0, 0, None)
        assert row.case_id == measured[layer].case_id


@pytest.mark.parametrize(("origin", "label"), [(RANDOM, "random"), ("resnet50-0676ba61.pth", "trained")])
def test_rows_say_whether_the_weights_are_trained(write, origin: str, label: str):
    _, found, _, _ = write(origin)
    assert {json.loads(row.axes_json)["weights"] for row in found} == {label}


def test_random_and_trained_weights_are_different_cases(write):
    random, trained = ({row.case_id for row in write(origin)[1]} for origin in (RANDOM, "a.pth"))
    assert len(random) == len(trained) > 1
    assert not random & trained
