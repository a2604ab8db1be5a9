"""The library's kernels: built for this GPU when one is first used, kept on disk, loaded once a process.

A campaign builds its kernels by a rule before anything is timed; a user's script has no rules, so it builds what it
needs (4 to 12 s a kernel) on its first pass, into the user's cache folder, and finds it there the next time. Never
while a CUDA graph is captured: there a first use is refused, so that a pass before the capture is not forgotten.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from frugal.errors import FrugalError
from kernels import cache, launch
from kernels.cache import file_name
from kernels.sparse import Variant, Workspace, parse


class NotReady(FrugalError, RuntimeError):
    """Something would have to be built or allocated while a CUDA graph is captured."""


def build_variant(variant: str | Variant, capability: str | None = None, folder: str | Path | None = None) -> Path:
    """Build a kernel of the sparse family, or find it built, and return its path without suffix.

    variant: a `kernels.sparse.Variant` or its name. capability: such as "9.0"; None: this GPU's. folder: where
    `<variant>.sm_90.cubin`, `.ptx` and `.json` go; None: the user's cache folder, under a key of source and tools.
    Needs no GPU. Raises ValueError for a name of no variant, BuildError for what cannot be built.
    """
    variant = parse(variant) if isinstance(variant, str) else variant
    capability = capability or _capability(_current_device())
    return cache.built(variant.source(capability), capability, None if folder is None else Path(folder))


class KernelStore:
    """The kernels of one GPU, each loaded when first used, and a workspace for each stream that launches them.

    capability: the GPU's, such as "9.0"; sm_count: its multiprocessors. folder: of kernels that are built already, such
    as a campaign's `results/kernels/sparse`; those of another source than today's are passed over. What is not there is
    built into the user's cache folder.
    """

    def __init__(self, capability: str, sm_count: int, folder: str | Path | None = None) -> None:
        self.capability = capability
        self.sm_count = sm_count
        self.folder = Path(folder) if folder is not None else None
        self._loaded: dict[str, launch.Kernel] = {}
        self._workspaces: dict[tuple[int, int], Workspace] = {}

    def __deepcopy__(self, memo: dict) -> KernelStore:
        return self  # loaded code belongs to the process: a copied model launches the same

    def kernel(self, variant: str) -> launch.Kernel:
        """The loaded kernel of this name, built first where it is not. Raises NotReady while a graph is captured."""
        if variant not in self._loaded:
            if capturing():
                raise NotReady(
                    f"kernel {variant} is not loaded, and a CUDA graph is being captured: run the same call once "
                    "before the capture"
                )
            self._loaded[variant] = launch.load(self._prefix(variant))
        return self._loaded[variant]

    @property
    def workspace(self) -> Workspace:
        """The workspace of torch's current stream, made on first use. Raises NotReady while a graph is captured."""
        stream = torch.cuda.current_stream()
        key = (stream.device_index, stream.cuda_stream)
        if key not in self._workspaces:
            if capturing():
                raise NotReady(
                    "this stream has no workspace yet, and a CUDA graph is being captured on it: give a workspace, "
                    "with which the same call was made once before the capture"
                )
            self._workspaces[key] = Workspace(torch.device("cuda", stream.device_index))
        return self._workspaces[key]

    def _prefix(self, variant: str) -> Path:
        if self.folder is not None:
            given = self.folder / file_name(variant, self.capability)
            if cache.is_built(given, parse(variant).source(self.capability).sha256):
                return given
        return build_variant(variant, self.capability)


def store_of(device: torch.device) -> KernelStore:
    """The process's store for a GPU, over the user's cache folder."""
    index = device.index if device.index is not None else torch.cuda.current_device()
    return _store(index)


@functools.cache
def _store(index: int) -> KernelStore:
    device = torch.device("cuda", index)
    return KernelStore(_capability(device), sm_count(device))


def sm_count(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def capturing() -> bool:
    """Whether torch's current stream is being captured into a CUDA graph."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _current_device() -> torch.device:
    if not torch.cuda.is_available():
        raise FrugalError('torch sees no GPU whose compute capability to build for: name one, such as "9.0"')
    return torch.device("cuda", torch.cuda.current_device())


def _capability(device: torch.device) -> str:
    return "{}.{}".format(*torch.cuda.get_device_capability(device))
