"""Experiment `macs`: multiply-adds of each schedule, from closed forms and plans; it needs no device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from frugal.sft import offered
from frugal.sft.artifact import artifact_macs
from frugal.sft.cases import Training
from frugal.sft.counts import step_macs
from frugal.sft.graph import trace
from frugal.sft.offered import GIB, MIB, Method, Subject
from frugal.sft.plans import Plan
from frugal.sft.rows import Result, Say, attempted
from frugal.timing import Device

METRICS = ("macs", "macs_ratio")


def results(machine: Device, say: Say, shard: str, sft: Mapping[str, object], photographs: str) -> Iterator[Result]:
    """The full networks in float32 at batch 1, whatever the campaign's own sizes are; in `smoke` the paper's alone."""
    chains = [network for network in sft["networks"] if network in offered.CHAINS]
    for network in chains if sft["preset"] == "smoke" else sft["networks"]:
        for size in offered.MACS_SIZES.get(sft["preset"], offered.MACS_SIZES_MORE):
            norms = "frozen" if network in offered.NORMED else "none"
            training = Training(Subject(network, 1, 1, size, size, norms=norms), photographs, "meta", sft["seed"])
            say(f"{network} {size}: multiply-adds of its schedules")
            budgets = offered.MACS_BUDGETS_GIB.get(sft["preset"], offered.MACS_BUDGETS_GIB_MORE)
            yield from _of(training, budgets)


def _of(training: Training, budgets_gib: Sequence[float]) -> Iterator[Result]:
    subject, untiled = training.subject, sum(training.macs.values())
    arms = [Method("vanilla")]
    for count in offered.MACS_TILES:
        arms += [Method("tiled_1seg", {"tiles": count})] if count <= subject.h // 32 else []
        arms += [Method("sft_artifact", {"tiles": count})] if subject.network in offered.CHAINS else []
    arms.append(Method("strips", _budget(budgets_gib[0])))
    arms += [Method("planned", _budget(budget)) for budget in budgets_gib]

    for method in arms:

        def counted(method: Method = method) -> dict[str, object]:
            macs, settings = _macs(training, method)
            return {"values": {"macs": macs, "macs_ratio": macs / untiled}, "settings": settings, "flop": 2.0 * macs}

        yield attempted(Result("macs", subject, method, metrics=METRICS), counted)


def _budget(gib: float) -> dict[str, int]:
    return {"budget_mib": round(gib * 1024), "host_mib": round(offered.MACS_HOST_GIB * 1024)}


def _macs(training: Training, method: Method) -> tuple[int, dict[str, object]]:
    """(multiply-adds of a step, what a row says of the plan)."""
    subject, model = training.subject, training.on_meta
    if method.name == "vanilla":
        return sum(training.macs.values()), {}
    if method.name == "sft_artifact":
        return artifact_macs(model, subject.h, subject.w, int(method.settings["tiles"])).total, {}
    if method.name == "tiled_1seg":
        graph = trace(model).sized(subject.image_shape)
        tiles = (int(method.settings["tiles"]),) * 2
        made = Plan.manual(model, subject.image_shape, tiles=[tiles] * len(graph.cut(())))
        return sum(step_macs(model, graph, graph.shapes(subject.image_shape), made.segments).values()), {}
    allow = ("strips",) if method.name == "strips" else ("store", "tiles", "strips")
    host = int(offered.MACS_HOST_GIB * GIB)
    made = training.planned(int(method.settings["budget_mib"]) * MIB, host_budget_bytes=host, allow=allow)
    settings = {
        "segments": len(made.segments), "kinds": [each.kind for each in made.segments],
        "peak_predicted": made.predicted_peak_bytes, "host_bytes": made.host_bytes,
    }  # fmt: skip
    return sum(made.predicted_macs.values()), settings
