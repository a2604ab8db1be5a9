"""Invented rows of DTR's experiments, in the shape that frugal.dtr.cases gives them."""

from __future__ import annotations

import json

import invented_campaigns as invented

from frugal import records
from frugal.dtr import offered
from frugal.dtr.offered import GROUPS, SIZES
from frugal.dtr.rows import UNITS

PEAK, MIB = 400e6, 2**20
NETWORKS = ("resnet32", "lstm")
THRASH = "ThrashError: recomputation passed the limit at aten.add (layer1.0)"
SHORT = "aten.convolution (conv1): 4096 bytes short of 90000"
# Overhead of a heuristic at half of the peak, and the least share of it that works.
HEURISTICS = {
    "h_dtr": (1.10, 0.2), "h_dtr_eq": (1.12, 0.3), "h_local": (1.5, 0.5), "h_msps": (1.3, 0.4), "h_lru": (1.8, 0.6),
    "h_size": (1.6, 0.6), "h_rand": (1.7, 0.5), "h_dtr_unopt": (1.11, 0.3),
}  # fmt: skip
DTR = {"preset": "quick", "ratios": None, "draws": 3}


def row(run_id: str, experiment: str, axes: dict, arm: str, metric: str, value: float | None, **more) -> dict:
    """A row of a case; without a value it is one that ran out of memory."""
    method = arm.partition("@")[0]
    return {
        "run_id": run_id, "case_id": records.case_id("dtr", experiment, axes), "system": "dtr",
        "experiment": experiment, "metric": metric, "unit": "s" if metric == "time" else UNITS.get(metric, "1"),
        "axes_json": json.dumps(axes), "network": axes.get("network"), "n": axes.get("batch"), "h": axes.get("h"),
        "w": axes.get("w"), "arm": arm, "role": "ours" if method.startswith(("dtr", "h_", "ab.")) else "baseline",
        "regime": "wall" if metric == "time" else None, "l2": None, "value": value,
        "status": "oom" if value is None else "ok", "reason": SHORT if value is None else None, "session": 0,
        "conditional": True, "dtype": "float32",
    } | more  # fmt: skip


def axes_of(network: str, sizes="small", **more) -> dict:
    return {"network": network, **SIZES[sizes][network], **more}


def overhead(method: str, ratio: float) -> float | None:
    """1 at the whole peak, HEURISTICS' at half of it; None below the least share."""
    half, least = HEURISTICS.get(method, (1.4, 0.4))
    return None if ratio < least - 1e-9 else 1 + 2 * (half - 1) * (1 - ratio)


def simulate(run_id: str, network="resnet32", origin="captured") -> list[dict]:
    """Every arm at ten budgets; h_local fails by recomputation, the others for want of room; draws differ."""
    axes = axes_of(network, origin=origin) if origin == "captured" else {"network": network, "origin": origin}
    rows = [
        row(run_id, "simulate", axes, "plain", name, share * PEAK)
        for name, share in (("peak", 1.0), ("constants", 0.05), ("bottleneck", 0.06), ("smallest", 0.1))
    ]
    for method in offered.simulated(DTR):
        settings = method.settings
        value = overhead(method.name, settings["ratio"])
        if value is None:
            thrash = {"status": "failed", "reason": THRASH} if method.name == "h_local" else {}
            rows.append(row(run_id, "simulate", axes, method.arm, "overhead", None, **thrash))
            continue
        value += 0.02 * settings.get("seed", 0) + {"ignore": 0.2, "banish": -0.01}.get(settings.get("dealloc"), 0.0)
        looked = {"lazy": 3e5, "cached": 2e5}.get(settings.get("e_star"), 2e7 if method.name == "h_dtr" else 1e5)
        rows.append(row(run_id, "simulate", axes, method.arm, "overhead", value))
        rows.append(row(run_id, "simulate", axes, method.arm, "tensor_accesses", looked * (1.5 - settings["ratio"])))
    return rows


