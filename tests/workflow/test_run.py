"""The DAG from nothing to figures, and what runs again afterwards."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest

from campaign_folder import REPOSITORY, SMALL, Campaign
from frugal import figures, records, refresh

TARGETS = ("figures", "results", "claims", "cusnn", "all")

# Experiments of the small campaign that are timed; it measures cuSNN alone.
TIMED = ("layers", "break_even", "ladder", "networks")
DRAWN = [name for name in figures.NAMES if name.startswith("cusnn_")]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_planned(campaign: Campaign, target: str):
    done = campaign.run("--dry-run", "--", target)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "checkpoint" in done.stdout


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_both_entries_plan_the_figures_by_default(campaign: Campaign, snakefile: str):
    done = campaign.run("--snakefile", str(REPOSITORY / snakefile), "--dry-run")
    assert done.returncode == 0, done.stdout[-2000:]
    assert {f"figure_{name}" for name in DRAWN} <= set(planned(done.stdout))


def test_numbers_of_the_command_line_are_numbers(campaign: Campaign):
    asked = "timing={sessions: 2}", "cusnn={batch_sizes: [1, 2], deterministic: false}"
    done = campaign.run("--dry-run", "--config", *asked, "--", "results")
    assert done.returncode == 0, done.stdout[-2000:]
    done = campaign.run("--dry-run", "--config", "timing={sessions: none}", "--", "results")
    assert "config: timing.sessions = none: must be an integer >= 1, or null" in done.stdout


def test_the_workflow_runs_without_a_configuration_file(campaign: Campaign):
    (campaign.folder / "config.yaml").unlink()
    done = campaign.run("--dry-run")
    assert done.returncode == 0, done.stdout[-2000:]


def test_checkpoints_are_known_from_the_start_after_clean_too(campaign: Campaign):
    # What SFT measures depends on the machine, a checkpoint. One that Snakemake meets only then is never taken as run.
    system = "--config", "systems=[sft]"
    done = campaign.run(*system, "--", "data/availability.json")
    assert done.returncode == 0, done.stdout[-2000:]
    shutil.rmtree(campaign.folder / ".snakemake")
    graph = campaign.run(*system, "--rulegraph", "--", "results").stdout
    assert {"sources", "device"} <= set(re.findall(r'label ?= ?"(\w+)"', graph))


def test_every_figure_is_drawn_in_three_formats(finished: Campaign):
    folder = finished.folder / "results/figures"
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{suffix}" for name in DRAWN for suffix in ("png", "svg", "pdf")
    }
    assert all(path.stat().st_size > 1000 for path in folder.iterdir())


def test_every_attempted_case_has_a_row_and_provenance(finished: Campaign):
    results = finished.folder / "results"
    runs = records.read(results / "runs.parquet", "runs").to_pylist()
    rows = records.read(results / "measurements.parquet", "measurements").to_pylist()
    samples = records.read(results / "samples.parquet", "samples").to_pylist()
    assert {run["experiment"] for run in runs} == {"sparsity", *TIMED}
    assert len({run["campaign_id"] for run in runs}) == 1
    timed = [row for row in rows if row["experiment"] == "layers"]
    shapes = {(row["c"], row["h"], row["k"]) for row in timed}
    assert {(row["arm"], row["regime"]) for row in timed} == {("sparse", "wall"), ("onednn_fp32", "wall")}
    assert len(timed) == 2 * len(shapes)
    for row in timed:
        assert row["status"] in ("ok", "unstable"), row["reason"]  # three samples on a machine that others use too
        assert row["verified_before"]
        assert row["verified_after"]
        assert json.loads(row["axes_json"])["weights"] == "random"
        assert row["value"] > 0
        assert row["conditional"]
    controls = [row for row in rows if row["system"] == "control"]
    assert {row["experiment"] for row in controls} == {"null", "planted", "planted_copy", "wrong"}
    assert {json.loads(row["axes_json"])["host"] for row in controls} == {f"cusnn/{name}" for name in TIMED}
    measured = [row for row in rows if row["metric"] == "time" and row["value"] is not None]
    of_time = {sample["case_id"] for sample in samples if sample["metric"] == "time"}
    assert of_time == {row["case_id"] for row in measured}


def test_each_experiment_leaves_its_rows(finished: Campaign):
    rows = records.read(finished.folder / "results/measurements.parquet", "measurements").to_pylist()
    found = {name: [row for row in rows if row["experiment"] == name] for name in TIMED}
    # three shapes, one share of zeros; of the ladder two shapes, whose steps are for a GPU
    assert len({row["case_id"] for row in found["break_even"]}) == 3
    assert {(row["sparsity_target"], row["sparsity_pattern"]) for row in found["break_even"]} == {(0.5, "iid")}
    assert len({row["case_id"] for row in found["ladder"]}) == 2
    steps = [row for row in found["ladder"] if row["arm"].startswith("v")]
    assert {row["status"] for row in steps} == {"unsupported"}
    assert all("GPU" in row["reason"] for row in steps)
    assert {row["arm"] for row in found["networks"]} >= {"sparse", "onednn_fp32"}
    others = [row for row in (*found["break_even"], *found["ladder"]) if row not in steps]
    assert {row["status"] for row in others} <= {"ok", "unstable"}


def test_the_tables_of_cusnn_are_written(finished: Campaign, tmp_path):
    copy = finished.copy_to(tmp_path / "copy")
    done = copy.run("--", "cusnn")
    assert done.returncode == 0, done.stdout[-4000:]
    folder = copy.folder / "results/cusnn"
    (line,) = (folder / "layers_resnet50_b1.csv").read_text().splitlines()
    *sizes, t1, t2, t3, t4 = line.split(", ")
    assert sizes == ["1", "256", "4", "4", "256"]  # 14 pixels of an image of 64 in place of 224
    assert float(t1) > 0
    assert float(t4) > 0
    assert (t2, t3) == ("", "")  # neither a matrix product nor TF32 was measured
    assert json.loads((folder / "layers_resnet50_b1.json").read_text())["unit"] == "ms"
    assert (folder / "break_even.csv").read_text().startswith("device_key,c,h,w,k,r,stride,batch,pattern,")


def test_a_session_says_what_its_controls_showed(finished: Campaign):
    runs = records.read(finished.folder / "results/runs.parquet", "runs").to_pylist()
    (session,) = [run for run in runs if run["experiment"] == "layers"]
    outcomes = json.loads(session["controls_json"])
    assert set(outcomes) == {"null", "planted", "planted_copy", "wrong", "copy", "peak"}
    assert outcomes["wrong"]["colour"] == "green"  # the only one that can be red on a CPU in smoke
    assert session["controls_passed"]


def test_comparisons_of_one_session_carry_no_verdict(finished: Campaign):
    rows = pq.read_table(finished.folder / "results/comparisons.parquet").to_pylist()
    assert rows
    assert all(row["conditional"] and row["verdict"] is None for row in rows)
    timed = [row for row in rows if row["ratio"] is not None]  # a contested machine leaves pairs unstable
    assert timed
    assert all(row["ratio_low"] <= row["ratio"] <= row["ratio_high"] for row in timed)


def test_kernels_are_built_without_a_gpu(finished: Campaign):
    for family in ("sparse", "control"):
        (report,) = (finished.folder / "results/kernels" / family).glob("*.json")
        assert json.loads(report.read_text())["capability"] == "9.0"
        assert report.with_suffix(".cubin").read_bytes()[:4] == b"\x7fELF"
        assert ".target sm_90" in report.with_suffix(".ptx").read_text()


def test_one_log_a_job(finished: Campaign):
    logs = {str(path.relative_to(finished.folder / "logs")) for path in (finished.folder / "logs").rglob("*.log")}
    assert {"sources.log", "aggregate.log", "compare.log", "device/local.log"} <= logs
    assert "bench_layer/local/layers/session-0.log" in logs


def test_a_second_run_does_nothing_and_says_so(finished: Campaign):
    done = finished.run("--", "figures")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout


def test_a_deleted_figure_is_drawn_alone(finished: Campaign, tmp_path):
    copy = finished.copy_to(tmp_path / "copy")
    (copy.folder / "results/figures/cusnn_roofline.svg").unlink()
    done = copy.run("--dry-run", "--", "figures")
    assert planned(done.stdout) == {"figure_cusnn_roofline": 1, "figures": 1}
    assert copy.run("--", "figures").returncode == 0
    assert (copy.folder / "results/figures/cusnn_roofline.svg").stat().st_size > 1000


def test_snakemakes_own_report_shows_every_figure_with_its_caption(finished: Campaign, tmp_path):
    page = tmp_path / "report.html"
    done = finished.run("--report", str(page), "--", "figures")
    assert done.returncode == 0, done.stdout[-2000:]
    text = page.read_text()
    assert all(name in text for name in DRAWN)
    assert "least time that the machine" in text  # words of a caption


FIGURES = {*(f"figure_{name}" for name in DRAWN), "figures"}
TABLES = {"aggregate", "compare", *FIGURES}
MEASURED = {"bench_layer", "bench_network", *TABLES}


@pytest.mark.parametrize(
    ("section", "change", "rules"),
    [
        (None, {"recorded": ["nvidia-h200"]}, FIGURES),
        (None, {"container": {"image": "docker://example.org/frugal:0.1.0"}}, set()),
        ("timing", {"margin_kernel": 0.02}, {"compare", *FIGURES}),
        ("timing", {"clock_shift_min": 0.01}, {"compare", *FIGURES}),
        ("timing", {"force": True}, set()),
        ("timing", {"sessions": 2}, MEASURED),
        ("timing", {"n_min": 4}, MEASURED),
        ("cusnn", {"baselines": []}, MEASURED),
        ("cusnn", {"sparsities": [0.6]}, {"bench_layer", *TABLES}),
        ("cusnn", {"policy": "always"}, {"bench_network", *TABLES}),
        ("cusnn", {"seed": 2}, {"network_weights", "cusnn_sparsity", *MEASURED}),
        ("data", {"n_images": 7}, {"image_to_bin", "network_weights", "cusnn_sparsity", *MEASURED}),
        ("kernels", {"capabilities": ["8.0", "9.0"]}, {"build_kernel", *MEASURED}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_an_edit_reruns_what_depends_on_it_and_nothing_else(finished, section, change, rules):
    edited = change if section is None else {section: SMALL[section] | change}
    finished.configure(**edited)
    try:
        done = finished.run("--dry-run", "--", "figures")
    finally:
        finished.configure()
    assert set(planned(done.stdout) if rules else {}) == rules
    if not rules:
        assert "Nothing to be done" in done.stdout
    if change == {"sessions": 2}:
        assert planned(done.stdout)["bench_layer"] == 3  # of three experiments; no first session is measured again


def test_what_refresh_mends_is_measured_anew(finished: Campaign, tmp_path, monkeypatch):
    copy = finished.copy_to(tmp_path / "copy")
    here = json.loads((copy.folder / "results/device/local.json").read_text())
    monkeypatch.setattr(refresh.provenance, "device_record", lambda kind: here | {"device_key": "another"})
    assert refresh.stale(copy.folder / "config.yaml", copy.folder / "results", copy.folder / "data", copy.folder)
    done = copy.run("--dry-run", "--", "figures")
    assert {"bench_layer", "cusnn_sparsity"} <= set(planned(done.stdout))
    assert not {"device", "sources", "image_to_bin", "network_weights"} & set(planned(done.stdout))


def planned(output: str) -> dict[str, int]:
    """Rule and jobs of Snakemake's table of statistics (the rich logger writes spaces for underscores)."""
    table = output[output.index("Job stats") : output.index("Reasons:")]
    found = re.findall(r"^\s*([a-z][a-z_ ]*?)\s{2,}(\d+)\s*$", table, re.MULTILINE)
    return {rule.replace(" ", "_"): int(count) for rule, count in found if rule != "total"}
