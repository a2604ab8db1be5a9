"""Count the zeros in the input of every convolution of one network."""

from frugal.script import job

with job(snakemake) as say:
    import os

    from frugal import config
    from frugal.cusnn import rows

    rows.write_sparsity(
        weights=snakemake.input.weights,
        images=snakemake.input.images,
        device=snakemake.input.device,
        preset=snakemake.params.preset,
        threads=snakemake.threads,
        config_json=config.record_json(config.load(snakemake.config)),
        campaign_id=os.environ.get("FRUGAL_CAMPAIGN_ID"),
        out=snakemake.output[0],
        say=say,
    )
