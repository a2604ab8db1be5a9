# What a campaign will take, written down before it runs, so that the report can set it beside what it took.


rule write_plan:
    output:
        "<results>/plan.json",
    log:
        "<logs>/write_plan.log",
    localrule: True
    conda:
        "../../envs/kernels.yaml"
    params:
        # no source: a plan that is made again after its campaign has learned from it
        config=CONFIG.model_dump_json(),
    message:
        "reckoning what the campaign takes"
    script:
        "../scripts/write_plan.py"
