"""`python -m frugal.doctor.pair KIND`: one process that measures two equal arms and prints {regime: ratio} as JSON."""

from __future__ import annotations

import json
import sys

from frugal.clock import SystemClock
from frugal.controls import null
from frugal.timing import Design, device_of, measure_case
from frugal.timing.lease import lease
from frugal.timing.rounds import ratio_by_round
from frugal.timing.warmup import warm_up


def ratios(kind: str, preset: str = "quick") -> dict[str, float]:
    """The ratio of the null control's arms by regime; a regime that failed is left out."""
    device, clock, design = device_of({"device_kind": kind, "device_key": kind}), SystemClock(), Design.of(preset)
    case, arms = null.case(kind, "doctor")
    with lease(device.uuid, lambda line: print(line, file=sys.stderr)):
        with device.active():
            warm_up(device, design, clock)
        result = measure_case(case, arms, design, 0, device, clock)
    first, second = arms
    found = {}
    for key, samples in result.samples.items():
        other = result.samples.get(key._replace(arm=second.name))
        if key.arm == first.name and other:
            ratio = ratio_by_round(samples, other).ratio
            if ratio is not None:
                found[str(key.regime)] = ratio
    return found


if __name__ == "__main__":
    print(json.dumps(ratios(sys.argv[1])))
