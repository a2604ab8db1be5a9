# Which machine measures: asked in a job, since the one that plans may be another.


checkpoint device:
    output:
        "<results>/device/{label}.json",
    log:
        "<logs>/device/{label}.log",
    conda:
        "../../envs/torch.yaml"
    params:
        kind=lambda wildcards: CONFIG.devices[wildcards.label].kind,
        source=source_hash("frugal.provenance"),
    message:
        "looking at the machine that measures ({wildcards.label})"
    script:
        "../scripts/device.py"
