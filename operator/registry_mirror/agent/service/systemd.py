"""systemd, asked over the host's D-Bus (org.freedesktop.systemd1(5)); no rights but root's are needed for that.

What is to outlive the agent is a transient timer and its service: they belong to systemd, not to the Pod. Properties
are those of systemd 236 (CollectMode) and later.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..host import Host
from ..state import DIRECTORY
from . import Kind, Unit, boot
from .bus import NO_SUCH_UNIT, UNIT_EXISTS, UNKNOWN_PROPERTIES, Bus, RefusedError
from .errors import ServiceError, plain
from .waiting import POLL, until

# The second is systemd's own, without a bus (and only for root), for hosts without D-Bus.
SOCKETS = (("run/dbus/system_bus_socket", True), ("run/systemd/private", False))
TIMEOUT = 10.0

_ROOT = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = f"{_ROOT}.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_RUNNING = ("active", "activating", "deactivating", "reloading", "refreshing")

_LIMIT = 300  # of what is scheduled, in seconds
_AGAIN = 30.0  # after which it is run again unless it ended with 0, in seconds
_SETTLE = 2.0
_SECOND = 1_000_000

_LOG = f"{DIRECTORY}/restart/log"
_LOG_UNIT = "registry-mirror-log.service"
_LOG_LIMIT = 10
_MAX_LINES = 200
_MAX_LINE = 300

_Answer = TypeVar("_Answer")
_Property = tuple[str, tuple[str, object]]


class Systemd:
    """The systemd of the host whose file system is at ``host_root``. Takes the seconds that each call may take."""

    def __init__(self, host_root: Path, timeout: float = TIMEOUT) -> None:
        self._root = host_root
        self._timeout = timeout

    @property
    def kind(self) -> Kind:
        """Say systemd."""
        return "systemd"

    # ---- services ------------------------------------------------------------------------------------------------

    def unit(self, name: str) -> Unit | None:
        """Give a service, or None if there is none of that name. Raises ServiceError."""
        with self._bus() as bus:
            found = _ask(f"show {name}", lambda: _all(bus, name))
        if found["LoadState"] == "not-found":
            return None
        commands = found.get("ExecStart", [])
        return Unit(
            name=name,
            load=found["LoadState"],
            active=found["ActiveState"],
            sub=found["SubState"],
            result=found.get("Result", ""),
            restarts=found.get("NRestarts", 0),
            main_pid=found.get("MainPID", 0),
            entered_at=found["ActiveEnterTimestamp"],
            control_group=found.get("ControlGroup", ""),
            environment=tuple(found.get("Environment", ())),
            environment_files=tuple(f"{'-' * ignored}{path}" for path, ignored in found.get("EnvironmentFiles", ())),
            exec_start=tuple(commands[-1][1]) if commands else (),
        )

    def restart(self, name: str) -> None:
        """Have a service restarted, also one that was given up; returns when the order is taken. Raises ServiceError.

        systemd counts from 0 again once a failure is forgotten, so that is done only where it has to be.
        """
        with self._bus() as bus:
            if _active(bus, name) == "failed":
                _ask(f"reset-failed {name}", lambda: _manager(bus, "ResetFailedUnit", "s", name))
            _ask(f"restart {name}", lambda: _manager(bus, "RestartUnit", "ss", name, "replace"))

    # ---- what outlives us ----------------------------------------------------------------------------------------

    def schedule(self, name: str, after_seconds: float, argv: tuple[str, ...]) -> None:
        """Have the host run a program later; it replaces what was scheduled under that name. Raises ServiceError."""
        host = Host(self._root)
        with self._bus() as bus:
            self._schedule(bus, name, after_seconds, argv)
            # Without it, only a power loss in these minutes would find nobody: where it cannot be had, so be it.
            with contextlib.suppress(ServiceError):
                self._run(bus, f"{name}-boot", boot.keep(host, name, after_seconds, argv))

    def _schedule(self, bus: Bus, name: str, after_seconds: float, argv: tuple[str, ...]) -> None:
        self._cancel(bus, name)
        # Taken back by itself only once the program has ended well; until then the timer starts it again.
        timer = shlex.quote(f"{name}.timer")
        stop = ("/bin/sh", "-c", f"{boot.forget(name)}exec systemctl --no-block stop {timer}")
        service = (*_service(f"registry-mirror: {name}", _LIMIT), _commands(argv, stop))
        common = (
            _text("Description", f"registry-mirror: {name}"),
            ("AccuracyUSec", ("t", _SECOND)),
            ("RemainAfterElapse", ("b", False)),
        )
        after, again = int(after_seconds * _SECOND), int(_AGAIN * _SECOND)
        # The second is how systemd before 242 has it.
        new = (("TimersMonotonic", ("a(st)", [("OnActiveSec", after), ("OnUnitInactiveSec", again)])),)
        old = (("OnActiveSec", ("t", after)), ("OnUnitInactiveSec", ("t", again)))
        try:
            _start(bus, f"{name}.timer", (*common, *new), ((f"{name}.service", service),))
        except RefusedError as error:
            if error.name not in UNKNOWN_PROPERTIES:
                raise _refused(f"schedule {name}", error) from None
            _ask(
                f"schedule {name}",
                lambda: _start(bus, f"{name}.timer", (*common, *old), ((f"{name}.service", service),)),
            )

    def scheduled(self, name: str) -> bool:
        """Tell whether that is still going to be run. Raises ServiceError."""
        with self._bus() as bus:
            return _active(bus, f"{name}.timer") == "active"

    def run_now(self, name: str, argv: tuple[str, ...]) -> None:
        """Have the host run that at once, whether or not it was scheduled. Raises ServiceError.

        The timer stays until the program has ended well: without it systemd would forget the service, and nothing would
        run it again if it were killed.
        """
        with self._bus() as bus:
            try:
                _manager(bus, "StartUnit", "ss", f"{name}.service", "replace")
            except RefusedError as error:
                if error.name != NO_SUCH_UNIT:
                    raise _refused(f"start {name}", error) from None
                self._schedule(bus, name, _AGAIN, argv)
                _ask(f"start {name}", lambda: _manager(bus, "StartUnit", "ss", f"{name}.service", "replace"))

    def cancel(self, name: str) -> None:
        """Have that not run any more. Raises ServiceError, also if it is running already: then it is left to end."""
        with self._bus() as bus:
            self._cancel(bus, name)
            if boot.kept(Host(self._root), name):
                self._run(bus, f"{name}-boot", boot.forget(name))

    def shell(self, name: str, script: str) -> None:
        """Have the host's shell do something, and wait for its end. Raises ServiceError."""
        with self._bus() as bus:
            self._run(bus, name, script)

    def _run(self, bus: Bus, name: str, script: str) -> None:
        """Have the host's shell do something, and wait for its end. Raises ServiceError."""
        unit = f"{name}-files.service"
        service = (*_service(f"registry-mirror: {name}", _LOG_LIMIT), _commands(("/bin/sh", "-c", script)))
        _ask(f"run {name}", lambda: _start(bus, unit, service, ()))
        until(lambda: _active(bus, unit) not in _RUNNING, _LOG_LIMIT + _SETTLE)

    def _cancel(self, bus: Bus, name: str) -> None:
        try:
            _manager(bus, "StopUnit", "ss", f"{name}.timer", "replace")
        except RefusedError as error:
            if error.name != NO_SUCH_UNIT:
                raise _refused(f"cancel {name}", error) from None
        timer, service = f"{name}.timer", f"{name}.service"
        if not until(lambda: _active(bus, timer) != "active" and _active(bus, service) not in _RUNNING, _SETTLE):
            raise ServiceError("ServiceManagerFailed", f"{name} is running already; it is left to end")

    def running(self, name: str) -> bool:
        """Tell whether that is running now. Raises ServiceError."""
        with self._bus() as bus:
            return _active(bus, f"{name}.service") in _RUNNING

    # ---- its log -------------------------------------------------------------------------------------------------

    def log(self, unit: str, since_usec: int, lines: int) -> tuple[str, ...]:
        """Give the last lines that a service wrote since then; none where there is no journal.

        The host's own journalctl reads them, as the journal's format is that of its systemd. Raises ServiceError and
        HostError.
        """
        host = Host(self._root)
        host.remove(_LOG, with_directory=False)
        lines = min(lines, _MAX_LINES)
        asked = ["journalctl", "-q", "-u", unit, "--since", f"@{since_usec // _SECOND}.{since_usec % _SECOND:06}"]
        # Not --lines: with --since, some versions give the first ones (seen with 252).
        asked += ["-o", "cat", "--no-pager"]
        short = f"tail -n {lines} | cut -b -1200"
        # What a service said in its last moment may not be written yet.
        lines_of_it = f"journalctl --sync; {shlex.join(asked)} | {short}"
        script = f"umask 077; mkdir -p {DIRECTORY}/restart; set -C; {{ {lines_of_it}; }} > {_LOG}"
        service = (
            *_service("registry-mirror: read the log of a service", _LOG_LIMIT),
            _commands(("/bin/sh", "-c", script)),
        )
        with self._bus() as bus:
            _ask(f"read the log of {unit}", lambda: _start(bus, _LOG_UNIT, service, ()))
            until(lambda: _active(bus, _LOG_UNIT) not in _RUNNING, _LOG_LIMIT + _SETTLE)
        found = host.read(_LOG)
        host.remove(_LOG, with_directory=False)
        text = found.content.decode(errors="replace") if found is not None else ""
        told = (plain(line)[:_MAX_LINE] for line in text.split("\n"))
        return tuple(line for line in told if line)[-lines:]

    def _bus(self) -> Bus:
        path, bus = next(((path, bus) for path, bus in SOCKETS if (self._root / path).exists()), SOCKETS[0])
        return Bus(self._root / path, bus=bus, timeout=self._timeout)


