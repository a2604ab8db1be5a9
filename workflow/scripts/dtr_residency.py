"""Write which values of the unit chain are there at each moment."""

from frugal.script import job

with job(snakemake) as say:
    from frugal.dtr import residency

    residency.write(snakemake.output[0])
