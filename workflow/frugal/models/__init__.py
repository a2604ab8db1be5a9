"""The networks that every system measures: a flat file a family, a function a network, torchvision's parameter names.

model = build("resnet50", "torchvision_v1.5")     # untrained
model, info = load_network(path)                  # with the weights that `frugal.models.weights.convert` wrote
"""

import difflib

from torch import nn

from frugal.models import densenet, resnet
from frugal.models.errors import UnknownNetwork, WeightsError

NETWORKS = {
    "densenet121": densenet.densenet121,
    "densenet169": densenet.densenet169,
    "densenet201": densenet.densenet201,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
}
DEFINITIONS = ("torchvision_v1.5", "keras_v1")

__all__ = ["DEFINITIONS", "NETWORKS", "UnknownNetwork", "WeightsError", "build", "preprocess"]


def build(name: str, definition: str = "torchvision_v1.5", num_classes: int = 1000) -> nn.Module:
    """Build an untrained network, in training mode as torch does. Input [B, 3, 224, 224] float32, output [B, num_classes].

    Raises UnknownNetwork for a name or a definition that is not here.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(str(name), NETWORKS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UnknownNetwork(f"network {name!r} is not known{hint}: take one of {', '.join(NETWORKS)}")
    if definition not in DEFINITIONS:
        raise UnknownNetwork(f"definition {definition!r} of {name} is not known: take one of {', '.join(DEFINITIONS)}")
    return NETWORKS[name](definition, num_classes)


def preprocess(name: str, definition: str) -> str:
    """Name the preprocessing that a network's published weights were trained with; it belongs to the weights.

    ``torchvision``: RGB / 255, minus (.485, .456, .406), over (.229, .224, .225); Keras' DenseNets ask for it too.
    ``keras_caffe``: BGR 0–255 minus (103.939, 116.779, 123.68); Keras' ResNets (keras.applications.imagenet_utils).
    """
    return "keras_caffe" if definition == "keras_v1" and name.startswith("resnet") else "torchvision"
