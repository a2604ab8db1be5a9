"""The real photographs that scikit-learn and scikit-image ship in their wheels: images without any network.

Natural scenes in colour come first, so that a small `n_images` takes those. Drawings, text, synthetic patterns, depth
maps and the second picture of a stereo pair are left out, and so is what scikit-image would download.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

from frugal.errors import FrugalError


class NoPhotographs(FrugalError):
    """None of the photographs is where its package should have it."""


@dataclass(frozen=True)
class Photograph:
    """A file inside an installed package, and its licence as that package states it."""

    package: str
    path: str
    licence: str


PHOTOGRAPHS = (
    Photograph("sklearn", "datasets/images/china.jpg", "CC BY 2.0, danielbuechele (Flickr)"),
    Photograph("sklearn", "datasets/images/flower.jpg", "CC BY 2.0, vultilion (Flickr)"),
    Photograph("skimage", "data/astronaut.png", "public domain, NASA"),
    Photograph("skimage", "data/chelsea.png", "CC0, Stefan van der Walt"),
    Photograph("skimage", "data/coffee.png", "CC0, Rachel Michetti"),
    Photograph("skimage", "data/rocket.jpg", "public domain, SpaceX"),
    Photograph("skimage", "data/motorcycle_left.png", "no licence stated; Middlebury 2014 stereo benchmark"),
    Photograph("skimage", "data/hubble_deep_field.jpg", "public domain, NASA"),
    Photograph("skimage", "data/retina.jpg", "CC0, Mikael Häggström"),
    Photograph("skimage", "data/ihc.png", "no known restrictions, CMMI"),
    Photograph("skimage", "data/camera.png", "CC0, Lav Varshney; grey"),
    Photograph("skimage", "data/coins.png", "no known restrictions, Brooklyn Museum; grey"),
    Photograph("skimage", "data/moon.png", "not stated; grey"),
    Photograph("skimage", "data/brick.png", "CC0, CC0Textures; grey"),
    Photograph("skimage", "data/grass.png", "CC0, linolafett; grey"),
    Photograph("skimage", "data/gravel.png", "CC0, CC0Textures; grey"),
)


def packaged(folder: Path | str | None = None) -> list[Path]:
    """Paths of the photographs, in the order of PHOTOGRAPHS: where the packages have them, or copied into ``folder``.

    One that another version of its package does not bring is left out; raises NoPhotographs when none is there. The
    packages are located, not imported.
    """
    found = [path for photograph in PHOTOGRAPHS if (path := _located(photograph)) is not None]
    if not found:
        raise NoPhotographs(
            "scikit-learn and scikit-image bring none of the photographs that the default campaign uses: "
            "`pip install scikit-learn scikit-image`, or set `data.images` to a folder of pictures"
        )
    if folder is None:
        return found
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(path, Path(folder) / path.name)) for path in found]


def _located(photograph: Photograph) -> Path | None:
    spec = importlib.util.find_spec(photograph.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / photograph.path
    return path if path.is_file() else None
