"""What a person reads when a network or its weights are not what they asked for."""

from frugal.errors import FrugalError


class UnknownNetwork(FrugalError, ValueError):
    """A network or a definition that is not here."""


class WeightsError(FrugalError, ValueError):
    """A weights file that does not fit the network, or is damaged."""
