"""What is generated from the models: the JSON schema, `config.yaml`, the table of the documentation."""

import json
import textwrap
from pathlib import Path
from typing import Any

from frugal.files import publishing

from .errors import describe, root_schema
from .models import Config

SCHEMA_PATH = "workflow/schemas/config.schema.json"
YAML_PATH = "config.yaml"
_WIDTH = 120
# Read by Snakemake, and shown in docs/usage.md: a null in the file would say that there are no path variables.
_NOT_IN_FILE = ("pathvars",)

_HEAD = f"""\
# yaml-language-server: $schema={SCHEMA_PATH}
# The default campaign, with every key at its default. It runs on any machine; a GPU is used where there is one.
# Generated from the models in workflow/frugal/config by `python -m frugal.config --write`.
# Set a key for one run without touching the file: snakemake --cores all --config preset=quick -- figures
"""


def json_schema() -> str:
    """The JSON schema of `config.yaml`, as the committed file has it."""
    return json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def yaml_text() -> str:
    """`config.yaml`: every key with its docstring, what is allowed, and its default."""
    fields = {key: field for key, field in root_schema()["properties"].items() if key not in _NOT_IN_FILE}
    return _HEAD + _yaml_section(fields, _defaults(), indent="")


def markdown_table() -> str:
    """A table of every key: default, allowed values, meaning."""
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for path, field, default in _leaves(root_schema()["properties"], _defaults()):
        cells = (f"`{path}`", f"`{_flow(default)}`", describe(field), field["description"])
        rows.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def write(root: Path) -> list[Path]:
    """Write the schema and `config.yaml` below `root`, the folder of the repository; return the files."""
    texts = {root / SCHEMA_PATH: json_schema(), root / YAML_PATH: yaml_text()}
    for path, text in texts.items():
        with publishing(path) as file:
            file.write(text.encode())
    return list(texts)


def _defaults() -> dict:
    """Every default, a device label as the `{}` that a person would write."""
    cfg = Config()
    labels = {label: device.model_dump(exclude_defaults=True) for label, device in cfg.devices.items()}
    return cfg.model_dump(mode="json") | {"devices": labels}


def _leaves(fields: dict, defaults: dict, prefix: str = "") -> list[tuple[str, dict, Any]]:
    """(dotted key, schema, default) of each key that is not a section; a device's stand under `devices.<label>`."""
    leaves = []
    for key, field in fields.items():
        path, default = prefix + key, defaults.get(key)
        if "properties" in field:
            leaves += _leaves(field["properties"], default, path + ".")
            continue
        leaves.append((path, field, default))
        if "properties" in (nested := field.get("additionalProperties", {})):
            nested_defaults = {name: inner.get("default") for name, inner in nested["properties"].items()}
            leaves += _leaves(nested["properties"], nested_defaults, f"{path}.<label>.")
    return leaves


def _yaml_section(fields: dict, defaults: dict, indent: str) -> str:
    text = ""
    for key, field in fields.items():
        if "properties" in field:
            text += f"\n{_comment(field['description'], indent)}{indent}{key}:\n"
            text += _yaml_section(field["properties"], defaults[key], indent + "  ").lstrip("\n")
            continue
        text += f"\n{_comment(field['description'], indent)}{_comment(f'Allowed: {describe(field)}.', indent)}"
        text += _label_keys(field, indent) + f"{indent}{key}: {_flow(defaults[key])}\n"
    return text


def _label_keys(field: dict, indent: str) -> str:
    """The keys that a device label may have, as comments: the default has none of them."""
    keys = field.get("additionalProperties", {}).get("properties", {})
    return "".join(
        _comment(f"A label's {key}: {inner['description']} Allowed: {describe(inner)}.", indent)
        for key, inner in keys.items()
    )


def _comment(text: str, indent: str) -> str:
    prefix = f"{indent}# "
    lines = textwrap.wrap(" ".join(text.split()), width=_WIDTH, initial_indent=prefix, subsequent_indent=prefix)
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        # Only numbers in a text need quotes: `9.0` would be read as a number.
        items = (f'"{item}"' if isinstance(item, str) and item[0].isdigit() else _flow(item) for item in value)
        return f"[{', '.join(items)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
