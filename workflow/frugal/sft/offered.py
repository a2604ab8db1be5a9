"""Which cases and arms SFT's campaign has, by preset and kind of device (frugal.sft.cases has the table).

Read while planning: no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

GIB = 2**30
MIB = 2**20

STEPS = ("sizes", "pareto", "tile_rate", "streaming")
COUNTED = ("memory", "largest", "macs", "prediction", "exactness", "training")
# Of each network for a pixel: multiply-adds of a forward pass, and bytes that an untiled float32 step keeps. A test
# compares them with frugal.memory.MacCounter and frugal.sft.saved_bytes.
PIXEL = {
    "vgg16": (305_856, 1456), "vgg16_bn": (305_856, 2536), "darknet19": (55_624, 558), "darknet19_bn": (55_624, 918),
    "resnet18": (36_144, 442), "resnet34": (73_008, 642), "resnet50": (81_458, 1712), "unet_small": (35_408, 784),
}  # fmt: skip
OURS = ("tiled_1seg", "tiled", "tiles", "strips", "planned")  # `tiles` in `exactness` alone
BUDGETED = ("tiled", "strips", "planned")
COMPILED = ("compile", "activation_budget")
CHAINS = ("vgg16", "vgg16_bn", "darknet19", "darknet19_bn")  # what the published schedule reads
BLOCKS = ("resnet18", "resnet34", "resnet50", "unet_small")
NORMED = ("vgg16_bn", "darknet19_bn", "resnet18", "resnet34", "resnet50", "unet_small")
# In `training`, with the images' own statistics. The paper's networks end in a softmax, whose mean squared error hardly
# changes in twenty steps.
TRAINED = {"smoke": ("unet_small",)}  # else:
TRAINED_MORE = ("resnet18", "unet_small")
SLOW = ("sft_artifact", "tiled_1seg")  # in `smoke` at the smallest size of the paper's networks alone
PREFETCHES = {"smoke": (2,)}  # windows under way; else:
PREFETCHES_MORE = (1, 2, 4)
PIXELS = {"smoke": ("uint8",)}  # of an image in main memory; else:
PIXELS_MORE = ("uint8", "float32")
RATE_TILES = {"smoke": (1, 2)}  # on a side; else:
RATE_TILES_MORE = (1, 2, 4, 8, 16, 32)
RATE_STACK = 8  # tiles at once
PARETO_BUDGETS = {"smoke": 3}  # between the smallest that works and what the untiled step takes; else:
PARETO_BUDGETS_MORE = 8
ARMS_MAX = 12  # of frugal.timing.case, which imports torch; a test compares
PLANS = {"smoke": 2, "quick": 20, "sweep": 60, "headline": 200}
TRAINING_STEPS = 20
TRAINING_SIZE = {"smoke": 64, "quick": 224}  # else the smallest size
MACS_SIZES = {"smoke": (10240, 20480)}
MACS_SIZES_MORE = (1024, 2048, 4096, 8192, 10240, 20480, 32768)
MACS_TILES = (1, 2, 4, 8, 16, 32)
MACS_BUDGETS_GIB = {"smoke": (9.5,)}  # else:
MACS_BUDGETS_GIB_MORE = (9.5, 37.0)
MACS_HOST_GIB = 72.0  # enough for the carries of every size
EXACT = {  # (h, w) of the images on which errors are looked at
    "smoke": ((64, 64), (203, 171)),
    "quick": ((64, 64), (203, 171), (250, 197), (224, 224)),
}
EXACT_MORE = ((64, 64), (203, 171), (250, 197), (224, 224), (33, 500), (1024, 1024))
EXACT_DIVISOR = 16
LARGEST_TILES = {"smoke": 4, "quick": 8}  # of the published schedule in `largest`; else:
LARGEST_TILES_MORE = 32
LARGEST_HIGH = {"smoke": 4096, "quick": 16384}  # the greatest side that is tried; else:
LARGEST_HIGH_MORE = 65536


@dataclass(frozen=True)
class Subject:
    """What is trained: the axes of a case."""

    network: str
    width_divisor: int
    batch: int
    h: int
    w: int
    precision: str = "fp32"
    channels_last: bool = False
    input: str = "device"
    norms: str = "none"
    more: tuple[tuple[str, object], ...] = ()
    """Axes of one experiment alone."""

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        return self.batch, 3, self.h, self.w

    def axes(self) -> dict[str, object]:
        """As the rows name them."""
        own = dataclasses.asdict(self)
        del own["more"]
        return own | dict(self.more)

    def columns(self) -> dict[str, object]:
        """Columns of the rows that repeat axes."""
        return {"n": self.batch, "c": 3, "h": self.h, "w": self.w}


@dataclass(frozen=True)
class Method:
    """An arm: a way to train (frugal.sft.methods) with its settings."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def arm(self) -> str:
        """`planned@budget_mib=64`."""
        shown = ",".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}@{shown}" if shown else self.name

    @property
    def role(self) -> str:
        return "ours" if self.name in OURS else "paper_emulation" if self.name == "sft_artifact" else "baseline"


