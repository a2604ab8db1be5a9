"""Invented rows of SFT's experiments, in the shape that frugal.sft.cases gives them."""

from __future__ import annotations

import json

import invented_campaigns as invented

from frugal import records

MIB = 2**20
BASELINES = ("vanilla", "checkpoint@segments=5", "save_on_cpu", "activation_budget@budget=0.5", "compile")
BLOCKS = "checkpoint_blocks"
# Seconds a megapixel, and bytes a pixel, of each arm in fp32.
STEP = {
    "vanilla": (0.012, 1456), "checkpoint@segments=5": (0.016, 1024), "save_on_cpu": (0.09, 700),
    "compile": (0.010, 1200), "activation_budget@budget=0.5": (0.013, 900), "sft_artifact@tiles=4": (0.034, 240),
    "sft_artifact@tiles=16": (0.09, 120), "tiled_1seg@tiles=4": (0.025, 180), "tiled@budget_mib=9728": (0.019, 150),
    "strips@budget_mib=9728": (0.0175, 140), "planned@budget_mib=9728": (0.016, 160),
}  # fmt: skip
SPEED = {"fp32": 1.0, "tf32": 0.3, "bf16": 0.15}


def role(arm: str) -> str:
    if arm.startswith("sft_artifact"):
        return "paper_emulation"
    ours = ("planned", "tiled", "strips", "v", "cpu_")
    return "ours" if arm.startswith(ours) and arm != "vanilla" else "baseline"


def row(run_id: str, experiment: str, axes: dict, arm: str, metric: str, value: float | None, **more) -> dict:
    """A row of a case; without a value it is one that ran out of memory."""
    units = {"time": "s", "peak_live": "B", "peak_allocated": "B", "peak_predicted": "B", "peak_total": "B"}
    return {
        "run_id": run_id, "case_id": records.case_id("sft", experiment, axes), "system": "sft",
        "experiment": experiment, "metric": metric, "unit": units.get(metric, "1"), "axes_json": json.dumps(axes),
        "network": axes.get("network"), "n": axes.get("batch"), "c": 3, "h": axes.get("h"), "w": axes.get("w"),
        "arm": arm, "role": role(arm), "regime": "wall" if metric == "time" else None, "l2": None, "value": value,
        "status": "oom" if value is None else "ok", "reason": "out of memory" if value is None else None,
        "session": 0, "conditional": True, "dtype": "float32",
    } | more  # fmt: skip


def axes_of(network: str, h: int | None, precision: str = "fp32", **more) -> dict:
    """The axes of a case; without a size for `largest`."""
    sizes = {} if h is None else {"h": h, "w": h}
    return {
        "network": network, "width_divisor": 1, "batch": 1, **sizes, "precision": precision, "channels_last": False,
        "input": "device", "norms": "none",
    } | more  # fmt: skip


def sizes(run_id: str, networks=("vgg16", "darknet19"), heights=(1024, 2048, 4096, 10240, 20480), divisor=1,
          precisions=("fp32", "tf32"), device_bytes=40 * 2**30, timed=True) -> list[dict]:  # fmt: skip
    """Times where a step's bytes fit the device, and in `memory` a row for each that does not."""
    rows = []
    for network in networks:
        light = 0.2 if network == "darknet19" else 1.0
        for precision in precisions:
            for h in heights:
                axes = axes_of(network, h, precision, width_divisor=divisor)
                for arm, (seconds, size) in STEP.items():
                    fits = arm.startswith("planned") or size * light * h * h < device_bytes
                    value = seconds * light * SPEED[precision] * h * h / 1e6 / divisor if fits else None
                    if timed and fits:
                        rows.append(row(run_id, "sizes", axes, arm, "time", value))
                    peak = size * light * h * h / divisor if fits else None
                    rows.append(row(run_id, "memory", axes, arm, "peak_live", peak, base_bytes=80 * MIB))
    return rows


def largest(run_id: str, device="cuda", divisor=1, caps=(11, 24, 40, 80)) -> list[dict]:
    """The largest size under caps; the planner with main memory reaches the search's own limit."""
    rows = []
    bytes_a_pixel = {"vanilla": 1456, "checkpoint@segments=5": 1024, "sft_artifact@tiles=32": 30}
    for network in ("vgg16", "darknet19"):
        light = 0.3 if network == "darknet19" else 1.0
        for cap in caps:
            axes = axes_of(network, None, cap_gib=cap, device=device, width_divisor=divisor)
            planned = f"planned@budget_mib={1024 * cap}"
            for arm, size in (bytes_a_pixel | {planned: 12}).items():
                h = int((0.9 * cap * 2**30 / size / light) ** 0.5) // 32 * 32
                rows.append(row(run_id, "largest", axes, arm, "size_max", float(h)))
            rows.append(row(run_id, "largest", axes, f"{planned},host_mib=98304", "size_max", 65536.0,
                            reason="the search's own limit fitted"))  # fmt: skip
    return rows


