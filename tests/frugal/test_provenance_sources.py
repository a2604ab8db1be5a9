"""Provenance: which of our modules a result depends on. A toy package is changed; Python itself is the reference."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from frugal import provenance
from frugal.provenance.sources import hash_modules, imported_modules, package_folders

TOY = {
    "workflow/frugal/__init__.py": "",
    "workflow/frugal/base.py": "raise RuntimeError('a source is read and never run')\n",
    "workflow/frugal/absolute.py": "import frugal.base\n",
    "workflow/frugal/name.py": "from frugal import base\n",
    "workflow/frugal/lazy.py": "def f():\n    from frugal.base import x\n    return x\n",
    "workflow/frugal/chain.py": "from frugal.name import anything\n",
    "workflow/frugal/sub/__init__.py": "",
    "workflow/frugal/sub/up.py": "from .. import base\n",
    "workflow/frugal/sub/up_name.py": "from ..base import x\n",
    "workflow/frugal/sub/beside.py": "from . import up\n",
    "workflow/frugal/sub/beside_name.py": "from .up import x\n",
    "workflow/frugal/sub/init/__init__.py": "from ..up import x\n",
    "workflow/frugal/sub/init/leaf.py": "import os\n",
    "workflow/frugal/alone.py": "import numpy\nfrom os import path\nimport frugal_like\n",
    "workflow/frugal/ring_a.py": "import frugal.ring_b\n",
    "workflow/frugal/ring_b.py": "import frugal.ring_a\nimport frugal.base\n",
    "kernels/__init__.py": "",
    "kernels/one.py": "from frugal.base import x\n",
}
DEPENDENT = [
    "frugal.absolute",
    "frugal.name",
    "frugal.lazy",
    "frugal.chain",
    "frugal.sub.up",
    "frugal.sub.up_name",
    "frugal.sub.beside",
    "frugal.sub.beside_name",
    "frugal.sub.init",
    "frugal.sub.init.leaf",  # importing it runs frugal.sub.init first
    "frugal.ring_a",
    "frugal.ring_b",
    "kernels.one",
]


@pytest.fixture
def toy(tmp_path):
    for name, source in TOY.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    return {"frugal": tmp_path / "workflow/frugal", "kernels": tmp_path / "kernels"}


@pytest.mark.parametrize("module", DEPENDENT)
def test_a_change_below_changes_the_hash(toy, module):
    before = hash_modules([module], toy)
    assert hash_modules([module], toy) == before
    (toy["frugal"] / "base.py").write_text("x = 1\n")
    assert hash_modules([module], toy) != before


@pytest.mark.parametrize("module", ["frugal.alone", "frugal.sub", "frugal", "kernels"])
def test_a_change_elsewhere_does_not(toy, module):
    before = hash_modules([module], toy)
    (toy["frugal"] / "base.py").write_text("x = 1\n")
    assert hash_modules([module], toy) == before


def test_a_package_above_counts(toy):
    before = hash_modules(["frugal.sub.up"], toy)
    (toy["frugal"] / "sub/__init__.py").write_text("x = 1\n")
    assert hash_modules(["frugal.sub.up"], toy) != before


def test_the_hash_is_of_the_content_not_the_place_or_the_order(toy, tmp_path):
    elsewhere = {name: Path(shutil.copytree(folder, tmp_path / "elsewhere" / name)) for name, folder in toy.items()}
    wanted = hash_modules(["frugal.name", "kernels.one"], toy)
    assert hash_modules(["kernels.one", "frugal.name"], elsewhere) == wanted
    assert hash_modules(["frugal.name"], toy) != hash_modules(["frugal.absolute"], toy)


def test_a_module_that_becomes_a_package_counts(toy):
    before = hash_modules(["frugal.base"], toy)
    (toy["frugal"] / "base").mkdir()
    (toy["frugal"] / "base.py").rename(toy["frugal"] / "base/__init__.py")
    assert hash_modules(["frugal.base"], toy) != before


@pytest.mark.parametrize("name", ["frugal.nowhere", "numpy", "frugal.base.x", ""])
def test_what_is_not_ours_cannot_be_hashed(name):
    with pytest.raises(ValueError, match=f"there is no module {name} to hash: name a module of frugal or kernels"):
        provenance.source_hash(name)


@pytest.mark.parametrize("module", ["frugal.timing", "frugal.cli", "frugal.provenance", "kernels"])
def test_whatever_python_imports_is_found(module):
    # The reference is the interpreter: what it really loads must be among what was read from the source.
    code = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    ours = {name for name in loaded if name.split(".")[0] in ("frugal", "kernels")}
    assert ours <= set(imported_modules([module], package_folders()))


@pytest.mark.parametrize("child", ["frugal.jobs.child", "frugal.energy.child", "frugal.memory.child"])
def test_what_a_session_runs_in_another_process_counts(child):
    assert child in imported_modules(["frugal.jobs"], package_folders())


def test_a_copy_of_the_project_follows_its_own_sources(tmp_path):
    folder = Path(shutil.copytree(package_folders()["frugal"], tmp_path / "frugal"))
    folders = package_folders() | {"frugal": folder}
    before = {name: hash_modules([name], folders) for name in ("frugal.provenance", "frugal.clock")}
    assert before["frugal.provenance"] == provenance.source_hash("frugal.provenance")
    with (folder / "errors.py").open("a") as file:
        file.write("X = 1\n")
    assert hash_modules(["frugal.provenance"], folders) != before["frugal.provenance"]
    assert hash_modules(["frugal.clock"], folders) == before["frugal.clock"]


def test_hashing_loads_nothing_heavy():
    code = (
        "import sys; from frugal.provenance import source_hash, device_record; "
        "source_hash('frugal.timing', 'kernels'); device_record('cpu'); "
        "print([m for m in ('torch', 'numba', 'pandas', 'matplotlib', 'pyarrow', 'kernels') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