def subjects(sft: Mapping[str, object], kind: str) -> Iterator[Subject]:
    """What `sizes` trains, in the configuration's order; a CPU computes in fp32 alone."""
    for network in sft["networks"]:
        for precision in precisions(sft, kind):
            for last in layouts(sft, precision):
                for place in sft["inputs"]:
                    squares = [(batch, size, size) for size in sizes(sft, network) for batch in sft["batch_sizes"]]
                    for shape in dict.fromkeys((*map(tuple, sft["beside"]), *squares)):
                        yield _subject(sft, network, shape, precision, last, place)


def largest_subjects(sft: Mapping[str, object], kind: str) -> Iterator[Subject]:
    """Of each network, precision and layout the case of the largest image in memory of the device."""
    found = {}
    for each in subjects(sft, kind):
        if each.input == sft["inputs"][0] and each.batch == sft["batch_sizes"][0]:
            found[each.network, each.precision, each.channels_last] = each
    yield from found.values()


def _subject(
    sft: Mapping[str, object], network: str, shape: tuple[int, int, int], precision: str, last: bool, place: str
) -> Subject:
    return Subject(network, sft["width_divisor"], *shape, precision, last, place, norms(sft, network))


def norms(sft: Mapping[str, object], network: str) -> str:
    return str(sft["norms"]) if network in NORMED else "none"


def sizes(sft: Mapping[str, object], network: str) -> Sequence[int]:
    """Sides of the images; in `smoke` the smallest alone for a network that is not the paper's."""
    if sft["preset"] == "smoke" and network not in CHAINS:
        return [min(sft["sizes"])]
    return sft["sizes"]


def precisions(sft: Mapping[str, object], kind: str) -> Sequence[str]:
    return sft["precisions"] if kind == "cuda" else ["fp32"]


def layouts(sft: Mapping[str, object], precision: str) -> Sequence[bool]:
    """Whether channels-last."""
    return {"auto": [precision == "bf16"], "on": [True], "off": [False], "both": [False, True]}[sft["channels_last"]]


def tiles(sft: Mapping[str, object], size: int) -> int:
    """Tiles on a side of the published schedule and of one segment, as published for that size."""
    if sft["tiles"]:
        return int(sft["tiles"])
    return next(count for least, count in ((20480, 32), (10240, 16), (4096, 8), (0, 4)) if size >= least)


def methods(sft: Mapping[str, object], subject: Subject, kind: str) -> list[Method]:
    """The arms of `sizes` and `memory`, as far as the device and the network have them."""
    found = []
    for name in sft["methods"]:
        if name in SLOW and sft["preset"] == "smoke" and not _first_look(sft, subject):
            continue
        if name == "checkpoint" and subject.network != "unet_small":
            found.append(Method(name, {"segments": sft["checkpoint_segments"]}))
        elif name in ("sft_artifact", "tiled_1seg"):
            if name == "tiled_1seg" or subject.network in CHAINS:
                found.append(Method(name, {"tiles": tiles(sft, max(subject.h, subject.w))}))
        elif name in BUDGETED:
            budgets = sft["budgets_gib"] if name == "planned" else sft["budgets_gib"][:1]
            found += [budgeted(name, sft, budget) for budget in budgets]
        elif name in COMPILED and kind == "cuda":
            found.append(Method(name, {"budget": 0.5} if name == "activation_budget" else {}))
        elif name in ("vanilla", "save_on_cpu") or (name == "checkpoint_blocks" and subject.network in BLOCKS):
            found.append(Method(name))
    return found


def _first_look(sft: Mapping[str, object], subject: Subject) -> bool:
    return subject.network in CHAINS and subject.h == min(sft["sizes"])


