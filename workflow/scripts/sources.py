"""Ask which published files can be had, and from where."""

from frugal.script import job

with job(snakemake) as say:
    from pathlib import Path

    from frugal.data import sources

    groups = snakemake.params.groups
    found = sources.probe(sorted({name for group in groups for name in group}), mirror=snakemake.params.mirror)
    if snakemake.params.offline == "never":
        sources.require(found, groups)
    sources.write_probe(Path(snakemake.output[0]), found)
    for name, there in found.items():
        say(f"{name}: {there.address or 'not to be had here'}")
