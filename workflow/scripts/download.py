"""Download one published file."""

from frugal.script import job

with job(snakemake) as say:
    from pathlib import Path

    from frugal.data import download, sources

    source = sources.Source.model_validate_json(snakemake.params.entry)
    download.fetch(source, Path(snakemake.output[0]), mirror=snakemake.params.mirror, progress=say)
