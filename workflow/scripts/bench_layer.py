"""One timing session over the convolution layers of the configured networks."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from frugal import jobs
    from frugal.jobs.rule import session

    jobs.measure(
        session(
            snakemake,
            experiment="layers",
            cases="frugal.cusnn.bench_layer:cases",
            arguments={
                "cusnn": snakemake.params.cusnn,
                "weights": list(snakemake.input.weights),
                "images": list(snakemake.input.images),
                "kernels": list(snakemake.input.kernels),
            },
            regimes=snakemake.params.cusnn["regimes"],
            campaign_id=campaign_id(),
        ),
        say,
    )
