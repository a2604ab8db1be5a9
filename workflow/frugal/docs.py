"""What the repository holds that is generated: `python -m frugal.docs --write` writes it, `--check` compares.

config.yaml and its schema, and the parts of docs/*.md between two markers:

    <!-- generated: NAME -->
    <!-- end -->

NAME is a key of SECTIONS. Everything else in a page is written by hand and left as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from frugal import claims, config, records
from frugal.compare import COARSE_MARGIN
from frugal.config.docs import SCHEMA_PATH, YAML_PATH
from frugal.data import sources
from frugal.data.photographs import PHOTOGRAPHS
from frugal.errors import FrugalError
from frugal.files import publishing
from frugal.timing.design import PRESETS

_MARKED = re.compile(r"(?P<begin><!-- generated: (?P<name>[^>]*?) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
_BEGIN = "<!-- generated:"


class DocsError(FrugalError):
    """A page whose markers cannot be used, or files that are not what the code says now."""


def presets_table() -> str:
    """The presets of frugal.timing.design with the margins that they are judged by."""
    head = (
        "preset", "sessions", "rounds", "samples a block, least", "block, s", "session warm-up, s (GPU / CPU)",
        "block warm-up, s", "an implementation at most, s", "margin, kernels / whole networks",
    )  # fmt: skip
    timing = config.load({}).timing
    rows = []
    for name, design in PRESETS.items():
        margins = (max(m, COARSE_MARGIN.get(name, 0.0)) for m in (timing.margin_kernel, timing.margin_end_to_end))
        rows.append(
            (
                f"`{name}`",
                design.sessions,
                design.rounds,
                design.n_min,
                f"{design.block_min_s:g} to {design.block_max_s:g}",
                f"{design.warmup_gpu_s:g} / {design.warmup_cpu_s:g}",
                f"{design.block_warmup_s:g}" if design.block_warmup_s else "one run",
                f"{design.case_timeout_s:g}",
                " / ".join(f"{margin:.0%}" for margin in margins) if design.sessions > 1 else "no verdict",
            )
        )
    return table(head, rows)


def columns_table(name: str) -> str:
    """Every column of one Parquet table: type (with ? where it may be null) and meaning."""
    meanings = records.meanings(name)
    kinds = {"double": "float64", "timestamp[us, tz=UTC]": "timestamp (µs, UTC)"}
    rows = [
        (f"`{f.name}`", kinds.get(str(f.type), str(f.type)) + ("?" if f.nullable else ""), meanings[f.name])
        for f in records.SCHEMAS[name]
    ]
    return table(("column", "type", "meaning"), rows)


def sources_table() -> str:
    """The files of data/sources.yaml."""
    rows = [
        (
            f"`{source.name}`",
            source.what,
            "not pinned" if source.bytes is None else f"{source.bytes / 1e6:.1f} MB",
            "download or mirror" if source.urls else "mirror only",
            source.licence,
        )
        for source in sources.load().values()
    ]
    return table(("file", "what", "size", "from", "licence"), rows)


def photographs_table() -> str:
    """The photographs that are used where no others are given."""
    packages = {"sklearn": "scikit-learn", "skimage": "scikit-image"}
    rows = [(f"`{p.path.rsplit('/', 1)[1]}`", packages[p.package], p.licence) for p in PHOTOGRAPHS]
    return table(("photograph", "comes with", "licence as the package states it"), rows)


def claims_table(system: str) -> str:
    """The claims of one system as they are defined: what is said, what is expected, how it is measured."""
    head = ("claim", "origin", "what is said", "reproduced when", "measured by", "needs")
    return table(head, claims.definitions(claims.load(), system))


SECTIONS: Mapping[str, Callable[[], str]] = {
    "configuration": config.markdown_table,
    "presets": presets_table,
    "sources": sources_table,
    "photographs": photographs_table,
    "claim keys": lambda: table(("key", "meaning"), claims.keys()),
    **{f"claims of {system}": (lambda system=system: claims_table(system)) for system in claims.SYSTEMS},
    **{f"columns of {name}": (lambda name=name: columns_table(name)) for name in records.SCHEMAS},
}


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; a `|` inside a cell is escaped."""
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def filled(text: str, page: str) -> str:
    """The page's text with every generated part as it is now. Raises DocsError for an unknown name or a lone marker."""

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in SECTIONS:
            raise DocsError(f"{page}: there is nothing to generate called {name!r}: use one of {', '.join(SECTIONS)}")
        return f"{match['begin']}\n{SECTIONS[name]()}\n{match['end']}"

    complete = len(_MARKED.findall(text))
    if text.count(_BEGIN) != complete:
        raise DocsError(f"{page}: a line `{_BEGIN} … -->` has no `<!-- end -->` after it: add one")
    return _MARKED.sub(part, text)


def texts(root: Path) -> dict[Path, str]:
    """Every generated file below `root`, the folder of the repository, and what it must hold."""
    pages = sorted((root / "docs").glob("*.md"))
    if not pages:
        raise DocsError(f"{root}: there is no docs/*.md: call this in the folder of the repository")
    found = {root / SCHEMA_PATH: config.json_schema(), root / YAML_PATH: config.yaml_text()}
    return found | {page: filled(page.read_text(encoding="utf-8"), page.name) for page in pages}


def stale(root: Path) -> list[Path]:
    """The files that are not what the code says now."""
    return [path for path, text in texts(root).items() if not path.exists() or path.read_text("utf-8") != text]


def write(root: Path) -> list[Path]:
    """Write what is stale, beside and renamed; returns the files."""
    wanted = texts(root)
    changed = stale(root)
    for path in changed:
        with publishing(path) as file:
            file.write(wanted[path].encode())
    return changed


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 where `--check` finds a difference or a page cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m frugal.docs", description=__doc__.split("\n")[0])
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_true", help="write the files below the working directory")
    mode.add_argument("--check", action="store_true", help="change nothing; status 1 where a file is not current")
    arguments = parser.parse_args(argv)
    try:
        changed = write(Path.cwd()) if arguments.write else stale(Path.cwd())
    except FrugalError as problem:
        print(problem, file=sys.stderr)
        return 1
    names = [str(path.relative_to(Path.cwd())) for path in changed]
    if arguments.write:
        print(*[f"{name}: written" for name in names], sep="\n", end="\n" if names else "")
        return 0
    for name in names:
        print(f"{name}: not what the code says now: call `make docs` and commit the file", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
