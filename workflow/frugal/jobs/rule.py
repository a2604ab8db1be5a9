"""The session that a rule's job measures. For workflow/scripts alone.

`frugal.jobs` does not import it, so that an edit of what reads the configuration measures nothing anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from frugal import config
from frugal.jobs.job import Job


def session(
    snakemake: Any,
    *,
    experiment: str,
    cases: str,
    arguments: Mapping[str, object],
    regimes: Sequence[str] | None = None,
    campaign_id: str | None = None,
) -> Job:
    """What every timing rule's Job has in common, from Snakemake's object; the rest is Job's fields of these names.

    The rule has the inputs `device` and `kernels`, the parameters `preset` and `timing`, and the wildcard `session`.
    `regimes`: the system's own; None: the design's. ConfigError for a configuration that cannot be used.
    """
    cfg = config.load(snakemake.config)
    timing = snakemake.params.timing
    return Job(
        experiment=experiment,
        preset=snakemake.params.preset,
        timing=timing | {"regimes": regimes or timing["regimes"], "force": cfg.timing.force},
        cases=cases,
        arguments=arguments,
        device=snakemake.input.device,
        session=int(snakemake.wildcards.session),
        sessions=config.sessions(cfg),
        threads=snakemake.threads,
        config_json=config.record_json(cfg),
        campaign_id=campaign_id,
        log=snakemake.log[0],
        out=snakemake.output[0],
        kernels=tuple(snakemake.input.kernels),
    )
