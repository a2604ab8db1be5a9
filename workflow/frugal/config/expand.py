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
    """null: those that the experiment names as its own."""


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
