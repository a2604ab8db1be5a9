"""Convert images to one .bin of float32 NCHW, with a manifest."""

from frugal.script import job

with job(snakemake) as say:
    import tempfile

    from frugal.data import photographs
    from frugal.data.image_to_bin import image_to_bin

    with tempfile.TemporaryDirectory() as folder:
        images = list(snakemake.input.images) or photographs.packaged(folder)
        report = image_to_bin(
            images,
            snakemake.output[0],
            size=snakemake.params.size,
            preprocess=snakemake.wildcards.preprocess,
            limit=snakemake.params.limit,
        )
    say(report.summary)
