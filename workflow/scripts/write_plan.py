"""Write down what the campaign will take."""

from frugal.script import job

with job(snakemake) as say:
    from pathlib import Path

    from frugal import config, plan

    path = Path(snakemake.output[0])
    planned = plan.plan(config.load(snakemake.config), results=path.parent)
    plan.write(planned, path)
    say(f"{planned.minutes[1]:.1f} minutes in all")
