"""Keras' names for the parts of our networks, and its parameters as a torch state dict.

| ours (torchvision's)                              | Keras                          |
|---------------------------------------------------|--------------------------------|
| conv1, bn1; features.conv0, features.norm0        | conv1_conv, conv1_bn           |
| layer{s}.{b}.conv{i}, .bn{i}                      | conv{s+1}_block{b+1}_{i}_conv, _{i}_bn |
| layer{s}.{b}.downsample.0, .1                     | conv{s+1}_block{b+1}_0_conv, _0_bn |
| denseblock{s}.denselayer{b}.norm1, conv1, norm2, conv2 | conv{s+1}_block{b}_0_bn, _1_conv, _1_bn, _2_conv |
| transition{s}.norm, .conv                         | pool{s+1}_bn, pool{s+1}_conv   |
| features.norm5; fc or classifier                  | bn; predictions                |

Batch norm's gamma, beta, mean, var are weight, bias, running_mean, running_var.
"""

import re

FIXED = {
    "conv1": "conv1_conv",
    "bn1": "conv1_bn",
    "fc": "predictions",
    "features.conv0": "conv1_conv",
    "features.norm0": "conv1_bn",
    "features.norm5": "bn",
    "classifier": "predictions",
}
DENSE_LAYER = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}
SHORTCUT = {"0": "0_conv", "1": "0_bn"}
BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}


def layer_name(name: str) -> str:
    """Translate a module's name into that of the Keras layer: ``layer1.0.conv2`` → ``conv2_block1_2_conv``.

    Raises KeyError for a module that is no convolution, batch norm or classifier of a ResNet or DenseNet.
    """
    if name in FIXED:
        return FIXED[name]
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)", name):
        stage, block, kind, index = match.groups()
        return f"conv{int(stage) + 1}_block{int(block) + 1}_{index}_{kind}"
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.(0|1)", name):
        stage, block, index = match.groups()
        return f"conv{int(stage) + 1}_block{int(block) + 1}_{SHORTCUT[index]}"
    if match := re.fullmatch(r"features\.denseblock(\d)\.denselayer(\d+)\.(norm1|conv1|norm2|conv2)", name):
        stage, layer, part = match.groups()
        return f"conv{int(stage) + 1}_block{layer}_{DENSE_LAYER[part]}"
    if match := re.fullmatch(r"features\.transition(\d)\.(norm|conv)", name):
        stage, part = match.groups()
        return f"pool{int(stage) + 1}_{'bn' if part == 'norm' else 'conv'}"
    raise KeyError(name)


def parameter_name(name: str) -> str:
    """Translate a state-dict key: ``layer1.0.bn2.running_var`` → ``conv2_block1_2_bn.var``."""
    module, _, parameter = name.rpartition(".")
    layer = layer_name(module)
    return f"{layer}.{BATCH_NORM[parameter] if layer == 'bn' or layer.endswith('_bn') else parameter}"