def macs(run_id: str, heights=(4096, 10240, 20480)) -> list[dict]:
    """Ratios that grow with n, one for strips, and plans under two budgets."""
    rows = []
    for network, steep in (("vgg16", 0.6), ("darknet19", 1.4)):
        for h in heights:
            axes = axes_of(network, h)
            ratios = {f"sft_artifact@tiles={n}": 1.33 + steep * (n - 1) * 2048 / h for n in (1, 2, 4, 8, 16, 32)}
            ratios |= {f"tiled_1seg@tiles={n}": 1.33 + 0.3 * steep * (n - 1) * 2048 / h for n in (1, 2, 4, 8, 16, 32)}
            ratios |= {"strips@budget_mib=9728,host_mib=73728": 1.333, "vanilla": 1.0}
            ratios |= {f"planned@budget_mib={n},host_mib=73728": level for n, level in ((9728, 1.3), (37888, 1.2))}
            rows += [row(run_id, "macs", axes, arm, "macs_ratio", value, regime=None) for arm, value in ratios.items()]
    return rows


def pareto(run_id: str, network="vgg16", h=2048, peak="peak_allocated", divisor=1, precisions=("fp32", "bf16")):
    """Eight plans from little memory to that of the untiled step, and every baseline."""
    rows = []
    for precision in precisions:
        axes = axes_of(network, h, precision, width_divisor=divisor)
        points = {arm: STEP[arm] for arm in BASELINES}
        for number in range(8):
            size = 60 * 1.55**number
            points[f"planned@budget_mib={size * h * h / MIB:.0f}"] = (0.012 * (1.33 - 0.045 * number), size)
        for arm, (seconds, size) in points.items():
            rows.append(row(run_id, "pareto", axes, arm, "time", seconds * SPEED[precision] * h * h / 1e6))
            rows.append(row(run_id, "pareto", axes, arm, peak, size * h * h, base_bytes=80 * MIB))
    return rows


def prediction(run_id: str, cuda=True, count=24) -> list[dict]:
    """Plans whose live peak is exact, whose allocator's is up to 4 % more, and whose time is within 20 %."""
    rows = []
    for number in range(count):
        network = ("vgg16", "darknet19", "resnet50")[number % 3]
        axes = axes_of(network, 512 * (1 + number % 7), plan=number)
        arm, peak = f"planned@budget_mib={200 + 97 * number}", (200 + 95 * number) * MIB
        rows.append(row(run_id, "prediction", axes, arm, "peak_predicted", peak))
        rows.append(row(run_id, "prediction", axes, arm, "peak_total", peak))
        if cuda:
            rows.append(row(run_id, "prediction", axes, arm, "peak_allocated", peak * (1 + 0.04 * number / count)))
            seconds = 0.01 * (1 + number)
            rows.append(row(run_id, "prediction", axes, arm, "time_predicted", seconds))
            rows.append(row(run_id, "prediction", axes, arm, "time_step", seconds * (0.9 + 0.3 * number / count)))
    return rows


def exactness(run_id: str, precisions=("fp64", "fp32")) -> list[dict]:
    """Ours as good as untiled, on four networks and two sizes."""
    rows = []
    for precision in precisions:
        unit = {"fp64": 1e-15, "fp32": 4e-7, "bf16": 8e-3}[precision]
        for place, network in enumerate(("vgg16", "darknet19_bn", "resnet18", "unet_small")):
            for h, w in ((64, 64), (203, 171)):
                axes = axes_of(network, h, precision, w=w, norms="train" if network == "darknet19_bn" else "none")
                untiled = 0.0 if precision == "fp64" else 1.0
                errors = {"vanilla": untiled, "tiles@windows=3": 1.3, "tiles@windows=8": 0.8,
                          "strips@windows=8": 1.1}  # fmt: skip
                rows += [
                    row(run_id, "exactness", axes, arm, "error", unit * times * (1 + place), regime=None,
                        role="baseline" if arm == "vanilla" else "ours")
                    for arm, times in errors.items()
                ]  # fmt: skip
    return rows


def tile_rate(run_id: str, h=4096, precisions=("fp32", "tf32", "bf16"), divisor=1) -> list[dict]:
    """Small tiles are slow; the untiled step does not fit in bf16."""
    rows = []
    for precision in precisions:
        axes = axes_of("vgg16", h, precision, width_divisor=divisor)
        seconds = 0.012 * SPEED[precision] * h * h / 1e6
        for n in (1, 2, 4, 8, 16, 32):
            rows.append(row(run_id, "tile_rate", axes, f"tiled_1seg@tiles={n}", "time", seconds * (1.33 + 0.08 * n)))
        for more in ("graphs=1", "stack=8,graphs=0", "stack=8,graphs=1"):
            rows.append(row(run_id, "tile_rate", axes, f"tiled_1seg@tiles=32,{more}", "time", seconds * 2))
        rows.append(row(run_id, "tile_rate", axes, "vanilla", "time", None if precision == "bf16" else seconds))
    return rows


