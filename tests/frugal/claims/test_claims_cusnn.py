"""The queries of cuSNN's claims find their rows in a campaign of every experiment, with axes as they are written."""

import itertools

import pytest
from claim_rows import pair, row, run, tables

from frugal import claims
from frugal.cusnn import offered, shapes
from frugal.cusnn.network_offered import BASELINES as OF_NETWORKS

CPU = "cpu-amd-epyc-2c"
LOADED = [claim for claim in claims.load() if claim.system == "cusnn"]
BATCHES = (1, 2, 4, 8)
REGIMES = {"cuda": (("graph", "resident"), ("graph", "rotated")), "cpu": (("wall", None),)}


def convolution(layer, batch):
    """(columns, axes) of a convolution at a batch size, as a timing case has them."""
    sizes = {"c": layer.c, "h": layer.h, "w": layer.h, "k": layer.n, "r": layer.k, "stride": 1}
    macs = layer.c * layer.n * layer.k**2 * layer.h**2
    return {**sizes, "n": batch, "flop_dense_equiv": 2.0 * batch * macs}, {**sizes, "batch": batch}


def cases(kind):
    """(experiment, case, columns, axes, arms of ours, baselines, regimes, metrics) of every case of a campaign."""
    one = REGIMES[kind][:1]
    for layer, batch in itertools.product(shapes.BREAK_EVEN, BATCHES):
        columns, axes = convolution(layer, batch)
        columns |= {"sparsity_measured": 0.7, "roofline_fraction": 0.5}
        for network in ("densenet169", "resnet50", "resnet152"):
            named = {"network": network, "definition": "keras_v1", "weights": "trained", "layers_of_shape": 3}
            ours = [*offered.OURS[kind]] if batch == 1 else ["sparse", "dense_twin"]
            yield ("layers", {"network": network, **columns}, axes | named, ours, [*offered.BASELINES[kind]],
                   REGIMES[kind], ("time",))  # fmt: skip
        for share in (0.0, 0.35, 0.5, 0.75, 0.9):
            more = {"sparsity": share, "pattern": "bernoulli"}
            yield ("break_even", {"network": None, **columns}, axes | more, ["sparse", "dense_twin"],
                   [*offered.BASELINES[kind]], one, ("time",))  # fmt: skip
    for layer in shapes.LADDER:
        columns, axes = convolution(layer, 1)
        arms = [arm for arm in offered.ladder(kind, layer.shape(1)) if "_fp32" not in arm]
        yield ("ladder", {"network": None, **columns}, axes | {"shape": layer.name, "sparsity": layer.sparsity}, arms,
               [], one, ("time",))  # fmt: skip
    for network, batch in itertools.product(("densenet169", "resnet50"), (1, 8)):
        axes = {"network": network, "definition": "keras_v1", "layer": None, "weights": "trained", "batch": batch}
        yield ("networks", {"network": network, "layer": None, "n": batch}, axes, ["sparse", "dense_twin", "unfused"],
               [*OF_NETWORKS[kind]], one, ("time", "energy_gross", "energy_net", "peak_allocated"))  # fmt: skip


def campaign(kind):
    """Two sessions of every case: ours take 1, baselines 2 and more on small maps; a comparison of each pair."""
    device = {"cuda": "nvidia-h200-9.0-132sm", "cpu": CPU}[kind]
    runs = [run(session, device, device_kind=kind, cpu_model="AMD EPYC") for session in range(2)]
    rows, pairs = [], []
    for number, (experiment, columns, axes, ours, baselines, regimes, metrics) in enumerate(cases(kind)):
        for (regime, l2), metric in itertools.product(regimes, metrics):
            if metric == "peak_allocated":
                regime = l2 = None
            at = {"experiment": experiment, "metric": metric, "regime": regime, "l2": l2}
            for arm in (*ours, *baselines):
                role = "baseline" if arm in baselines else "ours"
                value = 2.0 + 1.0 / columns.get("h", 10**9) if role == "baseline" else 1.0
                given = {"layer": f"case{number}", "axes": axes, "role": role, "max_rel_err": 1e-7, **columns, **at}
                rows += [row(one, f"case{number}", arm, value, **given) for one in runs]
            pairs += [
                pair(f"case{number}", baseline, device, candidate=candidate, **at)
                for candidate, baseline in itertools.product(ours, baselines)
            ]
    zeros = {"experiment": "sparsity", "metric": "sparsity", "regime": None, "l2": None, "r": 3, "role": "ours"}
    for arm, value in (("measured", 0.5), ("bn_closed_form", 0.52)):
        rows += [row(one, "zeros", arm, value, axes={"weights": "trained"}, **zeros) for one in runs]
    return tables(runs, rows, pairs)


@pytest.fixture(scope="module")
def found():
    """{(claim, kind of device): its row}"""
    return {
        (each["claim_id"], kind): each
        for kind in ("cuda", "cpu")
        for each in claims.evaluate(LOADED, campaign(kind)).to_pylist()
    }


@pytest.mark.parametrize("claim", LOADED, ids=lambda claim: claim.id)
def test_a_claims_query_finds_rows_and_gives_them_a_value(claim, found):
    each = found[claim.id, claim.needs.device_kind or "cuda"]
    assert each["n_rows"] > 0, each["reason"]
    assert each["measured"] is not None, each["reason"]
    assert each["verdict"] in ("reproduced", "trend", "not_reproduced") or claim.shown_only, each["reason"]


def test_where_all_of_ours_take_half_of_a_baseline_the_values_say_so(found):
    assert found["cusnn.ours.e2e.fp32.batch1", "cuda"]["measured"] == pytest.approx(2.0)
    assert found["cusnn.ours.energy.fp32", "cuda"]["verdict"] == "reproduced"
    assert found["cusnn.ours.fp32.densenet169", "cuda"]["verdict"] == "trend"
    assert found["cusnn.ours.deterministic", "cuda"]["measured"] == pytest.approx(1.0)
    assert found["cusnn.ours.closed_form", "cuda"]["measured"] == pytest.approx(0.02)
    assert found["cusnn.ours.skipping.twin", "cuda"]["measured"] == pytest.approx(0.5)
    assert found["cusnn.ours.cpu", "cpu"]["measured"] == pytest.approx(2.0, rel=0.1)


def test_a_goal_for_a_gpu_is_not_judged_by_a_cpu(found):
    assert found["cusnn.ours.e2e.fp32.batch1", "cpu"]["verdict"] in ("not_run", "not_comparable")
