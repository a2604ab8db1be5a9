"""Download one published file."""

from frugal.script import job

with job(snakemake) as say:
    from pathlib import Path

    from frugal import config
    from frugal.data import download, sources

    source = sources.Source.model_validate_json(snakemake.params.entry)
    got = download.fetch(source, Path(snakemake.output[0]), mirror=config.load(snakemake.config).mirror, progress=say)
    say(f"{got.name}: {got.bytes:,} bytes, sha256 {got.sha256}, from {got.address}")
