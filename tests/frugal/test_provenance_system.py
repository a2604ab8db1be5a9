"""Provenance: CPU, operating system, repository and pins, read from made-up systems."""

import re
import subprocess

import pytest

from frugal import provenance
from frugal.provenance import cpu, software
from frugal.provenance.device import slug


def tree(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


# ---- the CPU and the system ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "model", "key"),
    [
        (
            "model name\t: Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz",
            "Intel Xeon Platinum 8480+",
            "xeon-platinum-8480+",
        ),
        ("model name\t: AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763", "amd-epyc-7763"),
        ("model name\t: 13th Gen Intel(R) Core(TM) i7-1365U", "13th Gen Intel Core i7-1365U", "core-i7-1365u"),
        ("Hardware\t: BCM2835", "BCM2835", "bcm2835"),
    ],
)
def test_cpu_names_lose_their_trimmings(tmp_path, line, model, key):
    root = tree(tmp_path, {"proc/cpuinfo": f"processor\t: 0\n{line}\nflags\t: fpu\n"})
    assert cpu.cpu_model(root) == model
    assert slug(model).endswith(key)


def test_a_cpu_without_a_name_has_its_architecture(tmp_path):
    assert cpu.cpu_model(tmp_path)


def test_last_level_cache_is_the_sum_of_its_instances(tmp_path):
    cache = "sys/devices/system/cpu/cpu{}/cache/index{}/"
    files = {}
    for core, shared in enumerate(["0-1", "0-1", "2-3", "2-3"]):
        for index, (level, kind, size, sharing) in enumerate(
            [
                (1, "Data", "32K", core),
                (1, "Instruction", "64K", core),
                (2, "Unified", "1M", core),
                (3, "Unified", "32768K", shared),
            ]
        ):
            place = cache.format(core, index)
            files |= {place + "level": f"{level}\n", place + "type": f"{kind}\n"}
            files |= {place + "size": f"{size}\n", place + "shared_cpu_list": f"{sharing}\n"}
    assert cpu.llc_bytes(tree(tmp_path, files)) == 2 * 32 * 2**20


def test_a_system_that_tells_nothing_leaves_nulls(tmp_path):
    record = cpu.cpu_record(tmp_path)
    assert record["llc_bytes"] is record["cpu_governor"] is record["cpu_turbo"] is None
    assert software.virtualization(tmp_path) is None


@pytest.mark.parametrize(
    ("file", "content", "turbo"),
    [("intel_pstate/no_turbo", "0\n", True), ("intel_pstate/no_turbo", "1\n", False), ("cpufreq/boost", "0\n", False)],
)
def test_turbo_is_read_from_either_driver(tmp_path, file, content, turbo):
    assert cpu.turbo(tree(tmp_path, {f"sys/devices/system/cpu/{file}": content})) is turbo


def test_virtual_machines_and_containers_are_told(tmp_path):
    root = tree(tmp_path, {"proc/cpuinfo": "flags\t: fpu hypervisor sse\n", "run/.containerenv": ""})
    assert software.virtualization(root) == "container, vm"
    tree(root, {"sys/class/dmi/id/sys_vendor": "QEMU\n"})
    assert software.virtualization(root) == "container, vm (QEMU)"


def test_a_machine_keeps_its_hash_and_does_not_show_its_id(tmp_path):
    identity = "0123456789abcdef0123456789abcdef"
    first = provenance.machine_hash(tree(tmp_path / "a", {"etc/machine-id": identity + "\n"}))
    same = provenance.machine_hash(tree(tmp_path / "b", {"var/lib/dbus/machine-id": identity}))
    other = provenance.machine_hash(tree(tmp_path / "c", {"etc/machine-id": identity[::-1]}))
    assert first == same != other
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert identity not in first
    assert provenance.machine_hash(tmp_path / "no id") == provenance.machine_hash(tmp_path / "none here either")


# ---- the repository --------------------------------------------------------------------------------------------------


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.check_output(["git", *identity, *arguments], cwd=folder, text=True).strip()


@pytest.fixture
def repository(tmp_path):
    tree(tmp_path, {"workflow/frugal/__init__.py": "", "config.yaml": "preset: smoke\n", "kernels/__init__.py": ""})
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_clean_repository_is_its_commit(repository):
    assert software.git_state(repository) == (git(repository, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize(
    ("file", "dirty"),
    [
        ("workflow/frugal/__init__.py", True),
        ("kernels/__init__.py", True),
        ("config.yaml", False),
        ("notes.txt", False),
    ],
)
def test_only_changed_code_makes_it_dirty(repository, file, dirty):
    (repository / file).write_text("changed = True\n")
    assert software.git_state(repository)[1] is dirty


def test_another_projects_commit_is_not_ours(repository):
    installed = repository / "venv"
    tree(installed, {"workflow/frugal/__init__.py": ""})
    assert software.git_state(installed) == (None, None)


def test_without_git_there_is_no_commit(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert software.git_state(repository) == (None, None)


def test_no_repository_at_all(tmp_path):
    assert software.git_state(tmp_path) == (None, None)


def test_lock_hash_follows_the_pins(tmp_path):
    without = provenance.lock_hash(tmp_path)
    with_pins = provenance.lock_hash(tree(tmp_path, {"envs/constraints.txt": "numpy==2.4.6\n"}))
    other_pins = provenance.lock_hash(tree(tmp_path, {"envs/constraints.txt": "numpy==2.4.5\n"}))
    assert len({without, with_pins, other_pins}) == 3
    assert provenance.lock_hash(tmp_path) == other_pins
