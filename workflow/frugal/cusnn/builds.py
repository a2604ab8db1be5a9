"""Which kernels a campaign builds. Read while planning: neither torch nor numba is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from frugal.errors import FrugalError
from kernels.sparse.variant import Variant, variants


def builds(
    preset: str, capabilities: Sequence[str], device: Mapping[str, object], more: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """(variant, capability) of each build, given the machine that measures (its device file); `more`: names of further
    variants. Raises FrugalError for a name of none.

    A GPU gets every variant for its own capability: a cubin serves no other major architecture. A machine without one
    builds what `capabilities` names, so that the build itself is shown; in `smoke` one variant only.
    """
    for name in more:
        try:
            Variant.parse(name)
        except ValueError as problem:
            raise FrugalError(f"cusnn.variants: {problem}") from None
    names = list(dict.fromkeys([*(variant.name for variant in variants()), *more]))
    if device["device_kind"] == "cuda":
        return [(name, str(device["capability"])) for name in names]
    return [(name, capability) for name in (names[:1] if preset == "smoke" else names) for capability in capabilities]
