"""The networks that every system measures: a flat file a family, a function a network, torchvision's parameter names.

model = build("resnet50")                         # untrained
model = build("vgg16", width_divisor=16)          # SFT's, with a sixteenth of the channels
model = build("resnet1202")                       # DTR's, for 32 × 32 images
model, info = load_network(path)                  # with the weights that `frugal.models.weights.convert` wrote

Networks that read no image have no name here: `frugal.models.recurrent`, `transformer`, `gan`.
"""

import difflib

from torch import nn

from frugal.models import darknet, densenet, inception, resnet, unet, vgg
from frugal.models.errors import UnknownNetwork, WeightsError

NETWORKS = {
    "darknet19": darknet.darknet19,
    "darknet19_bn": darknet.darknet19_bn,
    "densenet100": densenet.densenet100,
    "densenet121": densenet.densenet121,
    "densenet169": densenet.densenet169,
    "densenet201": densenet.densenet201,
    "inceptionv4": inception.inceptionv4,
    "resnet18": resnet.resnet18,
    "resnet32": resnet.resnet32,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnet1202": resnet.resnet1202,
    "unet": unet.unet,
    "unet_small": unet.unet_small,
    "vgg16": vgg.vgg16,
    "vgg16_bn": vgg.vgg16_bn,
}
# DTR's and SFT's are trained from scratch, and have one definition each.
DTR = ("densenet100", "inceptionv4", "resnet32", "resnet1202", "unet")
SFT = ("darknet19", "darknet19_bn", "unet_small", "vgg16", "vgg16_bn")
# Whose weights are published, and in which definitions.
WITH_WEIGHTS = tuple(name for name in NETWORKS if name not in (*DTR, *SFT))
DEFINITIONS = ("torchvision_v1.5", "keras_v1")
WITHOUT_KERAS = ("resnet18", "resnet34")

__all__ = ["DEFINITIONS", "NETWORKS", "WITH_WEIGHTS", "UnknownNetwork", "WeightsError", "build", "definitions"]


def definitions(name: str) -> tuple[str, ...]:
    """The definitions of a network in NETWORKS, the one that `build` takes unasked first."""
    if name in DTR:
        return ("dtr",)
    if name in SFT:
        return ("sft",)
    return DEFINITIONS[:1] if name in WITHOUT_KERAS else DEFINITIONS


def build(
    name: str, definition: str | None = None, num_classes: int | None = None, width_divisor: int = 1
) -> nn.Module:
    """Build an untrained network, in training mode as torch does: [B, 3, H, W] float32 → [B, num_classes].

    The output are logits; SFT's vgg and darknet end in a softmax, densenet100 in its logarithm, and a U-Net has an
    output for each pixel. Without a definition the first of `definitions(name)` is taken, without num_classes the
    network's own. `width_divisor` d makes every width max(2, width // d). Raises UnknownNetwork for a name, a
    definition or a width that is not here.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(str(name), NETWORKS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UnknownNetwork(f"network {name!r} is not known{hint}: take one of {', '.join(NETWORKS)}")
    known = definitions(name)
    if definition not in (None, *known):
        raise UnknownNetwork(f"definition {definition!r} of {name} is not known: take one of {', '.join(known)}")
    if not isinstance(width_divisor, int) or width_divisor < 1:
        raise UnknownNetwork(f"width_divisor {width_divisor!r} of {name}: it must be a whole number from 1 on")
    if width_divisor > 1 and name.startswith("densenet"):
        raise UnknownNetwork(f"{name} has its published width alone: take width_divisor 1, or another network")
    given: dict[str, object] = {"definition": definition or known[0]} if len(known) > 1 else {}
    if num_classes is not None:
        given["num_classes"] = num_classes
    if not name.startswith("densenet"):
        given["width_divisor"] = width_divisor
    return NETWORKS[name](**given)
