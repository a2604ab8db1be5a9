"""One campaign for all figures' tests."""

import invented_campaigns as invented
import invented_experiments as experiments
import pytest


@pytest.fixture(scope="session")
def both(tmp_path_factory):
    """A smoke campaign on a CPU beside a recorded one of 96 layers."""
    return invented.frames(tmp_path_factory.mktemp("both"), recorded=invented.h200)


@pytest.fixture(scope="session")
def every(tmp_path_factory):
    """A smoke campaign on a CPU, of layers and zeros alone, beside a recorded one of every experiment."""
    return invented.frames(tmp_path_factory.mktemp("every"), recorded=experiments.everything)
