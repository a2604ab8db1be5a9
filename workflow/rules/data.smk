# From published files to tensors: what can be had, downloads, images as .bin, weights of a network.


checkpoint sources:
    output:
        "data/availability.json",
    log:
        "<logs>/sources.log",
    localrule: True
    conda:
        "../../envs/core.yaml"
    params:
        groups=source_groups(),
        mirror=CONFIG.mirror,
        offline=CONFIG.offline,
        source=source_hash("frugal.data.sources"),
    message:
        "asking which published files can be had"
    script:
        "../scripts/sources.py"


rule download:
    output:
        ensure("data/downloads/{file}", non_empty=True),
    log:
        "<logs>/download/{file}.log",
    cache: True
    conda:
        "../../envs/core.yaml"
    params:
        entry=lambda wildcards: SOURCES[wildcards.file].model_dump_json(),
    message:
        "downloading {wildcards.file}"
    script:
        "../scripts/download.py"


rule image_to_bin:
    input:
        images=images_input,
    output:
        multiext("data/bins/{preprocess}", ".bin", ".bin.json"),
    log:
        "<logs>/image_to_bin/{preprocess}.log",
    cache: True
    conda:
        "../../envs/torch.yaml"
    params:
        preprocess="{preprocess}",  # wildcards are no part of a cache key
        size=CONFIG.data.size,
        limit=CONFIG.data.n_images,
        source=source_hash("frugal.data.image_to_bin", "frugal.data.photographs"),
    message:
        "converting images for networks that want {wildcards.preprocess} preprocessing"
    script:
        "../scripts/image_to_bin.py"


rule network_weights:
    input:
        weights=weights_input,
        images=lambda wildcards: bin_of(wildcards.network),
        targets=str(REPOSITORY / "workflow/frugal/models/target_sparsity.csv"),
    output:
        multiext("data/weights/{network}-{definition}", ".safetensors", ".json"),
    log:
        "<logs>/network_weights/{network}-{definition}.log",
    cache: True
    conda:
        "../../envs/torch.yaml"
    params:
        network="{network} {definition}",  # wildcards are no part of a cache key
        seed=CONFIG.cusnn.seed,
        source=source_hash("frugal.models.weights"),
    message:
        "making the weights of {wildcards.network} ({wildcards.definition})"
    script:
        "../scripts/network_weights.py"
