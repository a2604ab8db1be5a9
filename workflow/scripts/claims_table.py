"""Print the verdicts."""

from frugal.script import job

with job(snakemake) as say:
    from frugal import claims, records

    say("\n" + claims.verdict_table(records.read(snakemake.input[0], "claims")))
