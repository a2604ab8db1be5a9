"""What a configuration asks for: the one place where networks, batches and experiments are multiplied."""

from dataclasses import dataclass
from typing import get_args

from .dtr_section import DtrMethod, DtrNetwork
from .models import Config, SftMethod


@dataclass(frozen=True, kw_only=True)
class CaseSpec:
    """What one network at one batch size asks of one experiment. Its layers are found when the network is built."""

    system: str
    experiment: str
    network: str | None
    """None: shapes of the experiment's own."""
    definition: str | None
    layer_selection: str | None
    """`distinct`: each shape once; `all`: each layer; None: no layers of a network."""
    batch: int
    """Images in one call."""
    baselines: tuple[str, ...]
    regimes: tuple[str, ...] | None
    """null: those that each implementation names as its own."""


# How many sessions a preset has (docs/methodology.md, "Design of an experiment"): what plans jobs needs to know it
# without the timing package. A test compares.
PRESET_SESSIONS = {"smoke": 1, "quick": 3, "sweep": 5, "headline": 8}

# Experiments of cuSNN that are timed, each session a job; `sparsity` counts, once a network.
CUSNN_TIMED = ("layers", "break_even", "ladder", "networks")
SPARSITIES = {
    "smoke": (0.0, 0.5, 0.9),
    "quick": (0.0, 0.3, 0.5, 0.7, 0.9),
    "sweep": (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "headline": (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
}


def sessions(cfg: Config) -> int:
    """How many sessions a campaign has."""
    return cfg.timing.sessions or PRESET_SESSIONS[cfg.preset]


def batch_sizes(cfg: Config) -> list[int]:
    """Images in one call of cuSNN's experiments."""
    return cfg.cusnn.batch_sizes or ([1, 2] if cfg.preset == "smoke" else [1, 8])


def sparsities(cfg: Config) -> list[float]:
    """Shares of zeros of cuSNN's break-even map, ascending."""
    return sorted(cfg.cusnn.sparsities or SPARSITIES[cfg.preset])


def cusnn(cfg: Config) -> dict[str, object]:
    """The section `cusnn` with the preset's numbers for each null that stands for them, and the preset's name."""
    filled = {"preset": cfg.preset, "batch_sizes": batch_sizes(cfg), "sparsities": sparsities(cfg)}
    return cfg.cusnn.model_dump() | filled


# What a null of the section `sft` stands for, by preset (docs/sft.md).
_SMALL, _LARGE = ["vgg16", "darknet19", "resnet18"], ["vgg16", "darknet19", "resnet50", "unet_small"]
SFT_PRESETS = {
    "smoke": {
        "networks": _SMALL, "width_divisor": 16, "sizes": [256, 512], "precisions": ["fp32"],
        "budgets_gib": [2**-7], "caps_gib": [2**-5], "tiles": 2,
        "methods": ["vanilla", "checkpoint", "sft_artifact", "tiled_1seg", "strips", "planned"],
    },
    "quick": {
        "networks": _SMALL, "width_divisor": 4, "sizes": [1024, 2048], "precisions": ["fp32"],
        "budgets_gib": [0.25], "caps_gib": [0.25, 0.5], "methods": list(get_args(SftMethod)),
    },
    "sweep": {
        "networks": _LARGE, "width_divisor": 1, "sizes": [1024, 2048, 4096, 8192, 10240],
        "precisions": ["fp32", "bf16"], "budgets_gib": [9.5], "caps_gib": [11.0, 24.0, 40.0, 80.0],
        "methods": list(get_args(SftMethod)),
    },
    "headline": {
        "networks": _LARGE, "width_divisor": 1, "sizes": [512, 1024, 2048, 3072, 4096, 8192, 10240, 20480],
        "precisions": ["fp32", "tf32", "bf16"], "budgets_gib": [9.5, 37.0], "caps_gib": [11.0, 24.0, 40.0, 80.0],
        "methods": list(get_args(SftMethod)),
    },
}  # fmt: skip


SFT_BESIDE = {"headline": [(1, 4096, 1536), (2, 2048, 2048), (4, 2048, 2048)]}


def sft(cfg: Config) -> dict[str, object]:
    """The section `sft` with the preset's values for each null that stands for them, and the preset's name.

    `beside`: (batch, height, width) of further images, where the sizes are the preset's own.
    """
    given = {key: value for key, value in cfg.sft.model_dump().items() if value is not None}
    beside = SFT_BESIDE.get(cfg.preset, []) if cfg.sft.sizes is None else []
    return {"preset": cfg.preset, "tiles": None, "beside": beside, **SFT_PRESETS[cfg.preset], **given}


# What a null of the section `dtr` stands for, by preset (docs/dtr.md).
_DTR_SMALL = ["resnet32", "unet", "lstm", "treelstm", "transformer"]
_DTR_BUDGETS = [1.0, 0.8, 0.6, 0.5, 0.4, 0.3]
DTR_PRESETS = {
    "smoke": {
        "networks": _DTR_SMALL, "budgets": [0.8, 0.5], "draws": 3, "caps_gib": [2**-8], "solver_s": 1.0,
        "methods": ["checkpoint_blocks", "save_on_cpu"],
    },
    "quick": {
        "networks": [*_DTR_SMALL, "inceptionv4"], "budgets": _DTR_BUDGETS, "draws": 10, "caps_gib": [12.0],
        "solver_s": 60.0, "methods": list(get_args(DtrMethod)),
    },
    "sweep": {
        "networks": list(get_args(DtrNetwork)), "budgets": _DTR_BUDGETS, "draws": 10, "caps_gib": [12.0, 24.0, 48.0],
        "solver_s": 60.0, "methods": list(get_args(DtrMethod)),
    },
    "headline": {
        "networks": list(get_args(DtrNetwork)), "budgets": _DTR_BUDGETS, "draws": 10,
        "caps_gib": [4.0, 8.0, 12.0, 24.0, 48.0, 1024.0], "solver_s": 60.0, "methods": list(get_args(DtrMethod)),
    },
}  # fmt: skip


def dtr(cfg: Config) -> dict[str, object]:
    """The section `dtr` with the preset's values for each null that stands for them, and the preset's name."""
    given = {key: value for key, value in cfg.dtr.model_dump().items() if value is not None}
    return {"preset": cfg.preset, "sizes": None, "ratios": None, **DTR_PRESETS[cfg.preset], **given}


def networks(cfg: Config) -> list[str]:
    """The networks whose weights and images a campaign needs, sorted: the ladder alone needs none."""
    needed = "cusnn" in cfg.systems and cfg.cusnn.experiments != ["ladder"]
    return sorted(cfg.cusnn.networks) if needed else []


def expand(cfg: Config) -> list[CaseSpec]:
    """List every (system, experiment, network, batch) of a campaign, in the order of the configuration."""
    return cusnn_cases(cfg) if "cusnn" in cfg.systems else []


def cusnn_cases(cfg: Config) -> list[CaseSpec]:
    """Each experiment that is asked for: `sparsity` once a network, the others for each batch."""
    ours = cfg.cusnn
    chosen = ours.regimes or cfg.timing.regimes
    timed = {"baselines": tuple(ours.baselines), "regimes": tuple(chosen) if chosen else None}
    cases = []
    for network in ours.networks:
        common = {"system": "cusnn", "network": network, "definition": ours.definition}
        if "sparsity" in ours.experiments:
            cases.append(
                CaseSpec(**common, experiment="sparsity", layer_selection="all", batch=1, baselines=(), regimes=None)
            )
        for experiment, selection in (("layers", ours.layers), ("networks", None)):
            if experiment in ours.experiments:
                cases += [
                    CaseSpec(**common, **timed, experiment=experiment, layer_selection=selection, batch=batch)
                    for batch in batch_sizes(cfg)
                ]
    for experiment in ("break_even", "ladder"):
        if experiment in ours.experiments:
            own = {"system": "cusnn", "network": None, "definition": None, "layer_selection": None}
            cases += [CaseSpec(**own, **timed, experiment=experiment, batch=batch) for batch in batch_sizes(cfg)]
    return cases
