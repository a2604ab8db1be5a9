"""Invented campaigns for the figures' tests: rows as the benchmark writes them, through frugal.records' schemas."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from frugal import records
from frugal.figures.frames import Frames, load

CPU_BASELINES = {"onednn_fp32": 1.6}
GPU_BASELINES = {"cudnn_fp32": 8.0, "cudnn_tf32": 3.4, "cudnn_fp16_cl": 1.5}
SMOKE_SHAPES = [("densenet169", 128, 14, 32, 3), ("resnet50", 256, 14, 256, 3), ("densenet169", 256, 14, 128, 1)]
DISTINCT_SHAPES = [("densenet169", 128, h, 32, 3) for h in (56, 28, 14, 7)] + [
    ("resnet50", c, h, c, 3) for c, h in ((64, 56), (128, 28), (256, 14), (512, 7))
]


def all_shapes() -> list[tuple]:
    """The 3×3 layers of DenseNet-169 (82) and fourteen of ResNet-50."""
    dense = [
        ("densenet169", 128, h, 32, 3) for h, count in ((56, 6), (28, 12), (14, 32), (7, 32)) for _ in range(count)
    ]
    residual = [
        ("resnet50", c, h, c, 3)
        for c, h, count in ((64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 1))
        for _ in range(count)
    ]
    return dense + residual


def run(run_id: str, kind: str, **over) -> dict:
    cuda = kind == "cuda"
    return {
        "run_id": run_id, "device_kind": kind, "device_key": "nvidia-h200-9.0-132sm" if cuda else "cpu-xeon-2c",
        "gpu_name": "NVIDIA H200" if cuda else None, "cpu_model": "Intel Xeon 8481C", "threads": 2,
        "copy_bytes_per_s": 4.1e12 if cuda else 1.1e10, "flops_fp32": 5.2e13 if cuda else 1.2e11,
        "flops_tf32": 3.9e14 if cuda else None,
    } | over  # fmt: skip


def timing(run_id: str, shapes: list[tuple], baselines: dict[str, float], batches: list[int], *, regime="graph",
           l2: str | None = "resident", unit_s=4e-6, conditional=True) -> tuple[list[dict], list[dict]]:  # fmt: skip
    """(measurements, comparisons) of arm `sparse`, its dense twin and the baselines over the shapes and batches."""
    rng = np.random.default_rng(1)
    cuda = unit_s < 1e-4
    measurements, comparisons = [], []
    for place, (network, c, h, k, r) in enumerate(shapes):
        for n in batches:
            axes = {"network": network, "layer_index": place, "batch": n, "c": c, "h": h, "k": k, "r": r}
            case = {
                "run_id": run_id, "case_id": records.case_id("cusnn", "layers", axes), "system": "cusnn",
                "experiment": "layers", "metric": "time", "network": network, "layer": f"conv{place}", "n": n, "c": c,
                "h": h, "w": h, "k": k, "r": r, "s": r, "stride": 1, "axes_json": json.dumps(axes), "regime": regime,
                "l2": l2, "conditional": conditional, "session": 0,
            }  # fmt: skip
            work = 2.0 * n * c * k * r * r * h * h
            ours = unit_s * n**0.5 * (0.6 + work / 2.4e8) * rng.uniform(0.85, 1.2)
            arms = {"sparse": (ours, "ours", 0.35), "dense_twin": (ours * 1.6, "ours", 1.0)}
            for name, factor in baselines.items():
                arms[name] = (ours * factor * rng.uniform(0.6, 1.3) / n**0.25, "baseline", 1.0)
            for name, (value, role, kept) in arms.items():
                measurements.append(case | {
                    "arm": name, "role": role, "value": value, "unit": "s", "status": "ok", "flop": work * kept,
                    "bytes_min": 4.0 * (n * c * h * h + n * k * h * h + c * k * r * r),
                    "dtype": "float16" if "fp16" in name else "float32", "tf32": "tf32" in name,
                    "roofline_s": work * kept / (1.9e14 if "tf32" in name else 5e13 if cuda else 1.2e11),
                })  # fmt: skip
            best = min(baselines, key=lambda name: arms[name][0])
            for candidate in ("sparse", "dense_twin"):
                for name in baselines:
                    # A little off the quotient of the values, as a stored ratio is: it pairs rounds.
                    ratio = arms[name][0] / arms[candidate][0] * rng.uniform(0.998, 1.002)
                    spread = rng.uniform(1.02, 1.2)
                    comparisons.append({
                        "case_id": case["case_id"], "device_key": run(run_id, "cuda" if cuda else "cpu")["device_key"],
                        "system": "cusnn", "experiment": "layers", "regime": regime, "l2": l2, "metric": "time",
                        "candidate": candidate, "baseline": name, "ratio": ratio, "ratio_low": ratio / spread,
                        "ratio_high": ratio * spread, "conditional": conditional, "best_baseline": name == best,
                    })  # fmt: skip
    return measurements, comparisons


def sparsities(run_id: str, network: str, count: int, *, weights="random", estimates=False, images=32) -> list[dict]:
    """Rows of metric `sparsity`: 1×1 and 3×3 layers in turn, the share of zeros growing with depth."""
    rng = np.random.default_rng(count)
    rows = []
    for place in range(count):
        r = 7 if place == 0 else (3 if place % 2 else 1)
        mean = 0.0 if place == 0 else min(0.95, 0.3 + 0.5 * place / count + rng.normal(0, 0.05) + 0.15 * (r == 3))
        axes = {"network": network, "layer_index": place, "weights": weights}
        row = {
            "run_id": run_id, "case_id": records.case_id("cusnn", "sparsity", axes), "system": "cusnn",
            "experiment": "sparsity", "metric": "sparsity", "unit": "1", "network": network, "layer": f"conv{place}",
            "r": r, "s": r, "axes_json": json.dumps(axes), "arm": "network", "role": "control", "value": mean,
            "min": max(0.0, mean - 0.08), "max": min(1.0, mean + 0.06), "n_samples": images, "status": "ok",
            "session": 0, "conditional": True,
        }  # fmt: skip
        rows.append(row)
        if estimates and r == 3:
            rows.append(row | {"arm": "bn_closed_form", "value": mean + 0.02, "min": None, "max": None})
    return rows


def fail(row: dict, status: str, reason: str) -> dict:
    """The same row as a case that gave no value."""
    return row | {"value": None, "roofline_s": None, "status": status, "reason": reason}


def write(folder, measurements=(), comparisons=(), runs=()) -> None:
    """Write the three tables of a campaign into a folder, as `aggregate` and `compare` do."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("measurements", measurements), ("comparisons", comparisons), ("runs", runs)):
        schema = records.SCHEMAS[name]
        table = pa.Table.from_pylist([_needed(schema) | row for row in rows], schema=schema)
        records.write_table(folder / f"{name}.parquet", table, name)


