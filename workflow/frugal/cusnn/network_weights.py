"""The weights of a network that is built outside of a campaign: given, found where a campaign left them, or drawn."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from frugal.data import choose, photographs, sources
from frugal.data.image_to_bin import image_to_bin, read_bin
from frugal.models import WeightsError, build
from frugal.models.synthetic import CALIBRATION_IMAGES
from frugal.models.weights import convert, load_network
from frugal.preprocess import preprocess

CONVERTED, DOWNLOADED = Path("data/weights"), Path("data/downloads")


def weighted(
    name: str, definition: str, weights: str | Path | Mapping[str, Tensor], *, seed: int = 1
) -> tuple[nn.Module, str]:
    """(network in evaluation mode on the CPU, float32; where its weights come from).

    weights: a state dict with torchvision's names; a weights file (frugal.models.weights says which kinds);
    `synthetic`: random ones that leave each layer its published share of zeros; `auto`: what a campaign in this folder
    has converted or downloaded, else synthetic. Raises WeightsError for weights that do not fit.
    """
    if isinstance(weights, Mapping):
        return _from_state(name, definition, weights), "state dict"
    if weights == "auto":
        converted = CONVERTED / f"{name}-{definition}.safetensors"
        if converted.is_file():
            model, info = load_network(converted)
            return model, info.origin
        names = choose.weight_files(sources.load(), name, definition)
        found = next((DOWNLOADED / file for file in names if (DOWNLOADED / file).is_file()), None)
    else:
        found = None if weights == "synthetic" else Path(weights)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "weights.safetensors"
        convert(found, name, definition, _images(name, definition, Path(folder)), out, seed=seed)
        model, info = load_network(out)
    return model, info.origin


def _from_state(name: str, definition: str, state: Mapping[str, Tensor]) -> nn.Module:
    model = build(name, definition)
    try:
        model.load_state_dict(state)
    except RuntimeError as problem:
        first = str(problem).splitlines()[1:2] or [str(problem)]
        raise WeightsError(
            f"this state dict does not fit {name} ({definition}): {first[0].strip()} Give that of this network, with "
            "torchvision's names"
        ) from None
    return model.eval()


def _images(name: str, definition: str, folder: Path) -> Tensor:
    """The photographs that calibrate what is drawn: those of the Python packages."""
    out = folder / "images.bin"
    image_to_bin(photographs.packaged(), out, preprocess=preprocess(name, definition), limit=CALIBRATION_IMAGES)
    return read_bin(out)[0]
