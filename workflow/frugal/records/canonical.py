"""One text for equal values, and the name of a case that is made of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping


def canonical_json(obj: object) -> str:
    """JSON with sorted keys, no blanks, floats by `repr`, and nothing that JSON lacks.

    Equal values give equal texts on every machine, whatever the order of keys; 1 and 1.0 are not equal here. Tuples
    become arrays. ValueError for NaN, an infinity, a key that is no string, or a type that JSON lacks; it names where.
    """
    return json.dumps(_plain(obj, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def case_id(system: str, experiment: str, axes: Mapping[str, object]) -> str:
    """First 16 hex digits of SHA-256 of {system, experiment, axes} in canonical JSON; the same on every machine."""
    text = canonical_json({"system": system, "experiment": experiment, "axes": axes})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(obj: object, where: str) -> object:
    if obj is None or type(obj) in (str, bool, int):
        return obj
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise ValueError(f"{where} = {obj}: JSON has no NaN and no infinity; use null for what was not measured")
        return float(obj)
    if isinstance(obj, Mapping):
        for key in obj:
            if type(key) is not str:
                raise ValueError(f"{where} has the key {key!r}: keys must be strings")
        return {key: _plain(item, f"{where}.{key}") for key, item in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(obj)]
    raise ValueError(
        f"{where} is a {type(obj).__name__}, which JSON lacks: use null, bool, int, float, str, list or a mapping"
    )
