"""Capture the step of every program that DTR's campaign trains, on the machine that measures."""

from frugal.script import job

with job(snakemake) as say:
    import json
    from pathlib import Path

    import torch

    from frugal.dtr import captures, offered

    torch.set_num_threads(snakemake.threads)
    kind = json.loads(Path(snakemake.input.device).read_text())["device_kind"]
    dtr = snakemake.params.dtr
    captures.write(
        offered.subjects(dtr, kind),
        Path(snakemake.output[0]).parent,
        device=snakemake.input.device,
        kind=kind,
        seed=dtr["seed"],
        say=say,
    )
