"""frugal: five published ways to make deep networks cost less, measured beside what a user would pick today."""

__version__ = "0.1.0"
