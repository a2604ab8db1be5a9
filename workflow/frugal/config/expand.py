"""What a configuration asks for: the one place where networks, batches and experiments are multiplied."""

from dataclasses import dataclass

from .models import Config


@dataclass(frozen=True, kw_only=True)
class CaseSpec:
    """What one network at one batch size asks of one experiment. Its layers are found when the network is built."""

    system: str
    experiment: str
    network: str
    definition: str
    layer_selection: str
    """`distinct`: each shape once; `all`: each layer."""
    batch: int
    """Images in one call."""
    baselines: tuple[str, ...]
    regimes: tuple[str, ...] | None
    """null: those that each implementation names as its own."""


# How many sessions a preset has (docs/methodology.md, "Design of an experiment"): what plans jobs needs to know it
# without the timing package. A test compares.
PRESET_SESSIONS = {"smoke": 1, "quick": 3, "sweep": 5, "headline": 8}


def sessions(cfg: Config) -> int:
    """How many sessions a campaign has."""
    return cfg.timing.sessions or PRESET_SESSIONS[cfg.preset]


def expand(cfg: Config) -> list[CaseSpec]:
    """List every (system, experiment, network, batch) of a campaign, in the order of the configuration."""
    return cusnn_cases(cfg) if "cusnn" in cfg.systems else []


def cusnn_cases(cfg: Config) -> list[CaseSpec]:
    """`sparsity`: the zeros in each layer's input, once a network; `layers`: the time of layers, for each batch."""
    regimes = cfg.cusnn.regimes or cfg.timing.regimes
    cases = []
    for network in cfg.cusnn.networks:
        common = {"system": "cusnn", "network": network, "definition": cfg.cusnn.definition}
        cases.append(
            CaseSpec(**common, experiment="sparsity", layer_selection="all", batch=1, baselines=(), regimes=None)
        )
        cases += [
            CaseSpec(
                **common,
                experiment="layers",
                layer_selection=cfg.cusnn.layers,
                batch=batch,
                baselines=tuple(cfg.cusnn.baselines),
                regimes=tuple(regimes) if regimes else None,
            )
            for batch in cfg.cusnn.batch_sizes
        ]
    return cases
