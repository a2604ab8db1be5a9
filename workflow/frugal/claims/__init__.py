"""The papers' claims as data, judged by what was measured: `workflow/claims.yaml` → `results/claims.parquet`.

`load` reads and checks the claims, `evaluate` judges them, `verdict_table` prints the result (docs/claims.md).
"""

from frugal.claims.evaluate import command, evaluate
from frugal.claims.load import ClaimError, load
from frugal.claims.models import Claim
from frugal.claims.query import Tables
from frugal.claims.table import definitions, keys, verdict_table
from frugal.claims.words import SYSTEMS, VERDICTS, interval, number, said

__all__ = [
    "SYSTEMS",
    "VERDICTS",
    "Claim",
    "ClaimError",
    "Tables",
    "command",
    "definitions",
    "evaluate",
    "interval",
    "keys",
    "load",
    "number",
    "said",
    "verdict_table",
]
