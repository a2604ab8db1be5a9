"""Bring the weights of one network into one form, or draw them where none can be had."""

from frugal.script import job

with job(snakemake) as say:
    from pathlib import Path

    from frugal.data.image_to_bin import read_bin
    from frugal.models import weights

    images, _ = read_bin(snakemake.input.images)
    given = snakemake.input.weights
    info = weights.convert(
        Path(given[0]) if given else None,
        snakemake.wildcards.network,
        snakemake.wildcards.definition,
        images,
        Path(snakemake.output[0]),
        seed=snakemake.params.seed,
    )
    say(f"{snakemake.wildcards.network}: {info.origin}")
