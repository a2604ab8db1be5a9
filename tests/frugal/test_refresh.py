"""What is mended because it is no longer true, and what stays."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from frugal import provenance, refresh
from frugal.config import ConfigError
from frugal.data import sources
from frugal.data.sources import Availability
from frugal.errors import FrugalError

THERE = Availability(where="url", address="https://example.org/w.pth")
NOWHERE = Availability(where="none", reason="no connection")


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRUGAL_MIRROR", raising=False)


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """No test reaches a network: only a mirror folder is asked. What was asked for is listed."""
    calls: list[list[str]] = []
    real = sources.probe

    def probe(names, mirror=None):
        calls.append(list(names))
        published = {name: source.model_copy(update={"urls": []}) for name, source in sources.load().items()}
        return real(calls[-1], mirror, sources=published)

    monkeypatch.setattr(refresh.sources, "probe", probe)
    return calls


@pytest.fixture(scope="module")
def here() -> dict:
    return provenance.device_record("cpu")


def stale(folder: Path, config: str = "devices: {local: {kind: cpu}}\n") -> list[str]:
    (folder / "config.yaml").write_text(config)
    return refresh.stale(folder / "config.yaml", folder / "results", folder / "data", folder)


def devices(folder: Path, **records: dict) -> list[Path]:
    paths = [folder / "results" / "device" / f"{label}.json" for label in records]
    for path, record in zip(paths, records.values(), strict=True):
        provenance.write_device_record(record, path)
    return paths


def test_an_empty_folder_has_nothing_to_mend(tmp_path: Path):
    assert refresh.stale(tmp_path / "config.yaml", tmp_path / "results", tmp_path / "data", tmp_path) == []


# ---- machines --------------------------------------------------------------------------------------------------------


def test_the_same_machine_keeps_its_file(tmp_path: Path, here: dict):
    (path,) = devices(tmp_path, local=here)
    assert stale(tmp_path) == []
    assert path.exists()


@pytest.mark.parametrize("change", [{"device_key": "nvidia-h200-9.0-132sm"}, {"llc_bytes": 1}], ids=["key", "cache"])
def test_another_machine_is_replaced_by_this_one_and_named(tmp_path: Path, here: dict, change: dict):
    (path,) = devices(tmp_path, local=here | change)
    (line,) = stale(tmp_path)
    assert line.startswith(f"{path}: this machine is now {here['device_key']}")
    assert json.loads(path.read_text()) == here
    assert stale(tmp_path) == []


def test_a_damaged_device_file_is_written_again(tmp_path: Path, here: dict):
    (path,) = devices(tmp_path, local=here)
    path.write_bytes(path.read_bytes()[:20] + b"\xff")
    assert len(stale(tmp_path)) == 1
    assert json.loads(path.read_text()) == here


def test_labels_of_other_machines_are_not_this_ones_to_judge(tmp_path: Path, here: dict):
    paths = devices(tmp_path, local={"device_key": "x"}, a100={"device_key": "y"}, h200={"device_key": "z"})
    assert stale(tmp_path, "devices: {a100: {}, h200: {}}\n") == []
    assert [json.loads(path.read_text())["device_key"] for path in paths] == ["x", "y", "z"]
    stale(tmp_path)
    assert [json.loads(path.read_text())["device_key"] for path in paths] == [here["device_key"], "y", "z"]


# ---- published files -------------------------------------------------------------------------------------------------


def published() -> tuple[str, str]:
    """Two names of data/sources.yaml whose size is not known, so that any file will do in a mirror."""
    first, second, *_ = (name for name, source in sources.load().items() if source.bytes is None)
    return first, second


def availability(folder: Path, found: dict[str, Availability]) -> Path:
    path = folder / "data" / "availability.json"
    sources.write_probe(path, found)
    return path


def test_what_can_be_had_now_is_noted(tmp_path: Path, asked: list[list[str]]):
    one, two = published()
    path = availability(tmp_path, {one: NOWHERE, two: THERE})
    assert stale(tmp_path) == []
    assert path.exists()
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / one).write_bytes(b"weights")
    (line,) = stale(tmp_path, f"devices: {{local: {{kind: cpu}}}}\nmirror: {tmp_path / 'mirror'}\n")
    assert line == f"{path}: {one} can be had now; what stood in is replaced"
    now = sources.read_probe(path)
    assert (now[one].where, now[two]) == ("mirror_folder", THERE)
    assert asked == [[one], [one]]  # what could be had before is not asked for again


def test_a_connection_that_is_gone_changes_nothing(tmp_path: Path, asked: list[list[str]]):
    path = availability(tmp_path, dict.fromkeys(published(), THERE))
    assert stale(tmp_path) == []
    assert path.exists()
    assert asked == [[]]


def test_a_name_that_is_no_longer_published_is_passed_over(tmp_path: Path, asked: list[list[str]]):
    one, _ = published()
    path = availability(tmp_path, {"of-an-older-version.pth": NOWHERE, one: NOWHERE})
    assert stale(tmp_path) == []
    assert path.exists()
    assert asked == [[one]]


def test_a_damaged_list_of_sources_is_one_sentence(tmp_path: Path):
    availability(tmp_path, {}).write_text("{")
    with pytest.raises(FrugalError, match=r"availability\.json: not a list of sources .*delete it and run again"):
        stale(tmp_path)


# ---- locks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def locks(tmp_path: Path) -> list[Path]:
    """The two files that Snakemake leaves when it is killed."""
    paths = [tmp_path / ".snakemake" / "locks" / name for name in ("0.input.lock", "0.output.lock")]
    paths[0].parent.mkdir(parents=True)
    for path in paths:
        path.write_text("results/a\n")
    return paths


@pytest.fixture
def living(tmp_path: Path) -> Iterator[object]:
    """Starts a process with a given last argument in a folder, which lives until the end of the test."""
    started: list[subprocess.Popen] = []

    def start(argument: str, folder: Path = tmp_path) -> int:
        waits = "import sys; print('up', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", waits, argument]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=folder, **pipes))
        started[-1].stdout.readline()
        return started[-1].pid

    yield start
    for process in started:
        process.communicate()


def test_the_lock_of_a_killed_run_is_removed(tmp_path: Path, locks: list[Path]):
    (line,) = stale(tmp_path)
    assert line.startswith(f"{tmp_path / '.snakemake' / 'locks'}: the lock of a killed run is removed")
    assert not any(path.exists() for path in locks)
    assert stale(tmp_path) == []


@pytest.mark.parametrize("argument", ["snakemake", "/somewhere/bin/snakemake"])
def test_a_run_that_lives_keeps_its_lock_and_everything_else(tmp_path: Path, locks, living, here: dict, argument: str):
    (device,) = devices(tmp_path, local=here | {"device_key": "x"})
    pid = living(argument)
    with pytest.raises(FrugalError, match=rf"another run \(process {pid}\) works in this folder: wait"):
        stale(tmp_path)
    assert all(path.exists() for path in [*locks, device])


def test_a_run_in_another_folder_is_none_of_ours(tmp_path: Path, locks, living):
    (tmp_path / "other").mkdir()
    living("snakemake", tmp_path / "other")
    assert len(stale(tmp_path)) == 1
    assert not any(path.exists() for path in locks)


@pytest.mark.parametrize("argument", [".snakemake/log/run.snakemake.log", "frugal refresh && snakemake --cores all"])
def test_who_reads_a_log_or_calls_us_from_a_shell_is_no_run(tmp_path: Path, locks, living, argument: str):
    living(argument)
    assert len(stale(tmp_path)) == 1
    assert not any(path.exists() for path in locks)


# ---- configurations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem", "says"),
    [
        ("preset: [quick\n", FrugalError, r"config\.yaml: this is not YAML: .*line 2"),
        ("preset: quikc\n", ConfigError, "preset"),
        ("- quick\n", ConfigError, "it must be a mapping"),
    ],
    ids=["not YAML", "a wrong value", "a list"],
)
def test_a_configuration_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, problem: type, says: str):
    with pytest.raises(problem, match=says) as raised:
        stale(tmp_path, text)
    assert "\n" not in str(raised.value)


def test_an_empty_configuration_is_the_default_one(tmp_path: Path):
    assert stale(tmp_path, "# nothing yet\n") == []
