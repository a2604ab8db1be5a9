"""Invented rows of cuSNN's other experiments: whole networks, break-even, ladder; in the shape that they have."""

from __future__ import annotations

import json

import invented_campaigns as invented
import numpy as np

from frugal import records
from kernels.sparse import ConvShape, Variant
from kernels.sparse.planning import cut

# The last step is the kernel that a plan takes: there is no arm `sparse` beside it.
LADDER = {
    "v1_naive": 90e-6, "v2_dense": 60e-6, "v3_ballot": 10.4e-6, "v4_split": 8e-6, "v5_wide": 6e-6, "v6_fused": 5e-6,
    "sparse@deterministic=false": 4.8e-6, "sparse@skip=false": 6.1e-6, "sparse@outputs_per_lane=1": 7e-6,
    "paper_scheme": 40e-6, "cudnn_fp32": 55e-6,
}  # fmt: skip
NETWORK = {
    "sparse": (0.9e-3, 1.4e-3), "dense_twin": (1.2e-3, 1.6e-3), "unfused": (1.5e-3, 4e-3), "cudnn_fp32": (3.6e-3, 9e-3),
    "cudnn_fp32_cl": (4e-3, 9.5e-3), "cudnn_tf32": (1.7e-3, 8.9e-3), "cudnn_fp16_cl": (1.2e-3, 9.4e-3),
    "torch_compile_fp32": (3.1e-3, 3.2e-3), "torch_compile_tf32": (1.5e-3, 1.6e-3),
}  # fmt: skip
OURS = ("sparse", "dense_twin", "unfused")
SHAPES = [(64, 56, 64, 3), (256, 14, 256, 3), (512, 7, 512, 3), (1024, 14, 256, 1)]
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.99, 1.0)


def _row(run_id: str, experiment: str, axes: dict, arm: str, value: float | None, **more) -> dict:
    return {
        "run_id": run_id, "case_id": records.case_id("cusnn", experiment, axes), "system": "cusnn",
        "experiment": experiment, "metric": "time", "unit": "s", "axes_json": json.dumps(axes), "arm": arm,
        "role": "ours" if arm.startswith((*OURS, "v")) else "baseline", "regime": "graph", "l2": "resident",
        "value": value, "status": "ok", "session": 0, "conditional": False, "n": axes["batch"],
        **{name: axes[name] for name in ("c", "h", "w", "k", "r", "stride") if name in axes},
    } | more  # fmt: skip


def networks(run_id: str, names=("densenet169", "resnet50"), batches=(1, 8), weights="trained", energy=True):
    """(measurements, comparisons) of whole networks: graph and wall times, and energy in J a forward pass."""
    rows, pairs = [], []
    for name in names:
        for batch in batches:
            axes = {"network": name, "definition": "keras_v1", "weights": weights, "batch": batch}
            case = {"network": name, "layer": None}
            for arm, (graph, wall) in NETWORK.items():
                scale = batch ** (0.5 if arm in OURS else 0.35)
                error = 4e-7 if "32" in arm and "tf32" not in arm else 6e-7 if arm in OURS else 4e-4
                rows.append(_row(run_id, "networks", axes, arm, graph * scale, max_rel_err=error, **case))
                rows.append(_row(run_id, "networks", axes, arm, wall * scale, regime="wall", l2=None, **case))
                if energy:
                    for metric, power in (("energy_gross", 500.0), ("energy_net", 380.0)):
                        joules = graph * scale * power
                        rows.append(_row(run_id, "networks", axes, arm, joules, metric=metric, unit="J", **case))
            key = rows[-1]["case_id"]
            for baseline in ("cudnn_fp32", "cudnn_fp32_cl", "torch_compile_fp32", "cudnn_tf32"):
                ratio = NETWORK[baseline][0] / NETWORK["sparse"][0] * batch ** (0.35 - 0.5)
                pairs.append({
                    "case_id": key, "device_key": "nvidia-h200-9.0-132sm", "system": "cusnn", "experiment": "networks",
                    "regime": "graph", "l2": "resident", "metric": "time", "candidate": "sparse", "baseline": baseline,
                    "ratio": ratio, "ratio_low": ratio * 0.97, "ratio_high": ratio * 1.03, "conditional": False,
                })  # fmt: skip
    return rows, pairs


def ladder(run_id: str, batch: int = 1) -> list[dict]:
    """Every step, two single choices, the paper's scheme and a baseline on four shapes."""
    rows = []
    for place, (c, h, k) in enumerate([(64, 56, 64), (256, 14, 256), (128, 28, 32), (128, 14, 32)]):
        chosen = cut(Variant("v3_ballot"), ConvShape(batch, c, h, h, k), 4)
        axes = {"shape": f"{c}x{h}->{k}", "c": c, "h": h, "w": h, "k": k, "r": 3, "stride": 1, "batch": batch,
                "sparsity": 0.7}  # fmt: skip
        for arm, value in LADDER.items():
            more = {
                "layer": axes["shape"],
                "roofline_s": 2.1e-6,
                "max_rel_err": 3e-7,
                "sparsity_measured": 0.7,
                "pad": 1,
            }
            if arm == "v3_ballot":
                more["arm_json"] = json.dumps({"variant": chosen.variant.name, "splits": chosen.splits})
            rows.append(_row(run_id, "ladder", axes, arm, value * (1 + 0.2 * place), **more))
    return rows


def break_even(run_id: str, batches=(1, 8), real=True) -> list[dict]:
    """Four shapes at eight shares of zeros: ours gets faster in proportion to what is kept, baselines stay."""
    rows = []
    for batch in batches:
        for place, (c, h, k, r) in enumerate(SHAPES):
            for share in SHARES:
                patterns = ("bernoulli", "real") if real and share in (0.8, 0.9) and r == 3 else ("bernoulli",)
                for pattern in patterns:
                    axes = {"c": c, "h": h, "w": h, "k": k, "r": r, "stride": 1, "batch": batch, "sparsity": share,
                            "pattern": pattern}  # fmt: skip
                    times = {
                        "sparse": 2e-6 + 9e-6 * batch**0.5 * (1 - share),
                        "dense_twin": 8e-6 * batch**0.5,
                        "cudnn_fp32": (20e-6, 4e-6, 1e-6, 9e-6)[place] * batch**0.5,
                        "cudnn_tf32": 7e-6 * batch**0.5,
                    }
                    rows += [
                        _row(run_id, "break_even", axes, arm, value, layer=f"{c}x{h}->{k}", s=r, sparsity_target=share)
                        for arm, value in times.items()
                    ]
    return rows


def everything(folder) -> None:
    """A recorded campaign with layers, networks, energy, ladder and break-even."""
    timed, pairs = invented.timing("B", invented.DISTINCT_SHAPES, invented.GPU_BASELINES, [1, 8], conditional=False)
    whole, of_whole = networks("B")
    rng = np.random.default_rng(7)
    zeros = invented.sparsities("B", "resnet50", 53, weights="keras")
    timed = [
        row | {"max_rel_err": float(rng.uniform(1e-7, 4e-7)) * (900 if "tf32" in row["arm"] else 1)} for row in timed
    ]
    gpu = invented.run("B", "cuda", sm_count=132, sm_hz_max=1.98e9, settled_sm_hz=1.9e9)
    rows = [*timed, *zeros, *whole, *ladder("B"), *break_even("B")]
    invented.write(folder, rows, [*pairs, *of_whole], [gpu])
