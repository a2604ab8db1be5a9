"""Which control kernels a campaign builds. Read while planning: neither torch nor numba is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kernels.control import variants


def builds(capabilities: Sequence[str], device: Mapping[str, object]) -> list[tuple[str, str]]:
    """(variant, capability) of each build, given the machine that measures (its device file).

    A GPU gets them for its own capability, since its sessions launch them. A machine without one builds what
    `capabilities` names, so that the build itself is shown.
    """
    wanted = [str(device["capability"])] if device["device_kind"] == "cuda" else list(capabilities)
    return [(variant.name, capability) for variant in variants() for capability in wanted]
