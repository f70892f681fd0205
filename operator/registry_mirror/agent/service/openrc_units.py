"""A service as OpenRC has it on record (0.45 to 0.63: src/librc/librc.c, librc-daemon.c, src/supervise-daemon).

OpenRC has no process of its own to ask. ``/run/openrc/STATE/NAME`` says in which state a service is,
``/run/openrc/options/NAME`` what supervise-daemon has on record of it, ``/run/openrc/daemons/NAME`` its daemons.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from .. import processes
from ..host import Host
from . import Unit, openrc_script

RECORDS = "/run/openrc"
SCRIPTS = "/etc/init.d"
NAME = re.compile(r"[\w+@-][\w.+:@-]*")
# In the order in which a state that is being left is still on record beside the next one (librc.c, rc_service_mark).
_STATES = (("stopping", "deactivating"), ("starting", "activating"), ("inactive", "activating"), ("started", "active"))
_SUPERVISOR = "supervise-daemon"
_MAX_WORDS = 1000
_MAX_READ = 256 * 1024


class Records:
    """What is on record. Takes the host's files, all of them, and where processes are. Methods raise HostError."""

    def __init__(self, host: Host, proc: Path) -> None:
        self._host = host
        self._proc = proc

    def unit(self, name: str) -> Unit | None:
        """Give a service, or None if there is none of that name."""
        if not NAME.fullmatch(name) or not self._host.exists(f"{SCRIPTS}/{name}"):
            return None
        active = next((then for state, then in _STATES if self._host.exists(f"{RECORDS}/{state}/{name}")), "")
        if not active:
            failed = self._host.exists(f"{RECORDS}/failed/{name}")
            return self._stopped(Unit(name=name, active="failed" if failed else "inactive", result=_result(failed)))
        if self._option(name, "respawn_max"):
            return self._supervised(name, active)
        return self._plain(name, active)

    def _supervised(self, name: str, active: str) -> Unit:
        """One that supervise-daemon looks after. While that waits to start it again, nothing else says so."""
        pid = _number(self._option(name, "child_pid"))
        supervisor = self._supervisor(name, pid)
        alive = supervisor != 0 and processes.parent(self._proc, pid) == supervisor
        lost = active == "active" and not supervisor and self._lost(name)
        if active == "active" and not alive:
            active = "failed" if lost else "activating"
        return Unit(
            name=name,
            active=active,
            sub="running" if alive else "auto-restart" if supervisor else "dead",
            result=_result(lost),
            restarts=_number(self._option(name, "start_count")),
            main_pid=pid if alive else 0,
            entered_at=(self._host.modified(_option(name, "child_pid")) or 0) // 1000,
            environment=self._environment(pid) if alive else (),
            environment_files=() if alive else self._stopped(Unit(name=name)).environment_files,
            exec_start=tuple(self._arguments(name)),
        )

    def _supervisor(self, name: str, child: int) -> int:
        """Give its supervise-daemon: the parent of what runs, or the one that left its number."""
        found = (processes.parent(self._proc, child) if child else 0, self._pid(self._option(name, "pidfile")))
        return next((pid for pid in found if self._supervises(pid, name)), 0)

    def _supervises(self, pid: int, name: str) -> bool:
        argv = processes.arguments(self._proc, pid) if pid else ()
        return processes.program(argv) == _SUPERVISOR and argv[1:2] == (name,)

    def _lost(self, name: str) -> bool:
        """Tell whether supervise-daemon has ended without a word: one that has just begun has left no number yet."""
        return self._pid(self._option(name, "pidfile")) != 0

    def _plain(self, name: str, active: str) -> Unit:
        """One that nobody looks after: start-stop-daemon, or the script, has started it."""
        record = f"{RECORDS}/daemons/{name}/001"
        found = self._text(record)
        file = re.search(r"^pidfile=(/.*)$", found, re.MULTILINE)
        pid = self._pid(file[1]) if file is not None else 0
        argv = processes.arguments(self._proc, pid) if pid else ()
        crashed = active == "active" and pid != 0 and not argv
        entered = self._host.modified(record) or self._host.modified(f"{RECORDS}/started/{name}") or 0
        return Unit(
            name=name,
            active="failed" if crashed else active,
            sub="running" if argv else "dead",
            result=_result(crashed),
            main_pid=pid if argv else 0,
            entered_at=entered // 1000,
            environment=self._environment(pid) if argv else (),
            exec_start=argv,
        )

    def _stopped(self, unit: Unit) -> Unit:
        """Add how a service is going to be started, as far as its script says so in plain words."""
        said = openrc_script.read(self._text(f"{SCRIPTS}/{unit.name}"))
        return replace(unit, exec_start=said.command, environment_files=tuple(f"-{path}" for path in said.files))

    def logs(self, name: str) -> tuple[str, ...]:
        """Give the files that a service writes to."""
        supervisor = self._supervisor(name, _number(self._option(name, "child_pid")))
        if supervisor:
            return _outputs(processes.arguments(self._proc, supervisor))
        unit = self.unit(name)
        if unit is not None and unit.main_pid:
            return tuple(dict.fromkeys(self._open(unit.main_pid)))
        return openrc_script.read(self._text(f"{SCRIPTS}/{name}")).logs

    def _open(self, pid: int) -> Iterator[str]:
        for number in (1, 2):
            try:
                path = os.readlink(f"{self._proc}/{pid}/fd/{number}")
            except OSError:
                continue
            if path.startswith("/") and not path.startswith("/dev/"):
                yield path

    # ---- files -----------------------------------------------------------------------------------------------------

    def _text(self, path: str) -> str:
        found = self._host.read(path)
        return found.content.decode(errors="replace") if found is not None else ""

    def _option(self, name: str, option: str) -> str:
        return self._text(_option(name, option)).strip()

    def _arguments(self, name: str) -> Iterator[str]:
        """What supervise-daemon starts: K3s gives itself a title, so that the process does not tell its arguments."""
        for index in range(min(_number(self._option(name, "argc")), _MAX_WORDS)):
            yield self._text(_option(name, f"argv_{index}"))

    def _pid(self, path: str) -> int:
        """Give the number in a file; /var/run is a link to /run, and links are not followed."""
        path = path.removeprefix("/var") if path.startswith("/var/run/") else path
        return _number(self._text(path)) if path.startswith("/") else 0

    def _environment(self, pid: int) -> tuple[str, ...]:
        """That of the process itself, which takes the rights of a debugger: without them, none."""
        try:
            with open(f"{self._proc}/{pid}/environ", "rb") as file:
                words = file.read(_MAX_READ).split(b"\0")
        except OSError:
            return ()
        return tuple(word.decode(errors="replace") for word in words if b"=" in word)


def _option(name: str, option: str) -> str:
    return f"{RECORDS}/options/{name}/{option}"


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _result(failed: bool) -> str:
    return "OpenRC has given it up" if failed else "success"


def _outputs(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Give where supervise-daemon sends what the service writes (supervise-daemon(8))."""
    own = argv[: argv.index("--")] if "--" in argv else argv
    found = [value for flag, value in itertools.pairwise(own) if flag in ("--stdout", "--stderr", "-1", "-2")]
    return tuple(dict.fromkeys(path for path in found if path.startswith("/")))