def chains(run_id: str, lengths=(8, 64, 128, 256)) -> list[dict]:
    """h_dtr repeats 0.9 of a layer at 2√n whatever n is; LRU's remats grow as n^1.5; the optimum is known for 8."""
    rows = []
    for layers in lengths:
        for bound, more in (("2sqrt", 1.0), ("sqrt", 2.0), ("log2", 5.0)):
            axes = {"network": "chain", "layers": layers, "bound": bound}
            arms = {"h_dtr": 0.9, "h_dtr_eq": 0.9, "h_local": 2.5, "h_lru": 0.4 * layers**0.5, "h_size": 3.0,
                    "chen_sqrt": 0.95, "chen_greedy": 0.97, "revolve": 0.8}  # fmt: skip
            arms |= {"milp": 0.7} if layers == 8 else {}
            for arm, value in arms.items():
                lost = bound == "log2" and arm == "chen_sqrt"
                rows += [
                    row(run_id, "chain", axes, arm, metric, None if lost else value * more + first,
                        role="ours" if arm.startswith("h_") else "baseline")
                    for metric, first in (("remats_per_layer", 0.0), ("operations_per_layer", 2.0))
                ]  # fmt: skip
    for budget in (4, 8):
        axes = {"network": "adversary", "layers": 256, "bound": budget}
        rows += [
            row(run_id, "adversary", axes, arm, "remats_per_layer", 8.0 / budget + 0.1 * place)
            for place, arm in enumerate(offered.ADVERSARY_HEURISTICS)
        ]
    return rows


def static(run_id: str) -> list[dict]:
    """The bound at 1 + 0.1 of what is missing, the MILP twice as far, the heuristics thrice; Revolve is for chains."""
    rows = []
    for axes, whole in ((axes_of("resnet32", origin="captured"), False),
                        ({"network": "chain", "layers": 8, "origin": "made"}, True)):  # fmt: skip
        for ratio in (0.8, 0.5, 0.3):
            at = axes | {"ratio": ratio}
            far = {"lp_bound": 0.1, "milp": 0.2, "h_dtr": 0.3, "h_dtr_eq": 0.31, "h_lru": 0.9, "chen_sqrt": 0.6,
                   "chen_sqrt_linear": 0.5, "chen_greedy": 0.55, "chen_greedy_linear": 0.45, "lp_rounding": 0.35,
                   "revolve": 0.4 if whole else None}  # fmt: skip
            for arm, share in far.items():
                lost = {"status": "unsupported", "reason": "the graph is no chain"} if share is None else {}
                value = None if share is None else 1 + share * (1 - ratio)
                rows.append(row(run_id, "static", at, arm, "overhead", value, **lost))
    return rows


def slower(budget: float | None) -> float:
    """Time over plain's: 1.04 without a budget."""
    return 1.04 if budget is None else 1.04 + 0.5 * (1 - budget) ** 2


def steps(run_id: str, sizes="small", cuda=False, networks=NETWORKS) -> list[dict]:
    """Budgets 0.8, 0.5 and 0.3 of 400 MB, the last of which the LSTM has no room for; predictions 2 % too low."""
    rows = []
    for network in networks:
        plain = 0.02 if network == "resnet32" else 0.1
        axes = axes_of(network, sizes)
        cases = {"budgets": axes, "eager": axes | {"group": "eager"}, "compiled": axes | {"group": "compiled"}}
        rows.append(row(run_id, "budgets", axes, "plain", "time", plain))
        rows.append(row(run_id, "budgets", axes, "dtr", "time", plain * slower(None)))
        memory = [("plain", PEAK, None), ("dtr", PEAK, None)]
        for share in (0.8, 0.5, 0.3):
            lost = share == 0.3 and network == "lstm"
            arm = f"dtr@budget={share}"
            for name, case in cases.items():
                if name != "compiled" or cuda:
                    experiment = "budgets" if name == "budgets" else "arms"
                    rows.append(row(run_id, experiment, case, arm, "time", None if lost else plain * slower(share)))
            memory.append((arm, None if lost else share * PEAK, share))
        for group in ("eager", *(["compiled"] if cuda else [])):
            rows.append(row(run_id, "arms", cases[group], "plain", "time", plain))
            for place, name in enumerate(GROUPS[group]):
                arm = f"{name}@budget=0.5" if name == "activation_budget" else name
                rows.append(row(run_id, "arms", cases[group], arm, "time", plain * (1.2 + 0.1 * place)))
                memory.append((arm, (0.6 - 0.05 * place) * PEAK, None))
        for arm, peak, share in memory:
            rows.append(row(run_id, "memory", axes, arm, "peak_total", peak))
            if cuda:
                rows.append(row(run_id, "memory", axes, arm, "peak_allocated", peak and 1.1 * peak))
            if arm.startswith("dtr"):
                rows += _counted(run_id, axes, arm, peak, share, plain)
    return rows


