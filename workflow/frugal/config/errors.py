"""What a person reads when a configuration is wrong: one line a problem: key, value, what is allowed and an example.

The allowed values are read from the JSON schema of the models, so that errors and documentation cannot differ.
"""

import difflib
import json
from typing import Any

from pydantic import ValidationError

from frugal.errors import FrugalError

from .models import Config

_LONGEST_VALUE = 80
# pydantic ends the place of an error with this word when a key, not its value, is wrong.
_KEY = "[key]"


class ConfigError(FrugalError, ValueError):
    """The configuration cannot be used; the message has one line a problem."""


def describe(schema: dict) -> str:
    """Say in words what a value must be, from its JSON schema (references resolved): "an integer >= 1, or null"."""
    if "anyOf" in schema:
        return ", or ".join(describe(option) for option in schema["anyOf"])
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = schema.get("type")
    if kind == "array":
        return _describe_list(describe(schema["items"]), schema["items"])
    if kind == "object":
        return _describe_mapping(schema)
    even = "an even integer" if schema.get("multipleOf") == 2 else "an integer"
    noun = {"integer": even, "number": "a number", "boolean": "true or false", "string": "text", "null": "null"}
    return noun[kind] + _limits(schema)


def _describe_list(item: str, schema: dict) -> str:
    is_name = "enum" in schema or "const" in schema
    return f"a list out of {item.removeprefix('one of ')}" if is_name else f"a list, each {item}"


def _describe_mapping(schema: dict) -> str:
    if "properties" in schema:
        return f"a mapping with keys out of {', '.join(schema['properties'])}"
    return f"a mapping, to each name {describe(schema['additionalProperties'])}"


def _limits(schema: dict) -> str:
    words = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]}" for key, sign in words.items() if key in schema]
    if schema.get("minLength"):
        limits.append("that is not empty")
    return " " + " and ".join(limits) if limits else ""


def resolve(schema: dict, definitions: dict) -> dict:
    """Put the definition in the place of each reference, at every depth."""
    out = dict(schema)
    if reference := out.pop("$ref", None):
        out = definitions[reference.rsplit("/", 1)[1]] | out
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = resolve(out[key], definitions)
    if "anyOf" in out:
        out["anyOf"] = [resolve(option, definitions) for option in out["anyOf"]]
    if "properties" in out:
        out["properties"] = {key: resolve(value, definitions) for key, value in out["properties"].items()}
    return out


def root_schema() -> dict:
    """The JSON schema of the whole configuration without references."""
    schema = Config.model_json_schema()
    return resolve(schema, schema["$defs"])


def problems(error: ValidationError, given: dict) -> list[str]:
    """One line for each key that is wrong, in the order of the models."""
    schema = root_schema()
    lines: dict[str, str] = {}
    for entry in error.errors(include_url=False):
        if entry["type"] == "invalid_key" or entry["loc"][-1] == _KEY:
            key = next(step for step in reversed(entry["loc"]) if step != _KEY)
            lines[str(entry["loc"])] = f"config: {shown(key)}: a key must be text: put it in quotes, or mend its name"
            continue
        path, field, where, owner = _locate(schema, entry["loc"])
        value = _value(given, where)
        if entry["type"] == "extra_forbidden":
            lines.setdefault(path, _unknown(path, where[-1], owner))
        elif entry["type"] == "value_error":
            lines[path] = line(path, value, str(entry["ctx"]["error"]), field)
        else:
            lines.setdefault(path, line(path, value, _requirement(path, field, entry["loc"], where), field))
    return list(lines.values())


def line(path: str, value: Any, problem: str, field: dict) -> str:
    """`config: KEY = VALUE: what is wrong, for example EXAMPLE`."""
    example = f", for example {shown(field['examples'][0])}" if field.get("examples") else ""
    return f"config: {path} = {shown(value)}: {problem}{example}"


def shown(value: Any) -> str:
    """A value on one line, as it could stand in the file, cut where it is long."""
    plain = isinstance(value, str) and value != ""
    text = value if plain else json.dumps(value, default=str, ensure_ascii=False)
    if not text.isprintable():
        text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _locate(schema: dict, loc: tuple) -> tuple[str, dict, list, dict]:
    """The key that an error of pydantic is about: its dotted path, its schema, its place, and the section around it.

    pydantic goes on into list items and the branches of a union; the person's key is where the properties end.
    """
    field, owner, where = schema, schema, []
    for step in loc:
        if step in field.get("properties", {}):
            owner, field = field, field["properties"][step]
        elif "properties" in field:
            owner = field
            where.append(step)
            break
        elif isinstance(field.get("additionalProperties"), dict):
            owner, field = field, field["additionalProperties"]
        else:
            break
        where.append(step)
    return ".".join(shown(step) for step in where), field, where, owner


def _requirement(path: str, field: dict, loc: tuple, where: list) -> str:
    options = field.get("anyOf", [field])
    array = next((option for option in options if option.get("type") == "array"), None)
    if array and any(isinstance(step, int) for step in loc[len(where) :]):
        return f"each {_singular(path)} must be {describe(array['items'])}"
    if array and array.get("minItems"):
        return f"must be {describe(field)}, and not be empty"
    return f"must be {describe(field)}"


def _singular(path: str) -> str:
    word = path.rsplit(".", 1)[-1].replace("_", " ")
    return word[:-3] + "y" if word.endswith("ies") else word.removesuffix("s")


def _value(given: Any, where: list) -> Any:
    for step in where:
        given = given[step] if isinstance(given, dict) and step in given else None
    return given


def _unknown(path: str, key: Any, owner: dict) -> str:
    keys = list(owner["properties"])
    nearest = difflib.get_close_matches(str(key), keys, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ";"
    return f"config: {path}: there is no such key{hint} Allowed: {', '.join(keys)}"
