"""Types for what stands in braces on Snakemake's command line.

Snakemake (9.27, `parse_config`) reads `--config "cusnn={batch_sizes: [1]}"` with YAML's base loader, so that all of it
arrives as text. The schema says what each text should be: where text is allowed it stays text, elsewhere it is what
YAML makes of it. A file is read with types, and is left alone: a number in quotes is wrong there.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from .errors import root_schema


def typed(given: Mapping, command_line: Mapping) -> dict:
    """The configuration with the values of `command_line` that it holds as numbers, truth values and nulls.

    given: the whole configuration, of file and command line. command_line: what `--config` was read as. `null` is null
    wherever null is allowed. What fits no type stays what it is, for `load` to refuse.
    """
    return _mapping(given, command_line, root_schema())


def _mapping(given: Mapping, command_line: Mapping, schema: dict) -> dict:
    found = dict(given)
    for key, value in command_line.items():
        if key in found:
            found[key] = _value(found[key], value, _of_key(schema, key))
    return found


def _of_key(schema: dict, key: object) -> dict:
    other = schema.get("additionalProperties")
    return schema.get("properties", {}).get(key) or (other if isinstance(other, dict) else {})


def _value(given: Any, told: Any, schema: dict) -> Any:
    """told: of the command line; what differs from it in `given` came from elsewhere."""
    options = schema.get("anyOf", [schema])
    if isinstance(given, Mapping) and isinstance(told, Mapping):
        return _mapping(given, told, next((each for each in options if each.get("type") == "object"), {}))
    if given != told:
        return given
    if isinstance(given, list):
        items = next((each["items"] for each in options if each.get("type") == "array"), {})
        return [_value(each, each, items) for each in given]
    return _scalar(given, options) if isinstance(given, str) else given


def _scalar(text: str, options: list[dict]) -> Any:
    kinds = {each.get("type") for each in options}
    if text == "null" and "null" in kinds:
        return None
    if "string" in kinds:
        return text
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(read, str) and "number" in kinds:  # YAML 1.1 takes 1e-3 for a text
        try:
            return float(read)
        except ValueError:
            return text
    return read if isinstance(read, bool | int | float) else text
