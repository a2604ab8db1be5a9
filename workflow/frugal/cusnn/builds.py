"""Which kernels a campaign builds. Read while planning: neither torch nor numba is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from frugal.cusnn import choices, shapes
from frugal.cusnn.convolutions import measured
from frugal.cusnn.offered import PAPER
from frugal.errors import FrugalError
from kernels.sparse import paper_scheme, parse, variants
from kernels.sparse.paper import Count
from kernels.sparse.predict import H200
from kernels.sparse.shape import ConvShape


def builds(
    cusnn: Mapping[str, object], capabilities: Sequence[str], device: Mapping[str, object]
) -> list[tuple[str, str]]:
    """(variant, capability) of each build, given the machine that measures (its device file).

    cusnn: that section of the configuration (frugal.config.cusnn). A GPU gets the default variants for its own
    capability (a cubin serves no other major architecture), those that `variants` names, and those that its arms launch
    besides: the ladder's, the paper's. A machine without one builds what `capabilities` names, so that the build itself
    is shown; in `smoke` one variant only. Raises FrugalError for a name of no variant.
    """
    named = [variant.name for variant in variants()]
    for name in cusnn["variants"]:
        try:
            parse(name)
        except ValueError as problem:
            raise FrugalError(f"cusnn.variants: {problem}") from None
    if device["device_kind"] != "cuda":
        shown = named[:1] if cusnn["preset"] == "smoke" else [*named, *cusnn["variants"]]
        return _pairs(shown, capabilities)
    sm_count = int(device.get("sm_count") or H200.sm_count)  # a head node plans for a GPU that it has not
    capability = str(device["capability"])
    return _pairs([*named, *cusnn["variants"], *_besides(cusnn, sm_count)], [capability])


def _pairs(names: Sequence[str], capabilities: Sequence[str]) -> list[tuple[str, str]]:
    """Each name once with each capability."""
    return [(name, capability) for name in dict.fromkeys(names) for capability in capabilities]


def _besides(cusnn: Mapping[str, object], sm_count: int) -> list[str]:
    """Kernels of arms that are not among the default ones."""
    experiments, more = cusnn["experiments"], cusnn["variants"]
    found: list[str] = []
    of_paper: list[ConvShape] = []
    if "ladder" in experiments:
        ladder = [layer.shape(batch) for layer, batch in shapes.ladder(cusnn["preset"], cusnn["batch_sizes"])]
        found += choices.kernels(ladder, (*choices.RUNGS, *choices.ABLATIONS), sm_count, more=more)
        of_paper += ladder
    if "layers" in experiments and set(cusnn["ours"]) & set(PAPER):
        of_paper += _layers(cusnn)
    found += [kernel.name for kernel in paper_scheme.kernels(shape for shape in of_paper if shape.B == 1)]
    if of_paper and "paper_dispatch" in cusnn["ours"]:
        found.append(Count.name)
    if not cusnn["deterministic"]:
        every = [*_layers(cusnn), *_map(cusnn)]
        ours = (choices.SPARSE, choices.TWIN)
        found += choices.kernels(every, ours, sm_count, deterministic=False, more=more)
    return found


def _layers(cusnn: Mapping[str, object]) -> list[ConvShape]:
    """The shapes of the networks' layers at every batch size."""
    convs = [
        conv
        for network in cusnn["networks"]
        for conv in measured(network, cusnn["definition"], "distinct", cusnn["kernel_sizes"])
    ]
    return [conv.of_batch(batch) for conv in convs for batch in cusnn["batch_sizes"]]


def _map(cusnn: Mapping[str, object]) -> list[ConvShape]:
    """The shapes of the break-even map at every batch size."""
    named = shapes.break_even(cusnn["preset"], cusnn["kernel_sizes"], cusnn["batch_sizes"])
    return [layer.shape(batch) for layer, batch in named]
