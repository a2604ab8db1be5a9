# From generated Numba-CUDA source to PTX and a cubin, with a report of registers, spills and shared memory beside them.


rule build_kernel:
    output:
        multiext("<results>/kernels/{family}/{variant}.sm_{capability}", ".json", ".cubin", ".ptx"),
    log:
        "<logs>/build_kernel/{family}/{variant}.sm_{capability}.log",
    wildcard_constraints:
        family="sparse|tiled|control",
        capability=r"\d{2,3}",
    cache: True
    conda:
        "../../envs/kernels.yaml"
    resources:
        mem_mb=1500,
    params:
        made="{family} {variant} {capability}",  # wildcards are no part of a cache key
        tools=TOOLS,
        source=lambda wildcards: source_hash("kernels.build", f"kernels.{wildcards.family}"),
    message:
        "building {wildcards.family} kernel {wildcards.variant} for compute capability {wildcards.capability}"
    script:
        "../scripts/build_kernel.py"
