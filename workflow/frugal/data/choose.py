"""Which files serve a network. Read while planning: no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    """Names of the files that hold images rather than weights or logs."""
    return [source.name for source in sources.values() if source.network is None and source.log is None]


def log_files(sources: Mapping[str, Source]) -> dict[str, str]:
    """{program: file} of the logs."""
    return {source.log: source.name for source in sources.values() if source.log is not None}


def own_weights(given: str, sources: Mapping[str, Source], networks: Iterable[str], definition: str) -> dict[str, str]:
    """{network: file} where `given` is the user's file or folder; empty for `auto` and `synthetic`.

    In a folder a published name or `<network>.safetensors`, `<network>.pth` is looked for. Raises FrugalError with the
    names that are looked for, and for a path that does not exist.
    """
    if given in ("auto", "synthetic"):
        return {}
    return {network: _weights_at(Path(given), sources, network, definition) for network in networks}


def own_images(given: str | None) -> list[str]:
    """The user's images: one file, or every image of a folder, so that a changed one is noticed; empty for none."""
    if given is None:
        return []
    path = Path(given)
    if not path.exists():
        raise FrugalError(f"config: data.images = {given}: there is no such file or folder: mend the path, or set null")
    if not path.is_dir():
        return [given]
    from frugal.data.decode import SUFFIXES

    found = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not found:
        raise FrugalError(
            f"config: data.images = {given}: this folder holds no image: put {', '.join(sorted(SUFFIXES))} files there"
        )
    return found


def recorded(names: Sequence[str], folder: Path) -> list[Path]:
    """The folders of recorded campaigns. Raises FrugalError for a name that is not there while others are."""
    there = sorted(path.name for path in folder.glob("*") if path.is_dir())
    if unknown := [name for name in names if name not in there and there]:
        raise FrugalError(
            f"config: recorded = {list(names)}: there is no campaign {unknown[0]}: use {', '.join(there)}, or []"
        )
    return [folder / name for name in names if name in there]


def _weights_at(path: Path, sources: Mapping[str, Source], network: str, definition: str) -> str:
    if not path.exists():
        raise FrugalError(
            f"config: cusnn.weights = {path}: there is no such file or folder: mend the path, or use auto or synthetic"
        )
    if not path.is_dir():
        return str(path)
    names = [*weight_files(sources, network, definition), f"{network}.safetensors", f"{network}.pth"]
    for name in names:
        if (path / name).is_file():
            return str(path / name)
    raise FrugalError(
        f"config: cusnn.weights = {path}: no weights of {network} are there: name a file {' or '.join(names)}"
    )
