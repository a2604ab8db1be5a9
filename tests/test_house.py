"""The house is in order: layers, pins, environments, profiles, and what no committed file may hold."""

import ast
import graphlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from frugal import config

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / "workflow"
LIBRARY = sorted([*(WORKFLOW / "frugal").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
SCRIPTS = sorted((WORKFLOW / "scripts").glob("*.py"))
RULES = sorted([ROOT / "Snakefile", WORKFLOW / "Snakefile", *(WORKFLOW / "rules").glob("*.smk")])
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))
PROFILES = sorted((WORKFLOW / "profiles").glob("*/profile.yaml"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ---- layers ----------------------------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    """frugal.records.write for workflow/frugal/records/write.py, frugal.records for its __init__.py."""
    base = ROOT if path.is_relative_to(ROOT / "kernels") else WORKFLOW
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, *, loading: bool = False) -> set[str]:
    """Every module or name that a file imports anywhere, also inside functions, as an absolute name; loading: only what
    importing the file itself imports, which leaves out functions and `if TYPE_CHECKING`."""
    name = module_name(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if loading else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def room(name: str) -> str | None:
    """The part of the architecture that a module belongs to; None for other people's, and for frugal itself."""
    first, *rest = name.split(".")
    if first == "kernels":
        return "kernels"
    if first == "scripts":
        return "workflow/scripts"
    return rest[0] if first == "frugal" and rest and rest[0] != "__version__" else None


def edges(paths: list[Path]) -> set[tuple[str, str, str]]:
    """(room, room that it imports, file)."""
    found = set()
    for path in paths:
        own = room(module_name(path))
        targets = {room(name) for name in imported(path)} - {own, None}
        found |= {(own, target, relative(path)) for target in targets if own is not None}
    return found


def layers() -> dict[str, int]:
    """The rank of each room, lowest 0, from the line of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Layers of the library")[1]
    line = next(paragraph for paragraph in text.split("\n\n") if "←" in paragraph)
    groups = [re.findall(r"[\w/]+", group) for group in line.split("←")]
    return {name: rank for rank, group in enumerate(groups) for name in group}


def upward(found: set[tuple[str, str, str]], rank: dict[str, int]) -> list[str]:
    return sorted(f"{file}: {own} imports {target}" for own, target, file in found if rank[target] > rank[own])


def test_the_layer_line_names_every_room():
    rooms = {room(module_name(path)) for path in [*LIBRARY, *SCRIPTS]} - {None}
    assert set(layers()) == rooms | {"workflow/rules"}


def test_nothing_imports_upward():
    rank = layers()
    assert upward(edges([*LIBRARY, *SCRIPTS]), rank) == []
    planted = {("records", "figures", "a.py"), ("figures", "records", "b.py")}
    assert upward(planted, rank) == ["a.py: records imports figures"]


def test_no_two_rooms_import_each_other():
    graph: dict[str, set[str]] = {}
    for own, target, _ in edges(LIBRARY):
        graph.setdefault(own, set()).add(target)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def test_the_library_never_imports_snakemake():
    assert [
        relative(path) for path in LIBRARY if any(name.split(".")[0] == "snakemake" for name in imported(path))
    ] == []


def test_what_the_workflow_imports_while_it_plans_loads_no_torch():
    # All that workflow/rules/common.smk imports, and the lowest layers, in a fresh process.
    rules = (WORKFLOW / "rules" / "common.smk").read_text(encoding="utf-8")
    planned = {line for line in rules.splitlines() if re.match(r"(from|import) (frugal|kernels)", line)}
    assert planned
    code = "import frugal.config, frugal.provenance, frugal.records, frugal.stats, frugal.cusnn.builds\n"
    code += "\n".join(sorted(planned)) + "\nimport sys\n"
    code += "print(*{'torch', 'numba', 'matplotlib', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# ---- what stands in code ---------------------------------------------------------------------------------------------

CLOCKS = re.compile(r"perf_counter|\btime\.time\b|\btime\.monotonic|process_time|elapsed_time|\btimeit\b")
# An instant that is compared with the dates of logs, and no duration.
INSTANTS = {("workflow/rules/common.smk", "STARTED = time.time()")}


def times(path: Path, text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if CLOCKS.search(line)]
    return [f"{relative(path)}: {line}" for line in lines if (relative(path), line) not in INSTANTS]


def test_only_timing_and_clock_look_at_a_clock():
    timing = WORKFLOW / "frugal" / "timing"
    others = [path for path in LIBRARY if not path.is_relative_to(timing) and path.name != "clock.py"]
    found = [line for path in [*others, *SCRIPTS, *RULES] for line in times(path, path.read_text(encoding="utf-8"))]
    assert found == []
    assert times(others[0], "start = time.perf_counter()")


def test_no_device_is_ever_set():
    setters = re.compile(r"nvml\w*(?:Set|Reset|Clear)[A-Z]\w*|nvidia-smi\s+-")
    assert [relative(path) for path in [*LIBRARY, *SCRIPTS, *RULES] if setters.search(path.read_text("utf-8"))] == []


def test_files_of_the_library_are_small():
    assert [relative(path) for path in LIBRARY if len(path.read_text("utf-8").splitlines()) >= 400] == []


def test_files_of_tests_have_names_of_their_own():
    # pytest imports them by their names alone
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("__init__.py", "conftest.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


# ---- what no committed file holds ------------------------------------------------------------------------------------


def tracked() -> list[Path]:
    """The files that git knows."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("this is no git checkout, so which files are committed is not known")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> Iterator[tuple[str, str]]:
    """(name, text) of every committed text, this file left out."""
    for path in tracked():
        data = path.read_bytes()
        if path != Path(__file__).resolve() and b"\0" not in data:
            yield relative(path), data.decode("utf-8")


def holding(pattern: str, found: list[tuple[str, str]]) -> list[str]:
    return [f"{name}: {match.group()}" for name, text in found for match in re.finditer(pattern, text)]


def test_no_path_of_a_machine_is_committed():
    # Tests of what records refuse hold made-up ones.
    pattern = r"(?<![\w.~<-])/(?:work|home|root|Users)/\w+"
    made_up = ("/home/me", "/home/somebody", "/home/alice", "/Users/jmiller")
    found = [hit for hit in holding(pattern, list(texts())) if not (hit.startswith("tests/") and hit.endswith(made_up))]
    assert found == []
    assert holding(pattern, [("a", "see /work/main, ~/work/x and docs/work/x")]) == ["a: /work/main"]


def test_no_host_of_a_package_registry_is_committed():
    hosts = r"(?i)\bpypi\.|pythonhosted\.org|anaconda\.(?:org|com)|artifactory|download\.pytorch\.org/whl|conda\.cloud"
    assert holding(hosts, list(texts())) == []
    assert holding(hosts, [("a", "https://download.pytorch.org/whl/cpu")])


def test_nothing_is_left_to_be_done():
    assert (
        holding(r"\b(?:TODO|FIXME|XXX)\b", [(name, text) for name, text in texts() if not name.endswith(".md")]) == []
    )


def test_programs_can_be_run():
    programs = [path for path in tracked() if path.read_bytes()[:2] == b"#!"]
    assert ROOT / ".ci" / "run" in programs
    assert [relative(path) for path in programs if not path.stat().st_mode & 0o100] == []


def test_versions_agree():
    import frugal

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert frugal.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f'image.version="{version}"' in (ROOT / "Dockerfile").read_text()


# ---- pins ------------------------------------------------------------------------------------------------------------


def constraints() -> dict[str, str]:
    """Canonical name → version of envs/constraints.txt; every line must be an exact pin of another package."""
    found: dict[str, str] = {}
    for line in (ROOT / "envs" / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)", line)
        assert match, f"constraints.txt: {line!r} is no exact pin"
        name = canonicalize_name(match[1])
        assert name not in found, f"constraints.txt: {name} stands there twice"
        found[name] = match[2]
    return found


def wanted() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for, by canonical name: dependencies and all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    found: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, lines):
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def test_everything_that_is_asked_for_is_pinned_to_a_version_that_is_allowed():
    pins = constraints()
    assert sorted(set(wanted()) - set(pins)) == []
    refused = [str(r) for name, asked in wanted().items() for r in asked if not r.specifier.contains(pins[name])]
    assert refused == []


def test_what_the_pinned_packages_need_is_pinned_too():
    """Walk the metadata of what is installed; a package that its own parent pins exactly needs no pin of ours."""
    pins, loose = constraints(), set()
    waiting = [(name, extra) for name, asked in wanted().items() for r in asked for extra in (*r.extras, "")]
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        if package.version.split("+")[0] != pins.get(name):
            continue  # a machine may bring another torch: its needs are not those of the pinned one
        for requirement in map(Requirement, package.requires or ()):
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            needed = canonicalize_name(requirement.name)
            exact = any(specifier.operator == "==" for specifier in requirement.specifier)
            if needed not in pins and not exact:
                loose.add(f"{name} needs {requirement}")
            waiting += [(needed, further) for further in (*requirement.extras, "")]
    assert len(seen) > len(wanted())
    assert sorted(loose) == []


# ---- conda environments ----------------------------------------------------------------------------------------------

# conda-forge's name → PyPI's, where they differ.
ON_PYPI = {"pytorch": "torch", "cuda-nvvm": "nvidia-nvvm", "libnvjitlink": "nvidia-nvjitlink"}
# A module's first name → the package on PyPI that has it, where they differ.
PACKAGE_OF = {
    "PIL": "pillow", "cuda": "cuda-bindings", "pynvml": "nvidia-ml-py", "sklearn": "scikit-learn",
    "skimage": "scikit-image", "yaml": "pyyaml",
}  # fmt: skip
# Used only where it is there: frugal.provenance.gpu falls back to NVML alone.
OPTIONAL = {"cuda-bindings"}
# Always comes with another package.
WITH = {"urllib3": "requests"}


def environment(path: Path) -> dict[str, str]:
    """PyPI's canonical name → version, of a conda environment."""
    found = {}
    for line in yaml.safe_load(path.read_text())["dependencies"]:
        assert isinstance(line, str), f"{path.name}: {line!r}: conda-forge alone, no pip section"
        match = re.fullmatch(r"([a-z0-9._-]+) =([0-9][0-9a-z.]*)", line)
        assert match, f"{path.name}: {line!r}: a dependency is written `name =X.Y.Z`"
        name = canonicalize_name(ON_PYPI.get(match[1], match[1]))
        assert name not in found, f"{path.name}: {name} stands there twice"
        found[name] = match[2]
    return found


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_conda_environments_hold_the_tested_versions(path):
    content = yaml.safe_load(path.read_text())
    assert set(content) == {"channels", "dependencies"}
    assert content["channels"] == ["conda-forge", "nodefaults"]
    found = environment(path)
    assert found.pop("python") == "3.11"
    pins = constraints()
    assert found == {name: pins.get(name) for name in found}


def rules_with_scripts() -> dict[str, tuple[Path, Path]]:
    """rule → (its conda environment, its script)."""
    found = {}
    for path in RULES:
        for text in re.split(r"^(?=rule |checkpoint )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            name = text.split(":")[0].split()[1]
            script, conda = (
                re.search(rf'^    {key}:\n        "([^"]+)"', text, re.MULTILINE) for key in ("script", "conda")
            )
            assert bool(script) == bool(conda), f"{name}: a rule that runs something names its conda environment"
            if script and conda:
                found[name] = ((path.parent / conda[1]).resolve(), (path.parent / script[1]).resolve())
    return found


def needed_packages(script: Path) -> set[str]:
    """Other people's packages that a script may import, through our own modules too."""
    sources = {module_name(path): path for path in LIBRARY}
    waiting, seen, found = [(script, False)], set(), set()
    while waiting:
        path, loading = waiting.pop()
        if (path, loading) in seen:
            continue
        seen.add((path, loading))
        # import_module(f"{__name__}.…") and import_module(f"kernels.…"): any module below may be meant
        prefixes = re.findall(r'import_module\(f"([\w{}]+)\.', path.read_text(encoding="utf-8"))
        for prefix in () if loading else prefixes:
            below = (module_name(path) if prefix == "{__name__}" else prefix) + "."
            waiting += [(source, False) for module, source in sources.items() if module.startswith(below)]
        for name in imported(path, loading=loading):
            parts = name.split(".")
            if parts[0] in ("frugal", "kernels"):
                prefixes = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
                # A figure asks a model or a fit, and runs no kernel (test_figures_files draws them without torch).
                asked = loading or (room(module_name(path)) == "figures" and room(name) in ("kernels", "cusnn"))
                waiting += [(sources[prefix], asked) for prefix in prefixes if prefix in sources]
            elif parts[0] not in sys.stdlib_module_names:
                found.add(PACKAGE_OF.get(parts[0], parts[0]))
    return {canonicalize_name(WITH.get(name, name)) for name in found}


@pytest.mark.parametrize("rule", sorted(rules_with_scripts()))
def test_a_rules_conda_environment_has_what_its_script_imports(rule):
    path, script = rules_with_scripts()[rule]
    assert script.is_file()
    assert sorted(needed_packages(script) - set(environment(path)) - OPTIONAL) == []


# ---- profiles --------------------------------------------------------------------------------------------------------


def snakemake_options() -> set[str]:
    from snakemake.cli import get_argument_parser

    parser = get_argument_parser()
    return {name.removeprefix("--") for action in parser._actions for name in action.option_strings}


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_profiles_hold_options_of_the_pinned_snakemake_and_repeat_the_defaults(path):
    given = yaml.safe_load(path.read_text())
    assert sorted(set(given) - snakemake_options()) == []
    # --workflow-profile replaces the default profile, so each is complete in itself
    default = yaml.safe_load((WORKFLOW / "profiles" / "default" / "profile.yaml").read_text())
    assert default == {key: given.get(key) for key in default}
    # and the default one is kept by --profile, where its keys would win
    assert not {"default-resources", "set-resources"} & set(default)
    rules = set(rules_with_scripts())
    for key in ("set-threads", "set-resources"):
        assert set(given.get(key, {})) <= rules
    if "configfile" in given:  # a campaign beside the profile
        config.load(yaml.safe_load((path.parent / given["configfile"]).read_text()))
    assert path.read_text().startswith("# "), "a profile begins with when to use it, and its one command"


def test_profiles_are_found_from_the_top():
    link = ROOT / "profiles"
    assert link.is_symlink()
    assert str(link.readlink()) == "workflow/profiles"
    assert {path.name for path in (WORKFLOW / "profiles").iterdir()} == {path.parent.name for path in PROFILES}


def test_a_cached_rule_names_its_wildcards_in_its_parameters():
    """A cache key holds parameters and inputs, and no wildcard: without it two outputs would share an entry."""
    rules = {}
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for block in re.split(r"^(?=(?:rule|checkpoint) \w+:)", path.read_text(), flags=re.MULTILINE)[1:]:
            if re.search(r"^    cache: True", block, re.MULTILINE):
                rules[re.match(r"\w+ (\w+)", block)[1]] = block
    assert set(rules) == {"download", "image_to_bin", "network_weights", "build_kernel"}
    for name, block in rules.items():
        output = block[block.index("    output:") : block.index("    log:")]
        parameters = block[block.index("    params:") : block.index("    message:")]
        for wildcard in re.findall(r"\{(\w+)\}", output):
            assert f"{{{wildcard}}}" in parameters or f"wildcards.{wildcard}" in parameters, (name, wildcard)
