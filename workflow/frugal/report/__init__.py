"""The report: one HTML page over a campaign and the recorded ones beside it, complete in one file.

    inputs = report.read("results", ["results/recorded/nvidia-h200"])     # Parquet, figures, captions
    report.write("results/report.html", report.build(inputs))

`build` is a pure function of its inputs: it looks at no clock, no machine and no network, and says nothing that the
tables do not say. A section is a module; page.html.j2 is the order in which they stand.
"""

from frugal.report.inputs import Campaign, Inputs, campaign_of, read
from frugal.report.page import ASSETS, build, write

__all__ = ["ASSETS", "Campaign", "Inputs", "build", "campaign_of", "read", "write"]
