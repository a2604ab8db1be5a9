"""What SFT's campaign measures: cases and arms by preset and device, and one of each through to its rows."""

from __future__ import annotations

import dataclasses
import json

import pyarrow.parquet as pq
import pytest
import torch

from frugal import config
from frugal.provenance import device_record
from frugal.sft import bench_kernels, bench_step, count_prediction, offered, rows, saved_bytes, shards, stems
from frugal.sft.cases import DoesNotFit, Training
from frugal.sft.counts import vanilla_macs
from frugal.sft.methods import METHODS
from frugal.sft.offered import Method, Subject
from frugal.sft.probe import step_peaks, subject_of
from frugal.sft.rows import Result
from frugal.timing import Device, case, device_of
from frugal.timing.arms import Unsupported
from frugal.timing.faults import Fault


def section(preset: str = "smoke", **given: object) -> dict:
    return config.sft(config.load({"preset": preset, "sft": given}))


@pytest.fixture(scope="module")
def machine() -> Device:
    return device_of(device_record("cpu"))


# ---- what is offered -------------------------------------------------------------------------------------------------


def test_an_arm_is_named_by_its_method_and_settings():
    assert Method("vanilla").arm == "vanilla"
    assert Method("planned", {"budget_mib": 64, "host_mib": 8}).arm == "planned@budget_mib=64,host_mib=8"
    roles = {name: Method(name).role for name in METHODS}
    assert [Method(name, {"windows": 3}).role for name in ("tiles", "strips")] == ["ours", "ours"]  # of `exactness`
    assert {name for name, role in roles.items() if role == "ours"} == {"tiled_1seg", "tiled", "strips", "planned"}
    assert [name for name, role in roles.items() if role == "paper_emulation"] == ["sft_artifact"]


def test_the_methods_of_the_configuration_are_those_of_the_library():
    assert set(section("headline")["methods"]) == set(METHODS)


def test_smoke_has_one_session_and_the_papers_networks_at_both_sizes():
    ours = section()
    assert shards.steps(ours, "cpu") == ["all"]
    sizes = [(each.network, each.h) for name, each in shards.of_steps("all", ours, "cpu") if name == "sizes"]
    assert sizes == [("vgg16", 256), ("vgg16", 512), ("darknet19", 256), ("darknet19", 512), ("resnet18", 256)]


def test_smoke_tries_the_slow_ways_once():
    ours = section()
    slow = {
        (subject.network, subject.h)
        for subject in offered.subjects(ours, "cpu")
        if {method.name for method in offered.methods(ours, subject, "cpu")} & set(offered.SLOW)
    }
    assert slow == {("vgg16", 256), ("darknet19", 256)}
    assert all(len(offered.methods(ours, subject, "cpu")) >= 4 for subject in offered.subjects(ours, "cpu"))


@pytest.mark.parametrize("preset", ["quick", "sweep", "headline"])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_case_has_as_many_arms_as_a_session_takes(preset, kind):
    ours = section(preset)
    every = [
        pair for name in offered.STEPS for pair in ((name, each) for each in offered.step_subjects(name, ours, kind))
    ]
    assert offered.ARMS_MAX == case.ARMS_MAX
    for _, subject in every:
        arms = [method.arm for method in offered.methods(ours, subject, kind)]
        assert len(arms) == len(set(arms)) <= offered.ARMS_MAX
        rates = offered.rate_methods(ours, subject, kind)
        assert 2 <= len({method.arm for method in rates}) == len(rates) <= offered.ARMS_MAX
        assert any("graphs" in method.settings for method in rates) == (kind == "cuda")
        beside = offered.baselines(ours, subject, kind)
        assert 2 <= offered.pareto_count(ours, len(beside)) <= offered.ARMS_MAX - len(beside)


def test_a_cpu_computes_in_float32_and_compiles_nothing():
    ours = section("headline")
    assert {each.precision for each in offered.subjects(ours, "cpu")} == {"fp32"}
    assert {each.precision for each in offered.subjects(ours, "cuda")} == {"fp32", "tf32", "bf16"}
    vgg = next(iter(offered.subjects(ours, "cuda")))
    names = {kind: {method.name for method in offered.methods(ours, vgg, kind)} for kind in ("cpu", "cuda")}
    assert names["cuda"] - names["cpu"] == {"compile", "activation_budget"}


@pytest.mark.parametrize(("size", "tiles"), [(512, 4), (2048, 4), (4096, 8), (10240, 16), (20480, 32), (32768, 32)])
def test_tiles_are_those_that_were_published_for_a_size(size, tiles):
    assert offered.tiles(section("headline"), size) == tiles


