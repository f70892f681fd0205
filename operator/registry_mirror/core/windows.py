"""Maintenance windows: whether restarts may happen at a time, and until when that stays so.

Schedules are cron's, in the time zone of the window; cronsim reads them, and does what Debian's cron does where clocks
are changed: an hour that is left out has its opening right after, one that comes twice has it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ..api.errors import FieldError, InvalidError
from ..api.grammar import duration_seconds
from ..api.models import MaintenanceWindow
from ..api.shape import show

_FIELDS = 5

SCHEDULE_FORM = (
    "write five cron fields: minute, hour, day of month, month, day of week, such as 0 2 * * 6 (Saturdays at two)"
)
ZONE_FORM = "write an IANA time zone, such as Europe/Berlin or UTC"


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether restarts may happen, and until when that is sure (seconds since 1970); None: for ever."""

    open: bool
    until: float | None


def opening(windows: Sequence[MaintenanceWindow], now: float) -> Opening:
    """Look at all windows at a time (seconds since 1970); without any, restarts may always happen.

    Raises InvalidError that names each window that cannot be read.
    """
    if not windows:
        return Opening(True, None)
    errors = tuple(problems(windows))
    if errors:
        raise InvalidError("RegistryMirrorPolicy default", errors)
    found = [_one(item, now) for item in windows]
    ends = [item.until for item in found if item.open and item.until is not None]
    if ends:
        return Opening(True, max(ends))
    return Opening(False, min((item.until for item in found if item.until is not None), default=None))


def problems(windows: Sequence[MaintenanceWindow]) -> Iterator[FieldError]:
    """Say what is wrong with the schedules and time zones."""
    for index, item in enumerate(windows):
        path = f"spec.rollout.windows[{index}]"
        zone = _zone(item.time_zone)
        if zone is None:
            yield FieldError(f"{path}.timeZone", show(item.time_zone), ZONE_FORM)
        if _schedule(item.schedule, datetime.fromtimestamp(0, zone)) is None:
            yield FieldError(f"{path}.schedule", show(item.schedule), SCHEDULE_FORM)


def _one(window: MaintenanceWindow, now: float) -> Opening:
    """The first opening of a window that is not over yet says it all."""
    duration = duration_seconds(window.duration)
    start = max(now - duration, 0.0)
    schedule = _schedule(window.schedule, datetime.fromtimestamp(start, _zone(window.time_zone)))
    for opens in schedule or ():
        at = opens.timestamp()
        if at + duration > now:
            return Opening(at <= now, at + duration if at <= now else at)
    return Opening(False, None)


def _zone(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, not a name, a directory
        return None


def _schedule(text: str, start: datetime) -> CronSim | None:
    if len(text.split()) != _FIELDS:
        return None
    try:
        return CronSim(text, start)
    except (CronSimError, ValueError, TypeError, AssertionError):
        return None
