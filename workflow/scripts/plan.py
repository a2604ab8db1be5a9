"""Say what the campaign would take from here."""

from frugal.script import job

with job(snakemake) as say:
    from pathlib import Path

    from frugal import config, plan

    planned = plan.plan(config.load(snakemake.config), results=Path(snakemake.input[0]).parent)
    say(plan.text(planned))