def _manager(bus: Bus, member: str, signature: str, *body: object) -> tuple[Any, ...]:
    return bus.call(_PATH, _MANAGER, member, signature, *body)


def _ask(what: str, action: Callable[[], _Answer]) -> _Answer:
    try:
        return action()
    except RefusedError as error:
        raise _refused(what, error) from None


def _refused(what: str, error: RefusedError) -> ServiceError:
    return ServiceError("ServiceManagerFailed", f"{what}: systemd answered: {error.text}")


def _property(bus: Bus, path: str, interface: str, name: str) -> Any:
    ((_, value),) = bus.call(path, _PROPERTIES, "Get", "ss", interface, name)
    return value


def _active(bus: Bus, name: str) -> str:
    """Give a unit's ActiveState, empty if systemd does not have it in memory.

    One that is to be started is activating: until systemd comes to its job, it says that it is inactive.
    """
    try:
        (path,) = _manager(bus, "GetUnit", "s", name)
        state = str(_property(bus, path, f"{_ROOT}.Unit", "ActiveState"))
        job, _ = _property(bus, path, f"{_ROOT}.Unit", "Job")
    except RefusedError:
        return ""
    return "activating" if job and state not in _RUNNING else state


def _all(bus: Bus, name: str) -> dict[str, Any]:
    """Give all properties of a service; systemd reads its files for that if it has to."""
    (path,) = _manager(bus, "LoadUnit", "s", name)
    found: dict[str, Any] = {}
    for interface in (f"{_ROOT}.Unit", f"{_ROOT}.Service"):
        (properties,) = bus.call(path, _PROPERTIES, "GetAll", "s", interface)
        found.update((key, value) for key, (_, value) in properties.items())
    return found


def _text(name: str, value: str) -> _Property:
    return name, ("s", value)


def _service(description: str, limit: int) -> tuple[_Property, ...]:
    return (
        _text("Description", description),
        _text("Type", "oneshot"),
        _text("CollectMode", "inactive-or-failed"),
        ("TimeoutStartUSec", ("t", limit * _SECOND)),
    )


def _commands(*commands: tuple[str, ...]) -> _Property:
    return "ExecStart", ("a(sasb)", [(argv[0], list(argv), False) for argv in commands])


def _start(
    bus: Bus, name: str, properties: tuple[_Property, ...], others: tuple[tuple[str, tuple[_Property, ...]], ...]
) -> None:
    """Make and start a transient unit. One of that name that has just ended may not be forgotten yet.

    Raises RefusedError and ServiceError.
    """
    aux = [(other, list(theirs)) for other, theirs in others]
    deadline = time.monotonic() + _SETTLE
    while True:
        try:
            _manager(bus, "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", list(properties), aux)
            return
        except RefusedError as error:
            if error.name != UNIT_EXISTS or time.monotonic() > deadline:
                raise
        time.sleep(POLL)