def test_a_subject_survives_json():
    one = Subject("vgg16", 16, 1, 64, 96, more=(("pixels", "uint8"),))
    assert subject_of(json.loads(json.dumps(dataclasses.asdict(one)))) == one
    assert one.axes()["pixels"] == "uint8"
    assert "more" not in one.axes()


def test_what_a_plan_reckons_with_is_what_networks_do():
    for name, (macs, saved) in offered.PIXEL.items():
        training = Training(Subject(name, 1, 1, 512, 512, norms="train"), "", "meta", 0)
        pixels = 512 * 512
        assert vanilla_macs(training.on_meta, (1, 3, 512, 512))["forward"] == pytest.approx(macs * pixels, rel=1e-3)
        # parameters' own saved tensors weigh in at this size
        assert saved_bytes(training.on_meta, (1, 3, 512, 512)) == pytest.approx(saved * pixels, rel=0.02)


# ---- steps -----------------------------------------------------------------------------------------------------------


def trained(tmp_path, **given: object) -> Training:
    return Training(dataclasses.replace(Subject("vgg16", 16, 1, 64, 64), **given), str(tmp_path), "cpu", 0)


@pytest.mark.parametrize(
    "method",
    [
        Method("vanilla"), Method("checkpoint", {"segments": 5}), Method("sft_artifact", {"tiles": 2}),
        Method("tiled_1seg", {"tiles": 2}), Method("planned", {"budget_mib": 2}), Method("strips", {"budget_mib": 2}),
    ],
    ids=lambda method: method.name,
)  # fmt: skip
def test_a_timed_step_computes_the_same_each_time_and_what_float64_does(method, tmp_path, machine):
    training = trained(tmp_path)
    made, ours = bench_step.case("sizes", training, machine), bench_step.arm(training, method)
    given = made.inputs(0, "timed")
    prepared = ours.prepare(given)
    first, second = prepared.run(), prepared.run()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    wanted = [each.y for each in made.reference(given)]
    assert len(first) == len(wanted) == 1 + len(list(training.network().parameters()))
    for found, right in zip(first, wanted, strict=True):
        # rounding of thirteen layers in float32
        assert (found.double() - right).norm() <= 1e-4 * right.norm()


def test_images_in_main_memory_give_the_same_step(tmp_path, machine):
    on_device, steps = trained(tmp_path), []
    for training in (
        on_device,
        trained(tmp_path, input="host"),
        trained(tmp_path, input="host", more=(("pixels", "float32"),)),
    ):
        method = Method("planned", {"budget_mib": 2, "prefetch": 2})
        steps.append(bench_step.arm(training, method).prepare({"turn": torch.tensor([3])}).run())
    for other in steps[1:]:
        # the same numbers in another order of rounding: a window is normalised by itself
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(steps[0], other, strict=True))


def test_each_phase_sees_the_image_turned_another_way(tmp_path):
    training = trained(tmp_path)
    seen = [training.image(turn).clone() for turn in range(4)]
    assert torch.equal(seen[1], seen[0].flip(3))
    assert torch.equal(seen[2], seen[0].flip(2))
    assert torch.equal(seen[3], seen[0].flip(2, 3))


def test_a_budget_that_nothing_fits_is_out_of_memory_and_an_unknown_chain_unsupported(tmp_path):
    training = trained(tmp_path, h=512, w=512)
    with pytest.raises(DoesNotFit, match="bytes short"):
        training.forward(training.network(), Method("planned", {"budget_mib": 1}))
    resnet = trained(tmp_path, network="resnet18", norms="frozen")
    with pytest.raises(Unsupported, match="only chains"):
        resnet.forward(resnet.network(), Method("sft_artifact", {"tiles": 2}))


def test_the_meta_device_counts_what_a_cpu_takes(tmp_path):
    subject = dataclasses.asdict(Subject("vgg16", 16, 1, 64, 64))
    for method, settings in (("vanilla", {}), ("planned", {"budget_mib": 2}), ("tiled_1seg", {"tiles": 2})):
        given = {"subject": subject, "method": method, "settings": settings, "photographs": str(tmp_path), "seed": 0}
        counted, real = (step_peaks(**given, device=device) for device in ("meta", "cpu"))
        assert counted["macs"] == real["macs"]
        assert counted["base_bytes"] == real["base_bytes"]
        assert counted["peak_live"] == pytest.approx(real["peak_live"], rel=0.01)  # SGD's own tensors differ


