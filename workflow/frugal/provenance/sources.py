"""Which of our own modules a computation depends on, and a hash over them.

Snakemake compares the script of a rule, not the modules that it imports; neither does its cache. So each rule that runs
library code has `source_hash(...)` of its entry point among its parameters, and each measured row has that of its arm:
a change of any module that they import, directly or not, makes old results stale.
"""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


def package_folders() -> dict[str, Path]:
    """The folders of our top-level packages. None of them is imported to find it."""
    folders = {"frugal": Path(__file__).parents[1]}
    spec = importlib.util.find_spec("kernels")
    if spec is not None and spec.origin is not None:
        folders["kernels"] = Path(spec.origin).parent
    return folders


def library() -> list[str]:
    """The folders in which our packages lie: where a child process finds them, however its parent did."""
    return [str(folder.resolve().parent) for folder in package_folders().values()]


@functools.cache
def source_hash(*modules: str) -> str:
    """SHA-256 (64 hex digits) over the source of `modules` and of all that they import inside `frugal` and `kernels`.

    `modules` are dotted names, of modules or packages: "frugal.cusnn.bench_layer", "kernels.sparse". Imports are read
    from the source, at every depth and also inside functions, so nothing is executed; what a package's `__init__` does
    not import is not part of it. Data files do not count. The answer is kept for the life of the process.

    Raises ValueError for a name that is not a module of these packages.
    """
    return hash_modules(modules, package_folders())


def hash_modules(modules: Iterable[str], folders: Mapping[str, Path]) -> str:
    """`source_hash` for packages that lie in the given folders, read afresh."""
    digest = hashlib.sha256()
    for name, path in sorted(imported_modules(modules, folders).items()):
        source = path.read_bytes()
        digest.update(f"{name} {path.name == '__init__.py'} {len(source)}\n".encode() + source)
    return digest.hexdigest()


def imported_modules(modules: Iterable[str], folders: Mapping[str, Path]) -> dict[str, Path]:
    """The given modules and those that they import, transitively, with their files; only those inside `folders`."""
    waiting = list(modules)
    for name in waiting:
        if _file(name, folders) is None:
            raise ValueError(f"there is no module {name} to hash: name a module of {' or '.join(folders)}")
    found: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        path = _file(name, folders)
        if path is None or name in found:
            continue
        found[name] = path
        if "." in name:
            # Importing a.b.c runs a and a.b first.
            waiting.append(name.rpartition(".")[0])
        waiting += _imports(path.read_bytes(), name, path.name == "__init__.py")
    return found


def _file(name: str, folders: Mapping[str, Path]) -> Path | None:
    package, *rest = name.split(".")
    if package not in folders:
        return None
    place = folders[package].joinpath(*rest)
    candidates = [place / "__init__.py"] if not rest else [place / "__init__.py", place.with_name(f"{rest[-1]}.py")]
    return next((path for path in candidates if path.is_file()), None)


@functools.cache
def _imports(source: bytes, module: str, is_package: bool) -> tuple[str, ...]:
    """The names that a module imports; `from a import b` gives both a and a.b, since b may be a module."""
    return tuple(
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in _named(node, module if is_package else module.rpartition(".")[0])
    )


def _named(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        above = package.split(".")
        above = above[: len(above) - (node.level - 1)]
        base = ".".join([*above, base] if base else above)
    yield base
    yield from (f"{base}.{alias.name}" for alias in node.names)
