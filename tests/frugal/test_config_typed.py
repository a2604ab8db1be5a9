"""What Snakemake makes of `--config`, with the types that the keys want."""

from __future__ import annotations

import json

import pytest
from snakemake.cli import parse_config

from frugal import config
from frugal.config import ConfigError


def told(*entries: str, beside: dict | None = None) -> dict:
    """The configuration of a file with what a command line adds to it."""
    command_line = parse_config(list(entries))
    return config.typed((beside or {}) | command_line, command_line)


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("cusnn={batch_sizes: [1, 8]}", {"cusnn": {"batch_sizes": [1, 8]}}),
        ("cusnn={kernel_sizes: [3]}", {"cusnn": {"kernel_sizes": [3]}}),
        ("cusnn={sparsities: [0, 0.5]}", {"cusnn": {"sparsities": [0, 0.5]}}),
        ("cusnn={deterministic: false}", {"cusnn": {"deterministic": False}}),
        ("timing={sessions: 2, block_max_s: 1e-2}", {"timing": {"sessions": 2, "block_max_s": 0.01}}),
        ("timing={sessions: null, regimes: null}", {"timing": {"sessions": None, "regimes": None}}),
        ("sft={width_divisor: 4, caps_gib: [.5]}", {"sft": {"width_divisor": 4, "caps_gib": [0.5]}}),
        ("data={images: 2024}", {"data": {"images": "2024"}}),
        ("data={images: true}", {"data": {"images": "true"}}),
        ("data={images: null}", {"data": {"images": None}}),
        ("cusnn={weights: null}", {"cusnn": {"weights": "null"}}),
        ("kernels={capabilities: [9.0]}", {"kernels": {"capabilities": ["9.0"]}}),
        ("devices={gpu_1: {kind: cpu}}", {"devices": {"gpu_1": {"kind": "cpu"}}}),
        ("mirror=null", {"mirror": None}),
        ("recorded=[]", {"recorded": []}),
        ("preset=quick", {"preset": "quick"}),
    ],
)  # fmt: skip
def test_values_are_what_their_keys_want(entry, wanted):
    found = told(entry)
    assert found == wanted
    assert repr(found) == repr(wanted)  # 1 is not True, and 0 not 0.0
    config.load(found)


def test_every_default_survives_the_command_line():
    """All keys of the configuration, an entry a section, through Snakemake's parser and back."""
    defaults = config.Config().model_dump(mode="json", exclude={"pathvars"})
    for section, values in defaults.items():
        assert told(f"{section}={json.dumps(values)}") == {section: values}


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("timing={sessions: two}", "config: timing.sessions = two: must be an integer >= 1, or null, for example 8"),
        ("timing={sessions: 1.5}", "config: timing.sessions = 1.5: must be an integer >= 1, or null, for example 8"),
        ("cusnn={deterministic: 1}", "config: cusnn.deterministic = 1: must be true or false, for example false"),
        ("cusnn={batch_sizes: 3}", "config: cusnn.batch_sizes = 3: must be a list, each an integer >= 1, or null"),
        ("timing={sesions: 2}", "config: timing.sesions: there is no such key; did you mean sessions?"),
        ("timing=fast", "config: timing = fast: must be a mapping with keys out of"),
    ],
)  # fmt: skip
def test_what_fits_no_type_is_refused_as_it_was_written(entry, line):
    with pytest.raises(ConfigError) as refused:
        config.load(told(entry))
    assert str(refused.value).startswith(line) or line in str(refused.value)


def test_a_file_is_left_alone():
    quoted = {"timing": {"sessions": "2", "rounds": 2}}
    found = told("cusnn={seed: 3}", beside=quoted)
    assert found == quoted | {"cusnn": {"seed": 3}}
    with pytest.raises(ConfigError, match=r"timing\.sessions = 2: must be an integer"):
        config.load(found)


def test_what_another_place_has_overruled_is_left_alone():
    command_line = parse_config(["timing={sessions: 2}"])
    assert config.typed({"timing": {"sessions": "3"}}, command_line) == {"timing": {"sessions": "3"}}
    assert config.typed({}, command_line) == {}
