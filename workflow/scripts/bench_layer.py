"""One timing session of one of cuSNN's experiments on single convolution layers."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from frugal import jobs
    from frugal.jobs.rule import session

    experiment = snakemake.wildcards.experiment
    jobs.measure(
        session(
            snakemake,
            experiment=experiment,
            cases="frugal.cusnn.bench_layer:cases",
            arguments={
                "experiment": experiment,
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
