"""Sessions in real child processes, which find the cases of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_folders import prepare


@pytest.fixture(scope="session", autouse=True)
def _children_find_the_cases() -> Iterator[None]:
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    yield
    os.environ["PYTHONPATH"] = before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prepare(tmp_path)
