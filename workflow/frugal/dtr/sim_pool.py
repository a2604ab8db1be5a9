"""The candidates for eviction: an ordered list in arrays, and the choice among them.

Removal leaves a hole, whose weight is 0 and cost so infinite; a full list is packed. The cost of place i is
`pool_num[i] / (pool_weight[i] · (clock - pool_last[i]))`, the last factor only where staleness counts. Sizes, times
and sums are integers below 2^53, so that float64 rounds once in the product and once in the quotient.
"""

from __future__ import annotations

import numba
import numpy as np

from frugal.dtr import sim_state as k


@numba.njit(**k.OPTIONS)
def mark(m, s):
    """Have a storage's numerator computed again before the next choice."""
    n, st = m.n, m.st
    st[s, k.CHECKED] = -1
    if st[s, k.POSITION] >= 0 and not st[s, k.LISTED]:
        st[s, k.LISTED] = 1
        m.dirty[n[k.DIRTY_COUNT]] = s
        n[k.DIRTY_COUNT] += 1


@numba.njit(**k.OPTIONS)
def append(m, s):
    """Put a storage at the end of the pool; nothing if it is in it."""
    n, st = m.n, m.st
    if st[s, k.POSITION] >= 0:
        return
    if n[k.POOL_END] == len(m.pool_id):
        pack(m)
    at = n[k.POOL_END]
    n[k.POOL_END] += 1
    n[k.POOL_LIVE] += 1
    st[s, k.POSITION] = at
    m.pool_id[at] = s
    m.pool_num[at] = m.numerator[s]
    m.pool_weight[at] = st[s, k.SIZE] if n[k.SIZED] else 1.0
    m.pool_last[at] = st[s, k.LAST]
    n[k.POOL_ACCESSES] += st[s, k.ACCESS]
    if n[k.ON_DEMAND] and st[s, k.CHECKED] != n[k.PERIOD]:
        mark(m, s)


@numba.njit(**k.OPTIONS)
def remove(m, s):
    """Take a storage out of the pool; nothing if it is not in it."""
    n, at = m.n, m.st[s, k.POSITION]
    if at < 0:
        return
    m.st[s, k.POSITION] = -1
    m.pool_id[at] = -1
    m.pool_num[at] = 1.0
    m.pool_weight[at] = 0.0
    m.pool_last[at] = 0.0
    n[k.POOL_LIVE] -= 1
    n[k.POOL_ACCESSES] -= m.st[s, k.ACCESS]


@numba.njit(**k.OPTIONS)
def pack(m):
    """Close the holes."""
    n, to = m.n, 0
    for at in range(n[k.POOL_END]):
        s = m.pool_id[at]
        if s >= 0:
            m.pool_id[to] = s
            m.pool_num[to] = m.pool_num[at]
            m.pool_weight[to] = m.pool_weight[at]
            m.pool_last[to] = m.pool_last[at]
            m.st[s, k.POSITION] = to
            to += 1
    n[k.POOL_END] = to


@numba.njit(**k.OPTIONS)
def touch(m, s):
    """last(S) := clock."""
    at = m.st[s, k.POSITION]
    m.st[s, k.LAST] = m.n[k.CLOCK]
    if m.n[k.KIND] == k.RECENT:
        m.numerator[s] = m.n[k.CLOCK]
        if at >= 0:
            m.pool_num[at] = m.n[k.CLOCK]
    if at >= 0:
        m.pool_last[at] = m.n[k.CLOCK]


@numba.njit(**k.OPTIONS)
def set_numerator(m, s, value):
    """Set what stands above the fraction line of a storage's cost."""
    m.numerator[s] = value
    at = m.st[s, k.POSITION]
    if at >= 0:
        m.pool_num[at] = value


@numba.njit(**k.OPTIONS)
def fill_costs(cost, num, weight, last, clock, stale):
    """cost[i] = num[i] / (weight[i] · (clock - last[i])), the last factor where `stale`; a denominator 0 gives +∞."""
    if stale:
        for i in range(len(cost)):
            below = weight[i] * (clock - last[i])
            cost[i] = num[i] / below if below != 0.0 else np.inf
    else:
        for i in range(len(cost)):
            cost[i] = num[i] / weight[i] if weight[i] != 0.0 else np.inf


@numba.njit(fastmath={"nnan", "nsz"}, **k.OPTIONS)
def _minimum(cost):
    """The smallest of them, +∞ of none; the flags let the compiler take several at once (no NaN occurs)."""
    best = np.inf
    for i in range(len(cost)):
        best = min(best, cost[i])
    return best


@numba.njit(**k.OPTIONS)
def choose(m):
    """The victim of a pool that is not empty: the last of the cheapest; scanning stops at a cost of 0."""
    n = m.n
    if 2 * n[k.POOL_LIVE] < n[k.POOL_END]:
        pack(m)
    end = n[k.POOL_END]
    fill_costs(
        m.pool_cost[:end], m.pool_num[:end], m.pool_weight[:end], m.pool_last[:end], float(n[k.CLOCK]), n[k.STALE] != 0
    )
    if n[k.PROOF]:
        return _choose_exactly(m)
    return choose_by_cost(m)


