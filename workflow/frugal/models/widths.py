"""Narrower networks: the same graph with a fraction of the channels, for machines without a GPU."""


def narrowed(channels: int, width_divisor: int) -> int:
    """max(2, channels // width_divisor), and the channels as they are where the divisor is 1."""
    return channels if width_divisor == 1 else max(2, channels // width_divisor)
