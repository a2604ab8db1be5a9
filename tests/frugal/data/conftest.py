"""What the data tests share: a misbehaving server, and no way out to a real mirror or proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import Server, serving
from pictures import noise, png


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own mirror and proxies must not reach a test."""
    monkeypatch.delenv("FRUGAL_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return png(noise(40, 50), tmp_path / "good.png")
