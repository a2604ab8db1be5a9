"""Which kernels a campaign builds. Read while planning: neither torch nor numba is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kernels.sparse.variant import variants


def builds(preset: str, capabilities: Sequence[str], device: Mapping[str, object]) -> list[tuple[str, str]]:
    """(variant, capability) of each build, given the machine that measures (its device file).

    A GPU gets every variant for its own capability: a cubin serves no other major architecture. A machine without one
    builds what `capabilities` names, so that the build itself is shown; in `smoke` one variant only.
    """
    names = [variant.name for variant in variants()]
    if device["device_kind"] == "cuda":
        return [(name, str(device["capability"])) for name in names]
    return [(name, capability) for name in (names[:1] if preset == "smoke" else names) for capability in capabilities]
