"""Ask which published files can be had, and from where."""

from frugal.script import job

with job(snakemake) as say:
    from pathlib import Path

    from frugal.data import sources

    found = sources.probe(
        snakemake.params.names,
        mirror=snakemake.params.mirror,
        offline=snakemake.params.offline,
    )
    sources.write_probe(Path(snakemake.output[0]), found)
    for name, there in found.items():
        say(f"{name}: {there.address or 'not to be had, a substitute is used'}")
