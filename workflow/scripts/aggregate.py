"""Join the rows of all jobs into three tables."""

from frugal.script import job

with job(snakemake) as say:
    from pathlib import Path

    from frugal.aggregate import aggregate

    report = aggregate(snakemake.input.raw, Path(snakemake.output.runs).parent)
    for line in report.details:
        print(line)
    say(report.summary)
