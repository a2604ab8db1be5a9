"""data/sources.yaml and frugal.data.sources: what may be downloaded, and where it can be had."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fault_server import Server

from frugal.data import sources
from frugal.data.sources import Availability, Source, SourceError, SourceUnavailable, load, probe

GOOD = "- {name: f.bin, urls: ['http://127.0.0.1:9/f.bin'], sha256_prefix: 0123abcd, licence: MIT, what: a test}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "sources.yaml"
    path.write_text(text)
    return path


def entry(url: str | None, size: int | None = None, name: str = "f.bin") -> dict[str, Source]:
    urls = (url,) if url else ()
    return {name: Source(name=name, urls=urls, sha256_prefix="0123abcd", bytes=size, licence="MIT", what="a test")}


def test_the_projects_own_list_is_consistent() -> None:
    listed = load()
    for name, source in listed.items():
        assert name == source.name
        if name.endswith(".pth"):  # torchvision's file names carry the first 8 digits
            assert source.expected.startswith(name.removesuffix(".pth").rpartition("-")[2])
        assert all(url.endswith(f"/{name}") for url in source.urls)
        if not source.urls:
            assert source.sha256
            assert "may not be redistributed" in source.licence
    networks = {source.network for source in listed.values()} - {None}
    assert networks == {"resnet50", "resnet101", "resnet152", "densenet121", "densenet169", "densenet201"}


def test_reading_the_list_needs_no_torch_and_no_pictures() -> None:
    code = (
        "import sys; from frugal.data import sources; sources.load(); "
        "print([m for m in ('torch', 'PIL', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- [", "this is not YAML"),
        ("- {name: f.bin}", "entry 1, urls: Field required"),
        (GOOD.replace("what: a test", "what: a test, sise: 3"), "entry 1, sise: Extra inputs are not permitted"),
        (GOOD.replace("0123abcd", "0123"), "entry 1, sha256_prefix"),
        (GOOD.replace("sha256_prefix: 0123abcd, ", ""), "give either sha256 or sha256_prefix"),
        (GOOD.replace("f.bin,", "../f.bin,"), "entry 1, name"),
        (GOOD.replace("http://127.0.0.1:9", "ftp://127.0.0.1"), "entry 1, urls, 0"),
        (GOOD + GOOD, "f.bin: listed twice"),
        ("a: b", "Input should be a valid list"),
    ],
)
def test_a_bad_list_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SourceError) as problem:
        load(written(tmp_path, text))
    assert told in str(problem.value)
    assert str(problem.value).startswith(str(tmp_path / "sources.yaml"))


def test_a_missing_list_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no such file: run in a checkout of frugal"):
        load(tmp_path / "sources.yaml")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(SourceError, match=r"did you mean resnet50-0676ba61\.pth\?"):
        probe(["resnet50-0676ba61.pt"])


def test_the_mirror_folder_is_found_before_the_url(server: Server, tmp_path: Path) -> None:
    served = server.add("f.bin", b"12345")
    (tmp_path / "f.bin").write_bytes(b"12345")
    found = probe(["f.bin"], str(tmp_path), sources=entry(server.url("f.bin"), 5))
    assert found == {"f.bin": Availability(where="mirror_folder", address=str(tmp_path / "f.bin"))}
    assert len(served.requests) == 1  # all places are asked at once, each for one byte
    assert served.requests == ["bytes=0-0"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_place_with_the_wrong_size_is_no_place(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.add("mirror/f.bin", b"1234", ranges=ranges)
    server.add("f.bin", b"12345", ranges=ranges)
    found = probe(["f.bin"], server.url("mirror"), sources=entry(server.url("f.bin"), 5))["f.bin"]
    assert (found.where, found.address) == ("url", server.url("f.bin"))
    assert found.reason == f"{server.url('mirror/f.bin')}: 4 bytes instead of 5"


def test_the_environments_mirror_counts_when_the_config_names_none(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("m/f.bin", b"1")
    monkeypatch.setenv("FRUGAL_MIRROR", server.url("m/"))
    assert probe(["f.bin"], sources=entry(None))["f.bin"].where == "mirror_url"
    assert probe(["f.bin"], str(tmp_path), sources=entry(None))["f.bin"].where == "none"
    monkeypatch.setenv("FRUGAL_MIRROR", "")
    assert probe(["f.bin"], sources=entry(None))["f.bin"].reason == "it has no URL, and no mirror is set"


def test_offline_auto_reports_and_never_fails_with_the_reasons(server: Server) -> None:
    wanted = entry(server.url("gone.bin"))
    found = probe(["f.bin"], sources=wanted)["f.bin"]
    assert found == Availability(where="none", reason=f"{server.url('gone.bin')}: HTTP 404")
    with pytest.raises(SourceUnavailable, match="HTTP 404; connect this machine, set `mirror:`"):
        probe(["f.bin"], offline="never", sources=wanted)


def test_name_resolution_that_hangs_does_not_hold_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver without a network answers after many seconds, and no socket timeout covers it."""
    released, answered = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> None:
        released.wait(60)
        answered.set()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    found = probe(["f.bin"], sources=entry("http://nowhere.invalid/f.bin"), timeout=0.2)["f.bin"]
    assert not answered.is_set()  # the probe came back while the resolver still hung
    released.set()
    assert (found.where, found.reason) == ("none", "http://nowhere.invalid/f.bin: no answer in 0.2 s")


def test_no_network_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_names(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    found = probe(["f.bin"], sources=entry("http://nowhere.invalid/f.bin"))["f.bin"]
    assert found.reason == "http://nowhere.invalid/f.bin: no connection"


def test_the_findings_are_written_and_read_back_with_equal_bytes(server: Server, tmp_path: Path) -> None:
    server.add("a", b"1")
    wanted = entry(server.url("a"), name="a") | entry(server.url("b"), name="b")
    sources.write_probe(tmp_path / "one.json", probe(["a", "b"], sources=wanted))
    sources.write_probe(tmp_path / "two.json", probe(["b", "a"], sources=wanted))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert sources.read_probe(tmp_path / "one.json") == probe(["a", "b"], sources=wanted)
    (tmp_path / "one.json").write_text('{"a": {"where": "moon"}}')
    with pytest.raises(SourceError, match="delete it and run again"):
        sources.read_probe(tmp_path / "one.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]


def test_one_of_several_alternatives_is_enough():
    here = sources.Availability(where="url", address="https://example.org/a")
    lost = sources.Availability(where="none", reason="no connection")
    sources.require({"a": here, "b": lost}, [["a", "b"], []])
    with pytest.raises(sources.SourceUnavailable, match="b: no connection; c: no connection"):
        sources.require({"a": here, "b": lost, "c": lost}, [["a"], ["b", "c"]])
