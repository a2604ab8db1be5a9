"""One timing session over steps under budgets, and over what DTR itself takes."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from pathlib import Path

    from frugal import jobs
    from frugal.jobs.rule import session

    jobs.measure(
        session(
            snakemake,
            experiment="steps",
            cases="frugal.dtr.bench_step:cases",
            arguments={
                "shard": snakemake.wildcards.shard,
                "dtr": snakemake.params.dtr,
                "logs": str(Path(snakemake.input.logs[0]).parent),
            },
            campaign_id=campaign_id(),
        ),
        say,
    )
