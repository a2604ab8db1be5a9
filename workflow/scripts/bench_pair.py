"""One timing session over pairs of layers in one kernel."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from frugal import jobs
    from frugal.jobs.rule import session

    jobs.measure(
        session(
            snakemake,
            experiment="kernels",
            cases="frugal.sft.bench_kernels:cases",
            arguments={"sft": snakemake.params.sft, "kernels": list(snakemake.input.kernels)},
            campaign_id=campaign_id(),
        ),
        say,
    )
