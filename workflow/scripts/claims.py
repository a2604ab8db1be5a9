"""Judge the claims by this machine's tables and those of the recorded campaigns."""

from frugal.script import job

with job(snakemake) as say:
    from pathlib import Path

    from frugal import claims, records

    folders = sorted({Path(path).parent for path in snakemake.input.recorded})
    table = claims.evaluate(
        claims.load(),
        claims.Tables.read(Path(snakemake.input.runs).parent),
        {folder.name: claims.Tables.read(folder) for folder in folders},
    )
    records.write_table(snakemake.output[0], table, "claims")
    say(f"{table.num_rows} verdicts")
