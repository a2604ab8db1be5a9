"""What can be downloaded (data/sources.yaml), and where each file can be had from this machine.

A file is looked for in this order: the mirror, then its URLs as listed. The mirror is a folder or a URL that holds the
files under their names (a folder may hold them in its direct sub-folders too); it comes from the config, or from the
environment variable FRUGAL_MIRROR where the config names none.
"""

from __future__ import annotations

import difflib
import json
import os
import queue
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import requests
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from frugal.errors import FrugalError
from frugal.files import publishing

DEFAULT_PATH = Path(__file__).resolve().parents[3] / "data" / "sources.yaml"
PROBE_SECONDS = 2.0  # an answer that takes longer counts as no answer: a plan must not wait for a dead network

Where = Literal["mirror_folder", "mirror_url", "url", "none"]


class SourceError(FrugalError):
    """data/sources.yaml cannot be used, or a name is not in it."""


class SourceUnavailable(FrugalError):
    """A file cannot be had from any place, and the config says ``offline: never``."""


class Source(BaseModel):
    """One file that can be downloaded."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """The file's name, here and in a mirror."""

    urls: tuple[Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+/\S+$")], ...]
    """Where it lies, tried in this order; empty: in a mirror only."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The file's SHA-256."""

    sha256_prefix: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,63}$")] | None = None
    """The first digits of it, where the rest is not known."""

    bytes: Annotated[int, Field(gt=0)] | None = None
    """The file's size."""

    licence: Annotated[str, StringConstraints(min_length=1)]
    """What one may do with it."""

    what: Annotated[str, StringConstraints(min_length=1)]
    """What it is, and for what it is used."""

    network: str | None = None
    """The network whose weights it holds."""

    definition: Literal["torchvision_v1.5", "keras_v1"] | None = None
    """The definition of that network."""

    log: str | None = None
    """The program whose step it is the log of."""

    @model_validator(mode="after")
    def _one_sum(self) -> Source:
        if (self.sha256 is None) == (self.sha256_prefix is None):
            raise ValueError("give either sha256 or sha256_prefix")
        return self

    @property
    def expected(self) -> str:
        """The digits that the file's SHA-256 must start with: all 64, or the known prefix."""
        return self.sha256 or self.sha256_prefix or ""


class Availability(BaseModel):
    """Where one file can be had."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    where: Where
    """The kind of place, or none."""

    address: str | None = None
    """The path or URL that answered."""

    reason: str | None = None
    """Why the places before it (or all of them) were no use."""


class Place(BaseModel):
    """One place where a file may lie."""

    model_config = ConfigDict(frozen=True)

    where: Where
    address: str


def load(path: Path | None = None) -> dict[str, Source]:
    """Read and check sources.yaml (default: the repository's own) and return its entries by name.

    Raises SourceError, one line a problem, for a file that is missing, is not YAML, has an unknown key or a bad value.
    """
    path = path or DEFAULT_PATH
    try:
        entries = TypeAdapter(list[Source]).validate_python(yaml.safe_load(path.read_text()))
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file: run in a checkout of frugal, or give the path") from None
    except yaml.YAMLError as problem:
        raise SourceError(f"{path}: this is not YAML: {' '.join(str(problem).split())}") from None
    except ValidationError as problem:
        raise SourceError("\n".join(f"{path}: {_where(e['loc'])}: {e['msg']}" for e in problem.errors())) from None
    sources = {source.name: source for source in entries}
    if len(sources) < len(entries):
        names = [entry.name for entry in entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise SourceError(f"{path}: {', '.join(twice)}: listed twice; each name may occur once")
    return sources


def resolve_mirror(mirror: str | None) -> str | None:
    """The mirror in force: the config's, else FRUGAL_MIRROR's, else none (an empty variable is none)."""
    return mirror or os.environ.get("FRUGAL_MIRROR") or None


def places(source: Source, mirror: str | None) -> list[Place]:
    """All places where ``source`` may lie, in the order in which they are tried; a mirror folder's need not exist."""
    mirror = resolve_mirror(mirror)
    found = []
    if mirror and mirror.startswith(("http://", "https://")):
        found.append(Place(where="mirror_url", address=f"{mirror.rstrip('/')}/{source.name}"))
    elif mirror:
        found.append(Place(where="mirror_folder", address=str(_in_folder(Path(mirror), source.name))))
    return found + [Place(where="url", address=url) for url in source.urls]


def probe(
    names: Iterable[str],
    mirror: str | None = None,
    offline: Literal["auto", "never"] = "auto",
    *,
    sources: Mapping[str, Source] | None = None,
    timeout: float = PROBE_SECONDS,
) -> dict[str, Availability]:
    """Ask every place of every named file at once and return, by name, the first place that has it.

    Takes at most about ``timeout`` seconds in all, name resolution included, and downloads nothing. ``offline="auto"``
    reports what cannot be had as ``where="none"``; ``"never"`` raises SourceUnavailable for it. A name that is not in
    ``sources`` raises SourceError.
    """
    sources = load() if sources is None else sources
    wanted = {name: places(_known(name, sources), mirror) for name in names}
    refusals = _ask_all([(sources[name], place) for name, tried in wanted.items() for place in tried], timeout)
    found = {name: _first(tried, [refusals[name, place] for place in tried]) for name, tried in wanted.items()}
    if offline == "never":
        require(found, [[name] for name in found])
    return found


def require(found: Mapping[str, Availability], groups: Iterable[Iterable[str]]) -> None:
    """Raise SourceUnavailable for each group of alternatives of which none can be had; an empty group asks for none."""
    lacking = [names for group in groups if (names := list(group)) and all(found[n].where == "none" for n in names)]
    if lacking:
        reasons = "; ".join(f"{name}: {found[name].reason}" for names in lacking for name in names)
        raise SourceUnavailable(
            f"cannot be had from here and `offline: never` forbids a substitute: {reasons}; connect this machine, set "
            "`mirror:` (or FRUGAL_MIRROR) to a folder or URL that holds the files, or set `offline: auto`"
        )


def write_probe(path: Path, found: Mapping[str, Availability]) -> None:
    """Write what `probe` found as JSON, sorted by name; equal findings give equal bytes."""
    text = json.dumps({name: there.model_dump() for name, there in found.items()}, indent=1, sort_keys=True)
    with publishing(path) as file:
        file.write(text.encode() + b"\n")


def read_probe(path: Path) -> dict[str, Availability]:
    """Read what `write_probe` wrote."""
    try:
        return TypeAdapter(dict[str, Availability]).validate_json(path.read_bytes())
    except ValidationError as problem:
        fault = problem.errors()[0]["msg"]
        raise SourceError(f"{path}: not a list of sources ({fault}): delete it and run again") from None


def _where(location: tuple[int | str, ...]) -> str:
    entry, *key = location or ("the file",)
    return f"entry {entry + 1}" + "".join(f", {part}" for part in key) if isinstance(entry, int) else str(entry)


def _known(name: str, sources: Mapping[str, Source]) -> Source:
    if name not in sources:
        near = difflib.get_close_matches(name, sources, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sources)}"
        raise SourceError(f"{name}: not in data/sources.yaml; {hint}")
    return sources[name]


