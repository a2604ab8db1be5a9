# The workflow is workflow/Snakefile. An included file cannot hold the default target, so the default stands here.
include: "workflow/Snakefile"


rule all:
    default_target: True
    input:
        rules.figures.input,
    localrule: True
