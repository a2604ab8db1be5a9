"""The configuration as it may be published with the results."""

import json
from pathlib import PurePath

from .models import Config


def record_json(cfg: Config) -> str:
    """The configuration as canonical JSON (keys sorted, no blanks), without this machine's paths and addresses.

    Of a path its last part stays; of a mirror only whether it was a folder or a URL. What a job is given by these keys
    is known by the hashes of its inputs.
    """
    values = cfg.model_dump(mode="json")
    values.pop("pathvars")
    if cfg.mirror is not None:
        values["mirror"] = "url" if "://" in cfg.mirror else "folder"
    for section, key in (("data", "images"), ("cusnn", "weights"), ("container", "image")):
        if values[section][key] is not None:
            values[section][key] = PurePath(values[section][key]).name
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