@numba.njit(**k.OPTIONS)
def choose_by_cost(m):
    """As `choose`, from costs that stand in `pool_cost`."""
    n, cost, end = m.n, m.pool_cost, m.n[k.POOL_END]
    best = _minimum(cost[:end])
    if best <= 0.0:
        return _choose_in_order(m)
    n[k.EVALS] += n[k.POOL_LIVE]
    n[k.ACCESSES] += n[k.POOL_LIVE] + n[k.POOL_ACCESSES]
    at = end - 1
    while cost[at] != best or m.pool_id[at] < 0:  # holes are infinite, as a whole pool may be
        at -= 1
    return m.pool_id[at]


@numba.njit(**k.OPTIONS)
def _choose_in_order(m):
    n, best, victim = m.n, np.inf, -1
    for at in range(n[k.POOL_END]):
        s = m.pool_id[at]
        if s < 0:
            continue
        n[k.EVALS] += 1
        n[k.ACCESSES] += 1 + m.st[s, k.ACCESS]
        if m.pool_cost[at] <= best:
            best, victim = m.pool_cost[at], s
        if m.pool_cost[at] == 0.0:
            break
    return victim


@numba.njit(**k.OPTIONS)
def _product(a, b):
    """a · b of two numbers from 0 to 2^63 - 1, as (high, low) 64-bit words."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    a, b = np.uint64(a), np.uint64(b)
    a0, a1, b0, b1 = a & low, a >> half, b & low, b >> half
    p00, p01, p10, p11 = a0 * b0, a0 * b1, a1 * b0, a1 * b1
    middle = (p00 >> half) + (p01 & low) + (p10 & low)
    return p11 + (p01 >> half) + (p10 >> half) + (middle >> half), (middle << half) | (p00 & low)


@numba.njit(**k.OPTIONS)
def at_most(a, b, c, d):
    """Whether a / b ≤ c / d, exactly; b, d > 0."""
    if a < 0 and c < 0:
        a, b, c, d = -c, d, -a, b
    if a < 0 or c < 0:
        return a < 0
    left, right = _product(a, d), _product(c, b)
    return left[0] < right[0] or (left[0] == right[0] and left[1] <= right[1])


@numba.njit(**k.OPTIONS)
def _choose_exactly(m):
    """As `_choose_in_order`, comparing fractions of integers; PROOF becomes 2 where a product passes 2^63."""
    n, st = m.n, m.st
    above, below, victim = 0, 0, -1  # of the best so far; below 0: +∞
    for at in range(n[k.POOL_END]):
        s = m.pool_id[at]
        if s < 0:
            continue
        n[k.EVALS] += 1
        n[k.ACCESSES] += 1 + st[s, k.ACCESS]
        num = np.int64(m.numerator[s])
        size, age = st[s, k.SIZE] if n[k.SIZED] else 1, n[k.CLOCK] - st[s, k.LAST] if n[k.STALE] else 1
        if float(size) * float(age) >= 2.0**63 or abs(m.numerator[s]) >= 2.0**53:
            n[k.PROOF] = 2
        den = size * age
        if (den == 0 and below == 0) or (den > 0 and (below == 0 or at_most(num, den, above, below))):
            above, below, victim = num, den, s
        if den > 0 and num == 0:
            break
    return victim


@numba.njit(**k.OPTIONS)
def choose_random(m):
    """pool[k] with k of `random.Random(seed).randrange(0, len(pool))`: the twister's next 32-bit number, shifted to
    the bits of the length, until it is below it."""
    n = m.n
    pack(m)
    n[k.EVALS] += 1
    n[k.ACCESSES] += 1
    count, bits = n[k.POOL_END], 0
    while count >> bits:
        bits += 1
    while True:
        at = np.int64(_next_word(m)) >> (32 - bits)
        if at < count:
            return m.pool_id[at]


@numba.njit(**k.OPTIONS)
def _next_word(m):
    """The next 32-bit output of MT19937 (M. Matsumoto, T. Nishimura, 1998)."""
    key, high, low = m.random, np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
    if m.n[k.RANDOM_AT] >= 624:
        for i in range(624):
            y = (key[i] & high) | (key[(i + 1) % 624] & low)
            key[i] = (
                key[(i + 397) % 624]
                ^ (y >> np.uint32(1))
                ^ (np.uint32(0x9908B0DF) if y & np.uint32(1) else np.uint32(0))
            )
        m.n[k.RANDOM_AT] = 0
    y = key[m.n[k.RANDOM_AT]]
    m.n[k.RANDOM_AT] += 1
    y ^= y >> np.uint32(11)
    y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
    y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
    return y ^ (y >> np.uint32(18))