def streaming(run_id: str, h=10240, divisor=1) -> list[dict]:
    """A tenth is exposed with one window ahead, one per cent with four; float32 copies four times as much."""
    rows = []
    for pixels, more in (("uint8", 1.0), ("float32", 4.0)):
        axes = axes_of("vgg16", h, input="host", pixels=pixels, width_divisor=divisor)
        for prefetch, exposed in ((1, 0.1), (2, 0.02), (4, 0.01)):
            arm = f"planned@budget_mib=9728,prefetch={prefetch}"
            rows.append(row(run_id, "streaming", axes, arm, "time", 2.0 / (1 - exposed * more)))
        rows.append(
            row(run_id, "streaming", axes, "planned@budget_mib=9728,image=device", "time", 2.0, role="baseline")
        )
    return rows


def training(run_id: str, divisor=16, h=256) -> list[dict]:
    """Twenty steps; the first loss is equal, later ones drift apart by rounding."""
    rows = []
    for step in range(20):
        axes = axes_of("resnet18", h, width_divisor=divisor, norms="train", step=step)
        loss = 0.3 * 0.9**step + 0.05
        rows.append(row(run_id, "training", axes, "vanilla", "loss", loss))
        apart = 1 + 1e-7 * step * (-1) ** step
        rows.append(row(run_id, "training", axes, "planned@budget_mib=64", "loss", loss * apart))
    return rows


KERNELS = {
    "v1_naive": (9.0, "float32", False), "v2_tile": (3.0, "float32", False), "v3_pair": (1.6, "float32", False),
    "v3_pair_twin": (1.9, "float32", False), "v4_pair_reg": (0.95, "float32", False),
    "v4_pair_reg_twin": (1.3, "float32", False), "v5_pair_mma_tf32": (0.2, "float32", True),
    "v5_pair_mma_tf32_twin": (0.3, "float32", True), "v5_pair_mma_bf16": (0.12, "bfloat16", False),
    "v5_pair_mma_bf16_twin": (0.2, "bfloat16", False), "cudnn_fp32": (1.0, "float32", False),
    "cudnn_tf32": (0.36, "float32", True), "cudnn_fp16_cl": (0.24, "float16", False),
    "cudnn_bf16_cl": (0.22, "bfloat16", False), "torch_compile_fp32": (0.97, "float32", False),
    "torch_compile_tf32": (0.3, "float32", True), "torch_compile_bf16": (0.16, "bfloat16", False),
}  # fmt: skip
CPU_KERNELS = {"cpu_pair": 60.0, "cpu_twin": 80.0, "onednn_fp32": 40.0}


def kernels(run_id: str, cuda=True, heights=(224, 512, 1024, 2048, 4096)) -> list[dict]:
    """Both stems over sizes, and at batch 8 the least one; milliseconds at 2048²."""
    rows = []
    for stem, light in (("vgg16", 1.0), ("darknet19", 0.4)):
        for h, batch in [*((h, 1) for h in heights), (heights[0], 8)]:
            axes = {"stem": stem, "batch": batch, "h": h, "w": h}
            arms = KERNELS if cuda else {arm: (value, "float32", False) for arm, value in CPU_KERNELS.items()}
            for arm, (value, dtype, tf32) in arms.items():
                seconds = 1e-3 * value * light * batch * (h / 2048) ** 2 + (4e-6 if cuda else 0.0)
                share = (0.2 + 0.04 * len(arm)) / (1 + 200 / h)
                more = {} if arm == "torch_compile_bf16" else {"roofline_fraction": share}
                more |= {"regime": "graph", "l2": "resident"} if cuda else {"regime": "wall"}
                rows.append(row(run_id, "kernels", axes, arm, "time", seconds, dtype=dtype, tf32=tf32, **more))
    return rows


def h200(folder) -> None:
    """A recorded campaign of every experiment on a GPU, at full width."""
    rows = [*sizes("B"), *largest("B"), *macs("B"), *pareto("B"), *prediction("B"), *exactness("B"), *tile_rate("B"),
            *streaming("B"), *training("B"), *kernels("B")]  # fmt: skip
    invented.write(folder, rows, (), [invented.run("B", "cuda")])


def smoke(folder) -> None:
    """A laptop's smoke campaign: few channels, small images, no GPU."""
    rows = [
        *sizes("A", heights=(256, 512), divisor=16, precisions=("fp32",)),
        *largest("A", device="meta", divisor=16, caps=(1, 2)), *macs("A"),
        *pareto("A", h=512, peak="peak_live", divisor=16, precisions=("fp32",)), *prediction("A", cuda=False, count=9),
        *exactness("A", precisions=("fp64",)), *tile_rate("A", h=512, precisions=("fp32",), divisor=16),
        *streaming("A", h=512, divisor=16), *training("A"), *kernels("A", cuda=False, heights=(256, 512)),
    ]  # fmt: skip
    invented.write(folder, rows, (), [invented.run("A", "cpu")])
