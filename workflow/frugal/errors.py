"""The one exception that a person reads: a sentence that says what is wrong and what to do."""


class FrugalError(Exception):
    """Bad input, a missing file, a refused device. Scripts and the command line print it without a traceback."""
