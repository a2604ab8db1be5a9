"""Draw one figure from Parquet."""

from frugal.script import job

with job(snakemake) as say:
    from pathlib import Path

    from frugal import figures

    frames = figures.load(
        Path(snakemake.input.runs).parent,
        sorted({Path(path).parent for path in snakemake.input.recorded}),
        blocks_of=figures.BLOCKS_OF.get(snakemake.params.name),
    )
    figures.draw(snakemake.params.name, frames, Path(snakemake.output.png).with_suffix(""))