# ---- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", ["exactness", "training", "prediction", "macs"])
def test_every_attempt_of_an_untimed_experiment_leaves_a_row(experiment, tmp_path, monkeypatch):
    monkeypatch.setitem(offered.EXACT, "smoke", ((64, 64),))
    monkeypatch.setitem(offered.PLANS, "smoke", 2)
    monkeypatch.setitem(offered.MACS_SIZES, "smoke", (512,))
    monkeypatch.setattr(offered, "TRAINING_STEPS", 2)
    device = tmp_path / "device.json"
    device.write_text(json.dumps(device_record("cpu")))
    ours = section(networks=["vgg16"], sizes=[64])
    rows.write(
        experiment=experiment, shard="all", sft=ours, photographs=str(tmp_path), device=device, preset="smoke",
        threads=1, config_json="{}", campaign_id=None, log="logs/x.log", out=tmp_path / "out.parquet",
        say=lambda _: None,
    )  # fmt: skip
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert found
    assert all((row["status"] == "ok") == (row["value"] is not None) for row in found)
    by_arm = {(row["arm"].partition("@")[0], row["metric"]): row["value"] for row in found if row["value"] is not None}
    if experiment == "exactness":
        of_fp64 = [row["value"] for row in found if json.loads(row["axes_json"])["precision"] == "fp64"]
        assert max(of_fp64) <= 1e-12
    elif experiment == "prediction":
        peaks = {
            metric: [row["value"] for row in found if row["metric"] == metric]
            for metric in ("peak_predicted", "peak_total")
        }
        assert peaks["peak_predicted"] == peaks["peak_total"]
        assert [row["value"] for row in found if row["metric"] == "fits"] == [1.0, 1.0]
    elif experiment == "macs":
        artifact = next(row for row in found if row["arm"] == "sft_artifact@tiles=4" and row["metric"] == "macs_ratio")
        # the forward pass's golden ratio; the closed form counts the first layer's unwanted gradient too
        assert artifact["value"] == pytest.approx((3 * 7.8507 + 1) / 3, rel=0.01)
        assert by_arm["planned", "macs_ratio"] == 1.0
        assert {row["status"] for row in found} == {"ok", "unsupported"}  # 32 tiles of 16 positions
    else:
        assert {json.loads(row["axes_json"])["step"] for row in found} == {0, 1}


def test_a_plan_that_takes_more_than_its_budget_or_all_memory_does_not_fit():
    plan = Result("prediction", Subject("vgg16", 16, 1, 64, 64), Method("planned", {"budget_mib": 1}))
    for values, fits in (({"peak_total": 9.0}, 1), ({"peak_total": 9.0, "peak_allocated": 11.0}, 0)):
        (found,) = count_prediction.fits(dataclasses.replace(plan, values=values), 10)
        assert found.values == {"fits": fits}
    (found,) = count_prediction.fits(dataclasses.replace(plan, fault=Fault("oom", "tried to allocate")), 10)
    assert (found.values, found.fault, found.reason) == ({"fits": 0.0}, None, "tried to allocate")
    assert list(count_prediction.fits(dataclasses.replace(plan, fault=Fault("failed", "a bug")), 10)) == []


# ---- pairs of layers -------------------------------------------------------------------------------------------------


def test_a_cpus_arms_of_a_pair_agree_with_float64(machine):
    from kernels.tiled import PairShape

    for stem, sizes in stems.STEMS.items():
        shape = PairShape(N=1, H=32, W=36, **sizes)
        made = bench_kernels.case(stem, "fp32", shape, "cpu")
        given = made.inputs(1, "timed")
        wanted = made.reference(given).y
        for name in stems.arms("fp32", "cpu"):
            prepared = bench_kernels.arm(name, shape, None).prepare(given)
            (found,) = prepared.outputs if prepared.outputs and prepared.run() is not None else (prepared.run(),)
            assert (found.double() - wanted).norm() <= bench_kernels.NORM["f32"] * wanted.norm()


def test_what_is_built_is_what_a_gpus_arms_launch():
    ours = section("headline")
    device = {"device_kind": "cuda", "capability": "9.0"}
    built = stems.builds(ours, ["8.0"], device)
    assert {capability for _, capability in built} == {"9.0"}
    launched = {
        step.variant.name
        for _, precision, shape in stems.pairs("headline", "cuda")
        for name in stems.arms(precision, "cuda")
        if name not in stems.CHAINS
        for step in stems.chosen(name, shape, "9.0").steps
    }
    assert {name for name, _ in built} == launched
    assert len(stems.builds(section(), ["7.5", "9.0"], {"device_kind": "cpu"})) == 1
    assert stems.builds(section(experiments=["macs"]), ["9.0"], device) == []
