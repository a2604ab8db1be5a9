"""The campaign's configuration: `load` checks it, `expand` says what it asks for.

The models hold every key with its default and docstring; the schema, `config.yaml`, the documentation's table and the
errors are made from them. Importing this package loads neither torch nor numba, pandas or matplotlib.
"""

from collections.abc import Mapping

from pydantic import ValidationError

from .check import combinations
from .docs import json_schema, markdown_table, write, yaml_text
from .errors import ConfigError, problems
from .expand import CaseSpec, expand, sessions
from .models import Config
from .record import record_json

__all__ = [
    "CaseSpec",
    "Config",
    "ConfigError",
    "expand",
    "json_schema",
    "load",
    "markdown_table",
    "record_json",
    "sessions",
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
