"""One timing session over the convolution layers of the configured networks."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from frugal import config, jobs

    cfg = config.load(snakemake.config)
    kernels = list(snakemake.input.kernels)
    cusnn, timing = snakemake.params.cusnn, snakemake.params.timing

    jobs.measure(
        jobs.Job(
            experiment="layers",
            preset=snakemake.params.preset,
            timing=timing | {"regimes": cusnn["regimes"] or timing["regimes"], "force": cfg.timing.force},
            cases="frugal.cusnn.bench_layer:cases",
            arguments={
                "cusnn": cusnn,
                "weights": list(snakemake.input.weights),
                "images": list(snakemake.input.images),
                "kernels": kernels,
            },
            device=snakemake.input.device,
            session=int(snakemake.wildcards.session),
            sessions=config.sessions(cfg),
            threads=snakemake.threads,
            config_json=config.record_json(cfg),
            campaign_id=campaign_id(),
            log=snakemake.log[0],
            out=snakemake.output[0],
            kernels=tuple(kernels),
        ),
        say,
    )
