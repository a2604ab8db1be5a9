"""Which outputs of a tile an input position feeds, and through which weight: resolved here, once, for every kernel.

An output tile TH × TW of a K × K convolution with stride S reads a window of IH = (TH-1)·S + K rows and
IW = (TW-1)·S + K columns. Window position (i, j) feeds output (a, b) through tap (r, s) iff i - r = S·a and
j - s = S·b with 0 <= a < TH and 0 <= b < TW (cusnn design, mapping of the tile).
"""

from __future__ import annotations


def window(th: int, tw: int, k: int, stride: int) -> tuple[int, int]:
    """Rows and columns of the input window of a th × tw output tile."""
    return (th - 1) * stride + k, (tw - 1) * stride + k


def taps(i: int, j: int, th: int, tw: int, k: int, stride: int) -> list[tuple[int, int, int, int]]:
    """All (a, b, r, s) such that window position (i, j) times tap (r, s) is part of output (a, b)."""
    found = []
    for r in range(k):
        for s in range(k):
            a, rest_a = divmod(i - r, stride)
            b, rest_b = divmod(j - s, stride)
            if rest_a == 0 and rest_b == 0 and 0 <= a < th and 0 <= b < tw:
                found.append((a, b, r, s))
    return found
