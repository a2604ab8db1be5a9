"""The campaign's configuration: `load` checks it (`read` a file), `expand` says what it asks for.

The models hold every key with its default and docstring; the schema, `config.yaml`, the documentation's table and the
errors are made from them. Importing this package loads neither torch nor numba, pandas or matplotlib.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from frugal.errors import FrugalError

from .check import combinations
from .docs import json_schema, markdown_table, write, yaml_text
from .errors import ConfigError, problems
from .expand import CUSNN_TIMED, CaseSpec, batch_sizes, cusnn, dtr, expand, networks, sessions, sft, sparsities
from .models import Config
from .record import record_json
from .typed import typed

__all__ = [
    "CUSNN_TIMED",
    "CaseSpec",
    "Config",
    "ConfigError",
    "batch_sizes",
    "cusnn",
    "dtr",
    "expand",
    "json_schema",
    "load",
    "markdown_table",
    "networks",
    "read",
    "record_json",
    "sessions",
    "sft",
    "sparsities",
    "typed",
    "write",
    "yaml_text",
]


def load(mapping: Mapping) -> Config:
    """Check a configuration (as Snakemake or a YAML reader gives it) and fill in the defaults.

    Raises ConfigError with one line for each problem: the key, its value, what is allowed and an example. Combinations
    of keys are looked at once each key is right by itself.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"config: {mapping!r}: it must be a mapping of keys to values, for example {{preset: quick}}")
    given = dict(mapping)
    try:
        cfg = Config.model_validate(given)
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error, given))) from None
    if lines := combinations(cfg):
        raise ConfigError("\n".join(lines))
    return cfg


def read(path: Path | None = None) -> Config:
    """Read and check a YAML file; None: `config.yaml` in the working folder, or every default where there is none.

    Raises FrugalError, one sentence, for a file that is not there or is no YAML, and ConfigError as `load` does.
    """
    if path is None:
        path = Path("config.yaml")
        if not path.exists():
            return load({})
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FrugalError(f"{path}: there is no such file: give the path of a configuration") from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise FrugalError(f"{path}: this is not YAML: {' '.join(str(problem).split())}") from None
    return load(given or {})
