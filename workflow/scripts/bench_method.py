"""One timing session of one experiment on the method itself."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from frugal import config, jobs

    cfg = config.load(snakemake.config)

    jobs.measure(
        jobs.Job(
            experiment=snakemake.wildcards.experiment,
            preset=snakemake.params.preset,
            timing=snakemake.params.timing | {"force": cfg.timing.force},
            cases="frugal.method.cases:cases",
            arguments={"experiment": snakemake.wildcards.experiment},
            device=snakemake.input.device,
            session=int(snakemake.wildcards.session),
            sessions=config.sessions(cfg),
            threads=snakemake.threads,
            config_json=config.record_json(cfg),
            campaign_id=campaign_id(),
            log=snakemake.log[0],
            out=snakemake.output[0],
            kernels=tuple(snakemake.input.kernels),
        ),
        say,
    )
