"""One timing session over whole networks."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from frugal import jobs
    from frugal.jobs.rule import session

    jobs.measure(
        session(
            snakemake,
            experiment="networks",
            cases="frugal.cusnn.bench_network:cases",
            arguments={
                "cusnn": snakemake.params.cusnn,
                "weights": list(snakemake.input.weights),
                "images": list(snakemake.input.images),
                "kernels": list(snakemake.input.kernels),
                "plans": list(snakemake.input.plans),
            },
            regimes=snakemake.params.cusnn["regimes"],
            campaign_id=campaign_id(),
        ),
        say,
    )
