"""Which files serve a network. Read while planning: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from frugal.data.sources import Source
from frugal.errors import FrugalError


def weight_files(sources: Mapping[str, Source], network: str, definition: str) -> list[str]:
    """Names of the files whose weights fit, those of the same definition first (a DenseNet is one graph in both)."""
    fitting = [
        source
        for source in sources.values()
        if source.network == network and (source.definition == definition or network.startswith("densenet"))
    ]
    return [source.name for source in sorted(fitting, key=lambda source: source.definition != definition)]


def image_files(sources: Mapping[str, Source]) -> list[str]:
    """Names of the files that hold images rather than weights."""
    return [source.name for source in sources.values() if source.network is None]


def own_weights(given: str, sources: Mapping[str, Source], network: str, definition: str) -> str:
    """The user's file for a network: `given` itself, or in the folder `given` a published name or `<network>.<suffix>`.

    Raises FrugalError with the names that are looked for.
    """
    path = Path(given)
    if not path.is_dir():
        return given
    names = [*weight_files(sources, network, definition), f"{network}.safetensors", f"{network}.pth"]
    for name in names:
        if (path / name).is_file():
            return str(path / name)
    raise FrugalError(f"cusnn.weights = {given}: no weights of {network} are there: name a file {' or '.join(names)}")
