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

__all__ = ["DEFINITIONS", "NETWORKS", "UnknownNetwork", "WeightsError", "build"]


def build(name: str, definition: str = "torchvision_v1.5", num_classes: int = 1000) -> nn.Module:
    """Build an untrained network, in training mode as torch does: [B, 3, 224, 224] float32 → [B, num_classes] logits.

    Raises UnknownNetwork for a name or a definition that is not here.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(str(name), NETWORKS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UnknownNetwork(f"network {name!r} is not known{hint}: take one of {', '.join(NETWORKS)}")
    if definition not in DEFINITIONS:
        raise UnknownNetwork(f"definition {definition!r} of {name} is not known: take one of {', '.join(DEFINITIONS)}")
    return NETWORKS[name](definition, num_classes)
