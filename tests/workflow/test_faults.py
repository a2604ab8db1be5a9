"""Broken configuration, kills, damaged downloads, disks without room: one sentence, and nothing lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from campaign_folder import SMALL, Campaign
from frugal import refresh

# Sessions that last long enough to be killed; another design also makes Snakemake run the session again.
SLOW = {"block_min_s": 0.4, "block_max_s": 0.5, "n_min": 3, "regimes": ["wall"]}
LAYERS = SMALL["cusnn"] | {"experiments": ["sparsity", "layers"]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"presett": "smoke"}, ["config: presett: there is no such key", "did you mean preset?"]),
        ({"cusnn": {"batch_sizes": [0]}}, ["config: cusnn.batch_sizes = [0]", "integer >= 1", "for example [1, 8]"]),
        ({"cusnn": {"networks": ["resnet5"]}}, ["config: cusnn.networks", "resnet50"]),
        ({"timing": {"block_min_s": 2.0, "block_max_s": 1.0}}, ["must not exceed timing.block_max_s"]),
    ],
    ids=["unknown key", "bad value", "unknown network", "impossible combination"],
)
def test_a_broken_configuration_ends_in_its_sentence(campaign: Campaign, changes: dict, words: list[str]):
    campaign.configure(**changes)
    done = campaign.run("--", "figures")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    flat = " ".join(done.stdout.split())
    assert all(word in flat for word in words), done.stdout
    assert not (campaign.folder / "results").exists()


def test_a_killed_run_goes_on_where_it_was(finished: Campaign, tmp_path: Path):
    copy = finished.copy_to(tmp_path / "copy")
    copy.configure(timing=SLOW, cusnn=LAYERS)
    raw = copy.folder / "results/raw/smoke/local/cusnn/layers/session-0.parquet"
    log = copy.folder / "logs/bench_layer/local/layers/session-0.log"
    process = copy.start()
    journal = raw.with_name("session-0.parquet.partial")
    try:
        wait_for(lambda: journal.exists() and journal.stat().st_size > 2000, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not raw.exists()
    assert refresh.stale(copy.folder / "config.yaml", copy.folder / "results", copy.folder / "data", copy.folder)
    done = copy.run("--", "figures")
    assert done.returncode == 0, done.stdout[-3000:]
    assert raw.exists()
    assert not journal.exists()
    assert "were finished before: they are not measured again" in log.read_text()


def test_a_job_dies_with_snakemake(finished: Campaign, tmp_path: Path):
    copy = finished.copy_to(tmp_path / "copy")
    copy.configure(timing=SLOW, cusnn=LAYERS)
    raw = copy.folder / "results/raw/smoke/local/cusnn/layers/session-0.parquet"
    process = copy.start()
    journal = raw.with_name("session-0.parquet.partial")
    wait_for(journal.exists, process)
    process.kill()
    process.wait()
    size = journal.stat().st_size
    time.sleep(3)
    assert not raw.exists()
    assert journal.stat().st_size <= size + 4096


def test_what_a_session_refuses_is_told_in_its_sentence(finished: Campaign, tmp_path: Path):
    copy = finished.copy_to(tmp_path / "copy")
    copy.configure(timing=SMALL["timing"] | {"affinity": [99999]})
    done = copy.run("--", "figures")
    assert done.returncode == 1
    assert "timing.affinity = [99999]: this machine refuses" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout
    assert not (copy.folder / "results/raw/smoke/local/cusnn/layers/session-0.parquet").exists()


def test_a_damaged_download_is_named_and_not_published(campaign: Campaign, tmp_path: Path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    damaged = mirror / "resnet50-0676ba61.pth"
    with damaged.open("wb") as file:
        file.truncate(102_530_333)  # the right size, the wrong bytes
    campaign.configure(mirror=str(mirror), cusnn={"networks": ["resnet50"]})
    done = campaign.run("--", "data/weights/resnet50-torchvision_v1.5.safetensors")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert "resnet50-0676ba61.pth" in done.stdout
    assert "sha256" in done.stdout.lower()
    assert not (campaign.folder / "data/downloads/resnet50-0676ba61.pth").exists()


def test_never_substitute_fails_where_nothing_can_be_had(campaign: Campaign):
    campaign.configure(offline="never", cusnn={"networks": ["resnet50"]}, mirror=str(campaign.folder))
    done = campaign.run("--", "data/availability.json")
    assert done.returncode == 1
    assert "offline: never" in done.stdout
    assert not (campaign.folder / "data/availability.json").exists()


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 1 MB, where this user may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small file system needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_no_file_cut_short(finished: Campaign, tmp_path: Path, small_disk: Path):
    copy = finished.copy_to(tmp_path / "copy")
    kernels = copy.folder / "results/kernels"
    (report,) = [str(path.relative_to(copy.folder)) for path in (kernels / "sparse").glob("*.json")]
    shutil.rmtree(kernels)
    kernels.symlink_to(small_disk)
    (small_disk / "filler").write_bytes(bytes(1000 * 1024))
    done = copy.run("--", report)
    assert done.returncode == 1
    assert "no room for" in done.stdout
    assert not list((small_disk / "sparse").glob("*.cubin"))
    (small_disk / "filler").unlink()
    done = copy.run("--", report)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_read_only_folder_ends_in_one_sentence(finished: Campaign, tmp_path: Path, small_disk: Path):
    copy = finished.copy_to(tmp_path / "copy")
    figures = copy.folder / "results/figures"
    for path in figures.iterdir():
        path.unlink()
    figures.rmdir()
    figures.symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = copy.run("--", "figures")
    assert done.returncode == 1
    assert "read-only" in done.stdout.lower()


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
