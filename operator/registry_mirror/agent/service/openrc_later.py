"""What the host runs later without systemd: a shell that waits, and a service of OpenRC that starts one at the boot.

A file says that it is still to be run, and its name has a token that the shell was started with. Who wins is settled by
the one rename that the shell does before it runs anything: a shell whose file has gone does nothing any more, whenever
it wakes up, so that none has to be found and killed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from .. import processes
from ..host import Host
from ..state import DIRECTORY

_FOLDER = f"{DIRECTORY}/later"
_SCRIPTS = "/etc/init.d"
# Before any other runlevel, whichever the machine goes to (openrc(8)).
_RUNLEVEL = "/etc/runlevels/boot"
_STARTED = "/run/openrc/started"
_BOOT = "boot"  # the token of what the boot starts
# For the agent to come up and see the start through before the host goes back by itself.
_MORE = 120.0
AGAIN = 30  # after which it is run again unless it ended with 0, in seconds
_LIMIT = 300  # of one run, in seconds

_SHELL = """\
#!/bin/sh
# Written by registry-mirror-operator before it restarts the container runtime; it goes when the runtime is back.
set -u
umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
cd {folder} || exit 0

seconds() {{ # since the boot: nobody sets that clock
    read -r up rest </proc/uptime
    echo "${{up%%.*}}"
}}

main() {{ # TOKEN SECONDS
    end=$(($(seconds) + $2))
    while [ "$(seconds)" -lt "$end" ]; do
        [ -e {name}."$1".armed ] || return 0
        [ ! -e {name}."$1".now ] || break
        sleep 1
    done
    mv {name}."$1".armed {name}."$1".running 2>/dev/null || return 0
    limit=
    ! command -v timeout >/dev/null || limit='timeout {limit}'
    until $limit {command}; do
        sleep {again}
    done
    {forget}
    # In this order: as long as the second is there, nobody writes the first anew.
    rm -f {name}.sh {name}."$1".now {name}."$1".running
}}

main "$@"
exit 0
"""
_SERVICE = """\
#!/sbin/openrc-run
# Written by registry-mirror-operator before it restarts the container runtime; it goes when the runtime is back.
description="registry-mirror: go back to the last good files unless the runtime works"

depend() {{
    after localmount
}}

start() {{
    [ -e {script} ] || return 0
    : >{armed}
    setsid /bin/sh {script} {token} {after} </dev/null >/dev/null 2>&1 &
}}
"""


class Later:
    """What is to be run later. Takes the host's files, all of them, and where processes are.

    Methods raise HostError. There is one agent at a time (``Host.alone``).
    """

    def __init__(self, host: Host, root: Path, proc: Path) -> None:
        self._host = host
        self._root = root
        self._proc = proc

    def prepare(self, name: str, after: float, argv: tuple[str, ...], *, again: int = AGAIN) -> tuple[str, ...]:
        """Have it on record; gives the shell to be started on the host. What was there of that name must be gone."""
        text = _SHELL.format(
            folder=_FOLDER,
            name=shlex.quote(name),
            command=shlex.join(argv),
            limit=_LIMIT,
            again=again,
            forget=f"rm -f {shlex.join(_boot_files(name))}",
        )
        token = os.urandom(8).hex()
        self._host.stage(_script(name), text.encode(), 0o600).commit()
        self._host.stage(f"{_FOLDER}/{name}.{token}.armed", b"", 0o600).commit()
        return "/bin/sh", _script(name), token, f"{max(after, 0):.0f}"

    def keep(self, name: str, after: float) -> None:
        """Have it run after a loss of power too. Raises OSError as well."""
        service = _SERVICE.format(
            script=shlex.quote(_script(name)),
            armed=shlex.quote(f"{_FOLDER}/{name}.{_BOOT}.armed"),
            token=_BOOT,
            after=f"{after + _MORE:.0f}",
        )
        script, link, _ = _boot_files(name)
        self._host.stage(script, service.encode(), 0o755).commit()
        if self._host.link(link) is None:
            folder = os.open(f"{self._root}{_RUNLEVEL}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.symlink(script, os.path.basename(link), dir_fd=folder)
                os.fsync(folder)
            finally:
                os.close(folder)

    def disarm(self, name: str) -> None:
        """Have nothing run that waits; what a boot would start stays."""
        for file in self._files(name, "armed"):
            self._host.remove(file, with_directory=False)

    def hurry(self, name: str) -> bool:
        """Have a shell that waits do so no longer; gives whether there is one.

        That takes nothing away: an agent that is killed amid an exchange of two shells would leave nobody.
        """
        tokens = self._tokens(name, "armed")
        for token in tokens:
            self._host.create(f"{_FOLDER}/{name}.{token}.now", b"", 0o600)
        return bool(tokens)

    def clear(self, name: str) -> None:
        """Remove all that is left of that name; nothing of it may be running."""
        for state in ("armed", "now", "running"):
            for path in self._files(name, state):
                self._host.remove(path, with_directory=False)
        self._host.remove(_script(name), with_directory=False)
        self._host.remove_empty(_FOLDER)
        for path in _boot_files(name):
            with contextlib.suppress(OSError):
                os.unlink(f"{self._root}{path}")

    def known(self, name: str) -> bool:
        """Tell whether it is on record: a shell that has run it takes that away."""
        return self._host.exists(_script(name))

    def waits(self, name: str) -> bool:
        """Tell whether a shell is there that is going to run it."""
        return bool(self._tokens(name, "armed"))

    def running(self, name: str) -> bool:
        """Tell whether a shell is there that runs it, or is going to run it again."""
        return bool(self._tokens(name, "running"))

    def _tokens(self, name: str, state: str) -> set[str]:
        """Give those of which there is a file, and a shell."""
        tokens = {file.rsplit(".", 2)[1] for file in self._files(name, state)}
        return tokens.intersection(self._shells(name)) if tokens else tokens

    def _shells(self, name: str) -> Iterator[str]:
        """Give the tokens of the shells that there are: a number of a process could be another's by now."""
        for pid in processes.named(self._proc, "sh"):
            argv = processes.arguments(self._proc, pid)
            if len(argv) == 4 and argv[1] == _script(name) and self._is_root(pid):
                yield argv[2]

    def _is_root(self, pid: int) -> bool:
        """Anybody can give a process these arguments."""
        try:
            return os.stat(f"{self._proc}/{pid}").st_uid == 0
        except OSError:
            return False

    def _files(self, name: str, state: str) -> list[str]:
        found = self._host.names(_FOLDER)
        return [f"{_FOLDER}/{file}" for file in found if file.startswith(f"{name}.") and file.endswith(f".{state}")]


def _script(name: str) -> str:
    return f"{_FOLDER}/{name}.sh"


def _boot_files(name: str) -> tuple[str, str, str]:
    """Give the boot's script, what has it run, and OpenRC's note that it ran."""
    return f"{_SCRIPTS}/{name}-boot", f"{_RUNLEVEL}/{name}-boot", f"{_STARTED}/{name}-boot"