def _counted(run_id: str, axes: dict, arm: str, peak: float | None, share: float | None, plain: float) -> list[dict]:
    if peak is None:
        return [row(run_id, "memory", axes, arm, "peak_managed", None)]
    again = slower(share) - slower(None)
    values = {
        "peak_managed": peak, "ops": 500, "remats": 80, "time_base": 0.95 * plain, "time_remat": again * plain,
        "time_search": 0.004 * plain, "time_cost_model": 0.001 * plain, "time_dispatch": 0.05 * plain,
        "overhead_counted": 1 + again, "overhead_predicted": slower(share) / slower(None) / 1.02,
        "peak_predicted": peak,
    }  # fmt: skip
    if share is not None:
        values["over_budget"] = peak - share * PEAK
    return [row(run_id, "memory", axes, arm, name, value) for name, value in values.items()]


def reach(run_id: str, cuda=True) -> list[dict]:
    """DTR twice plain's batch; the search under 48 GiB ended at its limit."""
    rows = []
    for network, grows in (("resnet1202", "batch"), ("treelstm", "depth")):
        plain = {"batch": 64, "depth": 6}[grows]
        sizes = {name: value for name, value in SIZES["published"][network].items() if name != grows}
        for cap in (12.0, 48.0):
            axes = {"network": network, **sizes, "grows": grows, "cap_gib": cap, "device": "cuda" if cuda else "meta"}
            for arm, times in (("plain", 1.0), ("dtr", 2.0), ("checkpoint_blocks", 1.5), ("save_on_cpu", None)):
                size = None if times is None else plain * times * (cap / 12)
                at_limit = {"reason": "the largest size that was tried fitted"} if cap == 48.0 and arm == "dtr" else {}
                rows.append(row(run_id, "reach", axes, arm, "max_size", size, **at_limit))
                if cuda and size:
                    rows.append(row(run_id, "reach", axes, arm, "time_per_sample", 0.01 * times**0.5))
    return rows


def runtime(run_id: str) -> list[dict]:
    """20 µs more an operator, 30 for convolutions."""
    rows = []
    for name in offered.OPERATOR_CLASSES:
        axes = {"class": name, "ops": 600}
        added = 30e-6 if name == "convolution" else 20e-6
        rows.append(row(run_id, "operators", axes, "plain", "time", 600 * 5e-6))
        rows.append(row(run_id, "operators", axes, "dtr", "time", 600 * (5e-6 + added)))
    return rows


def fragmentation(run_id: str) -> list[dict]:
    """Without expandable segments a fifth more is reserved."""
    rows = []
    for method in offered.fragmentation_methods():
        for moment in range(0, 64, 9):
            axes = axes_of("resnet32", moment=moment)
            allocated = PEAK * method.settings.get("budget", 1.0) * (1 - abs(moment - 32) / 64)
            more = 1.05 if method.settings["expandable"] else 1.2
            values = {"allocated": allocated, "reserved": more * PEAK, "largest_hole": 0.3 * (more - 1) * PEAK}
            rows += [row(run_id, "fragmentation", axes, method.arm, name, value) for name, value in values.items()]
    return rows


def every(run_id: str, cuda: bool) -> list[dict]:
    found = [*simulate(run_id), *simulate(run_id, "lstm", "published"), *chains(run_id), *static(run_id),
             *steps(run_id, cuda=cuda), *reach(run_id, cuda), *runtime(run_id)]  # fmt: skip
    return found + (fragmentation(run_id) if cuda else [])


def h200(folder) -> None:
    """A recorded campaign of every experiment on a GPU."""
    invented.write(folder, every("B", cuda=True), (), [invented.run("B", "cuda")])


def smoke(folder) -> None:
    """A laptop's smoke campaign, without a GPU."""
    invented.write(folder, every("A", cuda=False), (), [invented.run("A", "cpu")])
