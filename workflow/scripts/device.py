"""Describe the machine that measures."""

from frugal.script import job

with job(snakemake) as say:
    from frugal import provenance

    record = provenance.device_record(kind=snakemake.params.kind)
    provenance.write_device_record(record, snakemake.output[0])
    say(f"this machine measures as {record['device_key']}")
