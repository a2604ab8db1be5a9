"""A network's weights as one file: read from what was published, checked, completed, kept as float32 safetensors.

`convert` writes ``<out>.safetensors`` with the whole state dict (torchvision's names and shapes) and ``<out>.json``
that says where it comes from (`WeightsInfo`); `load_network` reads both. Sources:

* torchvision's ``.pth`` (also its older spelling ``denselayer1.norm.1``) and any ``.safetensors`` with its names;
* ``.safetensors`` with Keras' names (frugal.models.keras), float16 or float32. Layers that its metadata lists under
  ``missing`` are drawn He-normal (biases 0) with a fixed seed and named in ``drawn``; the batch norms behind them keep
  γ and β, and take their running statistics from the images (those in the file belong to the weights that are missing);
* none: `synthetic` weights.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from frugal.files import publishing, publishing_path
from frugal.models import build
from frugal.models.errors import WeightsError
from frugal.models.read import published, shapes
from frugal.models.synthetic import CALIBRATION_IMAGES, draw, recalibrate, synthetic, targets
from frugal.models.trace import trace
from frugal.preprocess import preprocess

SCHEMA_VERSION = 1
RANDOM = "random weights"
DRAW_SEED = 20220924  # of tensors that a published file lacks; fixed, so that all machines complete it alike

__all__ = ["RANDOM", "WeightsInfo", "convert", "load", "load_network", "synthetic", "targets"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """What stands in the JSON beside a weights file."""

    network: str
    definition: str
    origin: str
    """The source file's name, or ``random weights``."""
    source_sha256: str | None
    """Hash of the source file; null for random weights."""
    preprocess: str
    """``torchvision`` or ``keras_caffe``: what its images need (frugal.preprocess)."""
    drawn: tuple[str, ...]
    """Tensors that the source lacks and that were drawn; empty for random weights, where all are."""
    recalibrated: tuple[str, ...]
    """Batch norms whose running statistics come from the images."""
    seed: int | None
    """Seed of what was drawn; null if nothing was."""
    images: int
    """Number of images that calibrated it."""
    sha256: str
    """Hash of the safetensors file."""
    schema_version: int = SCHEMA_VERSION


def load(path: Path, name: str, definition: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Read published weights as (state dict in float32 with torchvision's names, names of the tensors that were drawn).

    Raises WeightsError, one sentence, for: a wrong network, missing or extra names, wrong shapes, numbers that are not
    finite, a truncated file, a pickle that is no state dict.
    """
    expected = shapes(name, definition)
    state, missing = published(Path(path), name, definition, expected)
    drawn = {key: draw(key, expected[key], DRAW_SEED) for key in missing}
    return {key: drawn[key] if key in drawn else state[key] for key in expected}, tuple(missing)


def convert(
    source: Path | None, name: str, definition: str, images: Tensor | None, out: Path, *, seed: int = 0
) -> WeightsInfo:
    """Write ``<out>`` (.safetensors) and its .json from a published file, or synthetic weights for source None.

    images: [B, 3, H, W] float32 with the preprocessing that `frugal.preprocess` names, of which the
    first 16 are used; needed for synthetic weights and where convolutions are missing. seed: of synthetic weights.
    The same inputs give the same bytes on one machine with one number of threads.
    """
    out = Path(out)
    with torch.device("meta"):
        model = build(name, definition)
    if source is None:
        images = _calibration(images, f"synthetic weights of {name}")
        model = model.to_empty(device="cpu")
        synthetic(model, targets(name), images, seed)
        drawn, norms = (), [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    else:
        source = Path(source)
        state, drawn = load(source, name, definition)
        model.load_state_dict(state, assign=True)
        new = {site.norm_after for site in trace(model) if f"{site.name}.weight" in drawn} - {None}
        norms = [n for n, _ in model.named_modules() if n in new]
        if norms:
            images = _calibration(images, f"{source.name}, which lacks {len(drawn)} tensors,")
            recalibrate(model, norms, images)
    _write_tensors(model.state_dict(), out)
    info = WeightsInfo(
        network=name,
        definition=definition,
        origin=RANDOM if source is None else source.name,
        source_sha256=None if source is None else _sha256(source),
        preprocess=preprocess(name, definition),
        drawn=drawn,
        recalibrated=tuple(norms),
        seed=seed if source is None else DRAW_SEED if drawn else None,
        images=len(images) if norms else 0,
        sha256=_sha256(out),
    )
    text = json.dumps(dataclasses.asdict(info), indent=2) + "\n"
    with publishing(out.with_suffix(".json")) as file:
        file.write(text.encode())
    return info


def load_network(path: Path) -> tuple[nn.Module, WeightsInfo]:
    """Read what `convert` wrote: (network in evaluation mode on the CPU, float32; where its weights come from).

    Raises WeightsError where a file is missing or is not the one that its JSON describes.
    """
    path = Path(path)
    described = path.with_suffix(".json")
    try:
        fields = json.loads(described.read_text(encoding="utf-8"))
        info = WeightsInfo(**{**fields, "drawn": tuple(fields["drawn"]), "recalibrated": tuple(fields["recalibrated"])})
    except FileNotFoundError:
        raise WeightsError(f"{described} is missing: it stands beside {path.name}; make both again") from None
    except (ValueError, TypeError, KeyError):
        raise WeightsError(f"{described} is no description of weights: delete it and make the weights again") from None
    if not path.exists():
        raise WeightsError(f"{path} is missing, though {described.name} describes it: make the weights again")
    if _sha256(path) != info.sha256:
        raise WeightsError(f"{path} is damaged (its sha256 is not that of {described.name}): delete both and run again")
    state, _ = load(path, info.network, info.definition)
    with torch.device("meta"):
        model = build(info.network, info.definition)
    model.load_state_dict(state, assign=True)
    return model.eval(), info


def _calibration(images: Tensor | None, what: str) -> Tensor:
    """The images that calibrate, checked."""
    if images is None or images.ndim != 4 or images.shape[0] == 0 or images.shape[1] != 3:
        given = "none" if images is None else f"shape {tuple(images.shape)}"
        raise WeightsError(f"{what} needs images of shape [B >= 1, 3, H, W] to calibrate batch norm, got {given}")
    return images[:CALIBRATION_IMAGES].to(torch.float32)


def _write_tensors(state: Mapping[str, Tensor], out: Path) -> None:
    tensors = {key: value.detach().contiguous() for key, value in state.items()}
    with publishing_path(out) as part:
        save_file(tensors, part)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
