"""When restarts may happen: cron's schedules in local time, over the days on which clocks are changed as well."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from registry_mirror.api.errors import InvalidError
from registry_mirror.api.models import MaintenanceWindow
from registry_mirror.core.windows import Opening, opening

BERLIN = "Europe/Berlin"


def window(schedule: str, duration: str = "1h", zone: str = "UTC") -> MaintenanceWindow:
    return MaintenanceWindow(schedule=schedule, duration=duration, time_zone=zone)


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    """A local time in seconds since 1970; ``fold`` 1 is the second of two."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


NIGHT = window("0 2 * * *", "2h", BERLIN)
SATURDAY = window("30 22 * * 6", "3h")


@pytest.mark.parametrize(
    ("windows", "now", "is_open", "until"),
    [
        ([SATURDAY], at("2026-08-01T22:29:59"), False, at("2026-08-01T22:30")),
        ([SATURDAY], at("2026-08-01T22:30"), True, at("2026-08-02T01:30")),
        ([SATURDAY], at("2026-08-02T01:29:59"), True, at("2026-08-02T01:30")),
        ([SATURDAY], at("2026-08-02T01:30"), False, at("2026-08-08T22:30")),
        ([NIGHT], at("2026-08-01T02:00", BERLIN), True, at("2026-08-01T04:00", BERLIN)),
        ([NIGHT], at("2026-08-01T01:59", BERLIN), False, at("2026-08-01T02:00", BERLIN)),
        # Of two, one that is open counts, and else the one that opens first.
        ([NIGHT, SATURDAY], at("2026-08-02T00:10"), True, at("2026-08-02T04:00", BERLIN)),
        ([NIGHT, SATURDAY], at("2026-08-01T12:00"), False, at("2026-08-01T22:30")),
        # Spring: 02:00 to 03:00 is left out, so it opens at 03:00 local time, for its whole duration.
        ([NIGHT], at("2026-03-29T01:59", BERLIN), False, at("2026-03-29T03:00", BERLIN)),
        ([NIGHT], at("2026-03-29T03:00", BERLIN), True, at("2026-03-29T05:00", BERLIN)),
        # Autumn: 02:30 comes twice, and is meant once, the first time.
        (
            [window("30 2 * * *", "30m", BERLIN)],
            at("2026-10-25T02:30", BERLIN),
            True,
            at("2026-10-25T02:00", BERLIN, 1),
        ),
        (
            [window("30 2 * * *", "30m", BERLIN)],
            at("2026-10-25T02:30", BERLIN, 1),
            False,
            at("2026-10-26T02:30", BERLIN),
        ),
        ([window("30 2 * * *", "2h", BERLIN)], at("2026-10-25T02:45", BERLIN, 1), True, at("2026-10-25T03:30", BERLIN)),
        # Day of month or day of week: Mondays in February.
        ([window("0 0 30 2 1")], at("2026-08-01T00:00"), False, at("2027-02-01T00:00")),
    ],
)
def test_open_or_not_and_until_when(windows: list[MaintenanceWindow], now: float, is_open: bool, until: float) -> None:
    assert opening(windows, now) == Opening(is_open, until)


def test_without_windows_it_is_always_open() -> None:
    assert opening([], 0.0) == Opening(True, None)


def test_windows_that_overlap_themselves_stay_open() -> None:
    now = at("2026-08-01T12:00:30")
    for _ in range(200):
        found = opening([window("* * * * *", "5m")], now)
        assert found.open
        assert found.until is not None
        assert found.until > now
        now = found.until


@pytest.mark.parametrize(
    ("schedule", "zone", "words"),
    [
        ("0 25 * * *", "UTC", "spec.rollout.windows[0].schedule: found '0 25 * * *'; write five cron fields"),
        ("0 0 30 2 *", "UTC", "five cron fields"),
        ("* * * *    ", "UTC", "five cron fields"),
        ("0 0 0 * * *", "UTC", "five cron fields"),
        ("@daily       ", "UTC", "five cron fields"),
        ("0 2 * * 6", "Mars/Olympus", "spec.rollout.windows[0].timeZone: found 'Mars/Olympus'; write an IANA"),
        ("0 2 * * 6", "../../../etc/passwd", "write an IANA"),
        ("0 2 * * 6", "/etc/localtime", "write an IANA"),
        ("0 2 * * 6", "Europe", "write an IANA"),
        ("0 2 * * 6", "a\x00b", "write an IANA"),
    ],
)
def test_what_cannot_be_read_is_named(schedule: str, zone: str, words: str) -> None:
    with pytest.raises(InvalidError) as raised:
        opening([window(schedule, zone=zone)], 0.0)
    assert words in str(raised.value)


@given(
    st.text(alphabet="0123456789*/,-#LW MONJAN?", min_size=9, max_size=40)
    | st.from_regex(r"([0-9*/,#LW-]{1,6} ){4}[0-9*/,#LW-]{1,6}", fullmatch=True),
    st.sampled_from(["UTC", BERLIN, "America/St_Johns", "Australia/Lord_Howe", "Nowhere"]),
    st.floats(0, 4e9),
)
def test_any_text_is_either_read_or_refused(schedule: str, zone: str, now: float) -> None:
    try:
        found = opening([window(schedule, zone=zone)], now)
    except InvalidError:
        return
    assert found.until is None or found.until > now
