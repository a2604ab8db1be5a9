"""One timing session over steps of training: one shard of SFT's timed experiments."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from frugal import jobs
    from frugal.jobs.rule import session

    jobs.measure(
        session(
            snakemake,
            experiment="steps",
            cases="frugal.sft.bench_step:cases",
            arguments={
                "shard": snakemake.wildcards.shard,
                "sft": snakemake.params.sft,
                "photographs": snakemake.params.photographs,
            },
            campaign_id=campaign_id(),
        ),
        say,
    )
