"""The jobs that SFT's campaign is cut into."""

from __future__ import annotations

from collections import Counter

import pytest

from frugal import config
from frugal.sft import offered, shards
from frugal.sft.offered import Method, Subject


def section(preset: str = "smoke", **given: object) -> dict:
    return config.sft(config.load({"preset": preset, "sft": given}))


@pytest.mark.parametrize("preset", ["smoke", "quick", "sweep", "headline"])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_arm_of_every_case_is_in_one_job(preset, kind):
    ours = section(preset)
    every = Counter(
        (experiment, each, arm)
        for experiment in offered.STEPS
        for each in offered.step_subjects(experiment, ours, kind)
        for arm in range(offered.arm_count(experiment, ours, each, kind))
    )
    found = Counter(
        (experiment, each, arm)
        for name in shards.steps(ours, kind)
        for experiment, each in shards.of_steps(name, ours, kind)
        for arm in shards.dealt(name, range(offered.arm_count(experiment, ours, each, kind)))
    )
    assert found == every
    assert set(every.values()) == {1}


@pytest.mark.parametrize("preset", ["quick", "sweep", "headline"])
def test_a_job_on_a_gpu_stays_within_ten_minutes(preset):
    """As reckoned: 0.44 PFLOP a second in bf16 and what the other precisions do, of an untiled step's FLOP."""
    ours = section(preset)
    per_pixel = {"vgg16": 305_856, "darknet19": 55_624, "resnet18": 36_144, "resnet50": 81_458, "unet_small": 35_408}
    for name in shards.steps(ours, "cuda"):
        seconds = 0.0
        for experiment, each in shards.of_steps(name, ours, "cuda"):
            flop = 6.0 * per_pixel[each.network] * each.batch * each.h * each.w / each.width_divisor**2
            arms = shards.dealt(name, range(offered.arm_count(experiment, ours, each, "cuda")))
            seconds += len(arms) * 15 * 1.5 * flop / {"fp32": 4.7e13, "tf32": 1.9e14, "bf16": 3.4e14}[each.precision]
        assert seconds <= shards.MOST_S


def test_only_the_published_schedule_on_the_largest_image_is_too_long():
    ours = section("headline")
    found = {
        (each.network, each.precision, each.h, method.name)
        for each in offered.subjects(ours, "cuda")
        for method in offered.methods(ours, each, "cuda")
        if shards.too_long(method, each, "cuda")
    }
    assert found == {("vgg16", "fp32", 20480, "sft_artifact")}
    assert not shards.too_long(Method("sft_artifact"), Subject("vgg16", 1, 1, 20480, 20480), "cpu")


def test_what_is_not_timed_is_one_job_in_smoke_and_else_one_an_experiment():
    ours = section()
    assert shards.counted(ours, "cuda") == [("counted", "all")]
    assert shards.experiments("counted", ours) == list(offered.COUNTED)
    assert shards.experiments("macs", ours) == ["macs"]
    assert shards.counted(section(experiments=["sizes"]), "cpu") == []
    more = section(
        "quick", experiments=["memory", "largest", "macs"], networks=["vgg16"], sizes=[64, 96], caps_gib=[0.5, 2]
    )
    assert shards.counted(more, "cpu") == [("memory", "all"), ("largest", "all"), ("macs", "all")]
    assert shards.counted(more, "cuda") == [
        ("memory", "vgg16-fp32-64"), ("memory", "vgg16-fp32-96"), ("largest", "vgg16-fp32-0.5"),
        ("largest", "vgg16-fp32-2"), ("macs", "all"),
    ]  # fmt: skip


def test_every_case_that_is_not_timed_is_in_one_shard():
    ours = section("headline")
    names = [shard for job, shard in shards.counted(ours, "cuda") if job == "memory"]
    for each in offered.subjects(ours, "cuda"):
        assert sum(shards.has_memory(name, "memory", each) for name in names) == 1
    for each in offered.step_subjects("pareto", ours, "cuda"):
        assert sum(shards.has_memory(name, "pareto", each) for name in names) == 1
    names = [shard for job, shard in shards.counted(ours, "cuda") if job == "largest"]
    for each in offered.largest_subjects(ours, "cuda"):
        assert [sum(shards.has_largest(name, each, cap) for name in names) for cap in ours["caps_gib"]] == [1] * 4


def test_the_quoted_campaign_has_batches_and_an_oblong_image_too():
    shapes = {(each.batch, each.h, each.w) for each in offered.subjects(section("headline"), "cuda")}
    assert {(2, 2048, 2048), (4, 2048, 2048), (1, 4096, 1536)} < shapes
    own = {(each.batch, each.h, each.w) for each in offered.subjects(section("headline", sizes=[512]), "cuda")}
    assert own == {(1, 512, 512)}
    largest = {(each.batch, each.h, each.w) for each in offered.largest_subjects(section("headline"), "cuda")}
    assert largest == {(1, 20480, 20480)}