def _needed(schema: pa.Schema) -> dict:
    """Something neutral for each column that may not be null and that no figure reads."""
    return {field.name: _neutral(field.type) for field in schema if not field.nullable}


def _neutral(kind: pa.DataType) -> object:
    if pa.types.is_timestamp(kind):
        return datetime(2026, 1, 1, tzinfo=UTC)
    if pa.types.is_boolean(kind):
        return False
    return 0 if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "-"


def smoke(folder) -> None:
    """A laptop's smoke campaign: three shapes, two batches, one session, regime cold (no CUDA graph on a CPU)."""
    timed, pairs = timing("A", SMOKE_SHAPES, CPU_BASELINES, [1, 2], regime="cold", l2=None, unit_s=9e-4)
    write(folder, timed + sparsities("A", "densenet169", 168), pairs, [run("A", "cpu")])


def h200(folder) -> None:
    """A recorded campaign: 96 layers, two batches, several sessions, two cases that failed."""
    timed, pairs = timing("B", all_shapes(), GPU_BASELINES, [1, 8], conditional=False)
    lost = {timed[0]["case_id"]: "incorrect", timed[50]["case_id"]: "unsupported"}
    timed = [fail(row, lost[row["case_id"]], "err") if row["case_id"] in lost else row for row in timed]
    pairs = [pair for pair in pairs if pair["case_id"] not in lost]
    zeros = sparsities("B", "densenet169", 168, weights="keras", estimates=True)
    write(folder, timed + zeros + sparsities("B", "resnet50", 53, weights="keras"), pairs, [run("B", "cuda")])


def frames(tmp_path, *, local=smoke, recorded=None) -> Frames:
    """The frames of such campaigns, through Parquet files."""
    if local:
        local(tmp_path / "results")
    if recorded:
        recorded(tmp_path / "results/recorded/nvidia-h200")
    folders = [tmp_path / "results/recorded/nvidia-h200"] if recorded else []
    return load(tmp_path / "results", folders)


def everything_failed(folder) -> None:
    """A campaign in which no case gave a value: two statuses in turn, no comparison."""
    timed, _ = timing("A", DISTINCT_SHAPES, CPU_BASELINES, [1], regime="cold", l2=None, unit_s=9e-4)
    rows = timed + sparsities("A", "resnet50", 53)
    failed = [fail(row, ("incorrect", "unsupported")[int(row["layer"][4:]) % 2], "why") for row in rows]
    write(folder, failed, (), [run("A", "cpu")])