def budgeted(name: str, sft: Mapping[str, object], budget_gib: float, **more: object) -> Method:
    """A planned arm; budgets are whole MiB."""
    host = {"host_mib": round(sft["host_budget_gib"] * 1024)} if sft["host_budget_gib"] else {}
    return Method(name, {"budget_mib": max(1, round(budget_gib * 1024)), **host, **more})


def baselines(sft: Mapping[str, object], subject: Subject, kind: str) -> list[Method]:
    """The arms of `pareto` beside the planned ones; in `smoke` the untiled step."""
    if sft["preset"] == "smoke":
        return [Method("vanilla")]
    return [method for method in methods(sft, subject, kind) if method.name not in BUDGETED]


def rate_tiles(sft: Mapping[str, object], subject: Subject) -> list[int]:
    """Tiles on a side in `tile_rate`: no more than the body's output, a thirty-second of the image, has rows."""
    wanted = RATE_TILES.get(sft["preset"], RATE_TILES_MORE)
    return [count for count in wanted if count <= min(subject.h, subject.w) // 32]


def rate_methods(sft: Mapping[str, object], subject: Subject, kind: str) -> list[Method]:
    """The arms of `tile_rate`. On a GPU smaller tiles also as CUDA graphs, the smallest several at once, and one number
    of tiles with pairs of layers in one kernel in the forward pass.
    """
    counts = rate_tiles(sft, subject)
    found = [{"tiles": count} for count in counts]
    if kind == "cuda" and len(counts) > 1:
        found += [{"tiles": count, "graphs": 1} for count in counts[-2:]]
        found += [{"tiles": counts[-1], "stack": min(RATE_STACK, counts[-1] ** 2), "graphs": on} for on in (0, 1)]
        found += [{"tiles": counts[-2], "backend": "kernel"}] if not subject.channels_last else []
    return [Method("vanilla"), *(Method("tiled_1seg", settings) for settings in found)]


def prefetches(sft: Mapping[str, object]) -> Sequence[int]:
    """How many windows are under way in `streaming`, an arm each."""
    return PREFETCHES.get(sft["preset"], PREFETCHES_MORE)


def pareto_count(sft: Mapping[str, object], beside: int) -> int:
    """How many budgets `pareto` has, beside so many baselines: a case has ARMS_MAX arms at most."""
    return min(PARETO_BUDGETS.get(sft["preset"], PARETO_BUDGETS_MORE), ARMS_MAX - beside)


def largest_methods(sft: Mapping[str, object], subject: Subject, cap_mib: int) -> list[Method]:
    """The arms of `largest`; the planned ones have the whole cap as their budget, and with host memory what is set."""
    found = [Method("vanilla")]
    if subject.network != "unet_small":
        found.append(Method("checkpoint", {"segments": sft["checkpoint_segments"]}))
    if subject.network in CHAINS:
        found.append(Method("sft_artifact", {"tiles": LARGEST_TILES.get(sft["preset"], LARGEST_TILES_MORE)}))
    found.append(Method("planned", {"budget_mib": cap_mib}))
    if sft["host_budget_gib"]:
        found.append(Method("planned", {"budget_mib": cap_mib, "host_mib": round(sft["host_budget_gib"] * 1024)}))
    return found


def step_subjects(experiment: str, sft: Mapping[str, object], kind: str) -> list[Subject]:
    """The cases of a timed experiment; in `smoke` all but `sizes` have one, which is small."""
    if experiment == "sizes":
        return list(subjects(sft, kind))
    found = list(largest_subjects(sft, kind))
    if sft["preset"] == "smoke":
        side = min(sft["sizes"])
        found = [dataclasses.replace(found[0], h=side, w=side)]
    if experiment == "streaming":
        return [
            dataclasses.replace(each, input="host", more=(("pixels", pixels),))
            for each in found
            for pixels in PIXELS.get(sft["preset"], PIXELS_MORE)
        ]
    return found


def arm_count(experiment: str, sft: Mapping[str, object], subject: Subject, kind: str) -> int:
    """How many arms a timed case has at most."""
    if experiment == "sizes":
        return len(methods(sft, subject, kind))
    if experiment == "pareto":
        beside = len(baselines(sft, subject, kind))
        return beside + pareto_count(sft, beside)
    if experiment == "tile_rate":
        return len(rate_methods(sft, subject, kind))
    return 1 + len(prefetches(sft))
