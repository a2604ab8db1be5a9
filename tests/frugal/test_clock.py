"""The clock that everything but the timed bodies uses."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from frugal.clock import SystemClock, utc_text


def test_ns_never_goes_back_and_sleep_lasts():
    clock = SystemClock()
    before = clock.ns()
    clock.sleep(0.002)
    assert clock.ns() - before >= 2_000_000


def test_now_is_aware_and_in_utc():
    assert SystemClock().now().utcoffset() == timedelta(0)


def test_utc_text_turns_other_zones_into_utc_and_keeps_microseconds():
    tokyo = datetime(2026, 1, 1, 8, 59, 59, 7, tzinfo=timezone(timedelta(hours=9)))
    assert utc_text(tokyo) == "2025-12-31T23:59:59.000007+00:00"
    assert datetime.fromisoformat(utc_text(tokyo)).astimezone(UTC) == tokyo


def test_utc_text_refuses_a_time_without_a_zone():
    with pytest.raises(ValueError, match="no time zone"):
        utc_text(datetime(2026, 1, 1))
