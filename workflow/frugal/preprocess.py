"""Which preprocessing belongs to which weights. A leaf, so that no edit of the configuration's text measures anew."""

from __future__ import annotations


def preprocess(network: str, definition: str) -> str:
    """What the weights of a network want done to an image: `torchvision` (RGB, scaled, normalised) or `keras_caffe`.

    Preprocessing belongs to the weights: Keras' ResNets alone were trained on BGR minus the mean.
    """
    return "keras_caffe" if definition == "keras_v1" and network.startswith("resnet") else "torchvision"