def _in_folder(folder: Path, name: str) -> Path:
    """The file in ``folder``, else in the first of its direct sub-folders that has it, else where it should be."""
    direct = folder / name
    return direct if direct.is_file() else next((p for p in sorted(folder.glob(f"*/{name}")) if p.is_file()), direct)


def _ask_all(asked: list[tuple[Source, Place]], timeout: float) -> dict[tuple[str, Place], str | None]:
    """Why each place does not have its file (None: it has it), each asked in a thread of its own.

    The threads are daemons and are left behind after ``timeout``: name resolution on a machine without a network can
    take longer than any socket timeout, and must hold up neither the answer nor the end of the process.
    """
    answers: queue.SimpleQueue[tuple[str, Place, str | None]] = queue.SimpleQueue()
    refusals: dict[tuple[str, Place], str | None] = {
        (source.name, place): f"no answer in {timeout:g} s" for source, place in asked
    }
    threads = [
        threading.Thread(target=lambda s=s, p=p: answers.put((s.name, p, _refusal(s, p, timeout))), daemon=True)
        for s, p in asked
    ]
    for thread in threads:
        thread.start()
    deadline = threading.Timer(timeout, answers.put, [("", Place(where="none", address=""), None)])
    deadline.daemon = True
    deadline.start()
    for _ in threads:
        name, place, refusal = answers.get()
        if not name:
            break
        refusals[name, place] = refusal
    deadline.cancel()
    return refusals


def _refusal(source: Source, place: Place, timeout: float) -> str | None:
    """Why ``place`` does not have ``source``, or None when it has; only existence and size are looked at."""
    if place.where == "mirror_folder":
        path = Path(place.address)
        try:
            return _wrong_size(source, path.stat().st_size) if path.is_file() else "no such file"
        except OSError as problem:
            return problem.strerror
    try:
        # One byte by GET, not HEAD: several object stores answer HEAD with 403 or without a length.
        with requests.get(
            place.address,
            headers={"Range": "bytes=0-0", "Accept-Encoding": "identity"},
            stream=True,
            timeout=(timeout, timeout),
        ) as answer:
            if answer.status_code not in (200, 206):
                return f"HTTP {answer.status_code}"
            total = answer.headers.get("Content-Range", "").rpartition("/")[2] or (
                answer.headers.get("Content-Length", "") if answer.status_code == 200 else ""
            )
            return _wrong_size(source, int(total)) if total.isdigit() else None
    except requests.RequestException as problem:
        return why(problem)


def _wrong_size(source: Source, size: int) -> str | None:
    if source.bytes is None or size == source.bytes:
        return None
    return f"{size:,} bytes instead of {source.bytes:,}"


def why(problem: requests.RequestException) -> str:
    """A failed request in a few words, without urllib3's nested texts."""
    if isinstance(problem, requests.exceptions.SSLError):
        return "the certificate or the TLS connection was refused"
    if isinstance(problem, requests.Timeout):
        return "no answer in time"
    if isinstance(problem, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(problem, requests.ConnectionError):
        return "no connection"
    return f"bad request ({type(problem).__name__})"


def _first(tried: list[Place], refusals: list[str | None]) -> Availability:
    """The first place without a refusal; the refusals before it become its reason."""
    passed = []
    for place, refusal in zip(tried, refusals, strict=True):
        if refusal is None:
            return Availability(where=place.where, address=place.address, reason="; ".join(passed) or None)
        passed.append(f"{place.address}: {refusal}")
    return Availability(where="none", reason="; ".join(passed) or "it has no URL, and no mirror is set")
