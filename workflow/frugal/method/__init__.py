"""The method measured by itself: equal arms that must come out equal, its noise, and how well energy repeats.

The papers' systems are measured by frugal.timing; here frugal.timing is what is measured (docs/methodology.md, "The
method measured").
"""
