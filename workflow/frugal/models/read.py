"""Published weight files as state dicts with torchvision's names, and one sentence for a file that cannot be."""

import pickle
import re
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from frugal.models import DEFINITIONS, NETWORKS, build, keras
from frugal.models.errors import UnknownNetwork, WeightsError

OLD_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")


@cache
def shapes(name: str, definition: str) -> dict[str, tuple[int, ...]]:
    """List a network's state dict as {name: shape}, without memory for it."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in build(name, definition).state_dict().items()}


def published(
    path: Path, name: str, definition: str, expected: dict[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], list[str]]:
    """Read a file as (state dict in float32, names of expected tensors that the file itself declares missing)."""
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist: give a .pth or .safetensors file")
    if path.suffix == ".safetensors":
        tensors, metadata = _safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        tensors, metadata = _pickle(path), {}
    else:
        raise WeightsError(f"weights file {path.name} is of no known kind: give a .pth, .pt or .safetensors file")
    stated = metadata.get("network", name)
    if stated != name:
        raise WeightsError(f"weights file {path.name} holds {stated}, not {name}: give the file of {name}")
    if "conv1_conv.weight" in tensors:
        tensors, missing = _from_keras(path, tensors, metadata, name, definition, expected)
    else:
        tensors, missing = {OLD_DENSE_LAYER.sub(r"\1\2", key): tensor for key, tensor in tensors.items()}, []
    for key, shape in expected.items():
        if key.endswith("num_batches_tracked"):  # a counter that training alone reads; old files lack it
            tensors[key] = torch.zeros(shape, dtype=torch.int64)
    _check(path, tensors, missing, name, definition, expected)
    return {key: _float32(path, key, tensor) for key, tensor in tensors.items()}, missing


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as problem:
        reason = str(problem).splitlines()[0]
        raise WeightsError(
            f"weights file {path.name} is truncated or no safetensors file ({reason}): fetch it again"
        ) from None


def _pickle(path: Path) -> dict[str, Tensor]:
    # torch's own message advises weights_only=False, which would run code from the file: it is left out.
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError):
        raise WeightsError(
            f"weights file {path.name} is truncated or holds more than tensors: fetch it again, or save "
            "model.state_dict() alone"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) and isinstance(k, str) for k, v in state.items()):
        raise WeightsError(
            f"weights file {path.name} is no state dict (names and tensors): save model.state_dict() alone"
        )
    return state


def _from_keras(path, tensors, metadata, name, definition, expected) -> tuple[dict[str, Tensor], list[str]]:
    """Rename Keras' tensors; list the expected ones of layers that the file declares missing."""
    if definition != "keras_v1" and name.startswith("resnet"):
        raise WeightsError(
            f"weights file {path.name} holds Keras' {name}, whose strides and biases are those of definition keras_v1: "
            f"set definition to keras_v1, or give torchvision's file for {definition}"
        )
    absent = {layer.strip() for layer in metadata.get("missing", "").split(",")}
    ours = {keras.parameter_name(key): key for key in expected if not key.endswith("num_batches_tracked")}
    renamed = {ours.get(key, key): tensor for key, tensor in tensors.items()}
    missing = [key for theirs, key in ours.items() if theirs.rpartition(".")[0] in absent and key not in renamed]
    return renamed, missing


def _check(path, tensors, missing, name, definition, expected) -> None:
    """Names and shapes are those of the network, or say whose they are."""
    lacking = [key for key in expected if key not in tensors and key not in missing]
    extra = [key for key in tensors if key not in expected]
    wrong = [key for key in expected if key in tensors and tuple(tensors[key].shape) != expected[key]]
    if not (lacking or extra or wrong):
        return
    other = _owner(tensors, missing)
    if other is not None and other != (name, definition):
        raise WeightsError(
            f"weights file {path.name} holds {other[0]} ({other[1]}), not {name} ({definition}): "
            f"give the file of {name}, or set network and definition to match"
        )
    if lacking or extra:
        parts = [f"lacks {_some(lacking)}"] if lacking else []
        parts += [f"has {_some(extra)} too many"] if extra else []
        raise WeightsError(
            f"weights file {path.name} does not fit {name} ({definition}): it {' and '.join(parts)}; "
            f"give the file of {name}"
        )
    key = wrong[0]
    raise WeightsError(
        f"weights file {path.name} does not fit {name} ({definition}): {key} has shape {list(tensors[key].shape)}, "
        f"{list(expected[key])} is needed; give the file of {name}"
    )


def _owner(tensors: dict[str, Tensor], missing: list[str]) -> tuple[str, str] | None:
    """The network whose state dict has these names and shapes, if there is one."""
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items() if not key.endswith("num_batches_tracked")}
    for name in NETWORKS:
        for definition in DEFINITIONS:
            try:
                known = shapes(name, definition)
            except UnknownNetwork:
                continue
            wanted = {k: s for k, s in known.items() if not k.endswith("num_batches_tracked") and k not in missing}
            if wanted == found:
                return name, definition
    return None


def _some(keys: list[str]) -> str:
    return f"{len(keys)} tensors ({', '.join(keys[:3])}, …)" if len(keys) > 3 else ", ".join(keys)


def _float32(path: Path, key: str, tensor: Tensor) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return tensor
    if not tensor.is_floating_point():
        raise WeightsError(f"weights file {path.name}: {key} is {tensor.dtype}, floating-point numbers are needed")
    tensor = tensor.to(torch.float32)
    if not torch.isfinite(tensor).all():
        raise WeightsError(f"weights file {path.name}: {key} has NaN or infinite values; fetch the file again")
    if key.endswith("running_var") and (tensor < 0).any():
        raise WeightsError(f"weights file {path.name}: {key} has negative variances; fetch the file again")
    return tensor
