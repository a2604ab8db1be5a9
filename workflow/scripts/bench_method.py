"""One timing session of one experiment on the method itself."""

from frugal.script import campaign_id, job

with job(snakemake) as say:
    from frugal import jobs
    from frugal.jobs.rule import session

    experiment = snakemake.wildcards.experiment
    jobs.measure(
        session(
            snakemake,
            experiment=experiment,
            cases="frugal.method.cases:cases",
            arguments={"experiment": experiment},
            campaign_id=campaign_id(),
        ),
        say,
    )
