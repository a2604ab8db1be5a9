"""What one case leaves. Apart from frugal.timing.case, so that the journal can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from frugal.records import Measurement, RowKey, Sample


@dataclass
class CaseResult:
    """Measurement rows of one case, one for each arm and regime that was attempted, and their samples.

    `warnings`: sentences for whoever runs the session; what they say also stands in the rows.
    """

    rows: list[Measurement] = field(default_factory=list)
    samples: dict[RowKey, list[Sample]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
