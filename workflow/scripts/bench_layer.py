"""One timing session over the convolution layers of the configured networks."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from frugal import config
    from frugal.cusnn import bench_layer

    cfg = config.load(snakemake.config)

    bench_layer.session(
        preset=snakemake.params.preset,
        timing=snakemake.params.timing,
        cusnn=snakemake.params.cusnn,
        weights=snakemake.input.weights,
        images=snakemake.input.images,
        kernels=snakemake.input.kernels,
        device=snakemake.input.device,
        session=int(snakemake.wildcards.session),
        sessions=config.sessions(cfg),
        threads=snakemake.threads,
        config_json=config.record_json(cfg),
        campaign_id=campaign_id(),
        log=snakemake.log[0],
        out=snakemake.output[0],
        say=say,
    )
