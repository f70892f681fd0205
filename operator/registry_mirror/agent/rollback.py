"""The dead-man's work: a script on the host that puts the last good files back and restarts the runtime, once.

The host has no Python, and the agent may be dead, its image gone: so it is one file for any POSIX shell. It may die at
any line and be run again. Who speaks first decides: the agent that all is well, or the script that it is not.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from .files import name_of, temporary
from .host import Host
from .service import Kind
from .state import DIRECTORY

_FOLDER = f"{DIRECTORY}/restart"
_SCRIPT = f"{_FOLDER}/rollback.sh"
_VERDICT = f"{_FOLDER}/verdict"
_DONE = f"{_FOLDER}/done"
_UNDONE = f"{_FOLDER}/undone"
_SKIPPED = f"{_FOLDER}/skipped"
_COMMITTED = b"committed\n"
_MAX_SKIPPED = 10
_HOSTS = "hosts.toml"
_NAMED_BY_OTHERS = (".crt", ".cert", ".key", ".pem")

Outcome = Literal["none", "armed", "committed", "started", "done"]


class Restore(Struct, frozen=True, kw_only=True):
    """What is to become of one path: the content of ``copy`` with that mode and owner, or nothing if that is empty.

    ``with_directory``: its directory was not there either, and goes if nothing else is in it.
    """

    path: str
    copy: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    with_directory: bool = False


def command() -> tuple[str, ...]:
    """Give the command that the host is to run."""
    return "/bin/sh", _SCRIPT


def prepare(host: Host, items: Iterable[Restore], unit: str, kind: Kind) -> tuple[str, ...]:
    """Write the script; gives the command to run it. Raises HostError."""
    clear(host)
    # Renamed at the end: to say that all is done must not take room on a full disk.
    host.stage(_UNDONE, b"", 0o600).commit()
    host.stage(_SCRIPT, script(items, unit, kind).encode(), 0o600).commit()
    return command()


def outcome(host: Host) -> Outcome:
    """Say how far it is: nothing was prepared; it may run; the agent said that all is well; it runs, or died while it
    ran; it has run. Raises HostError.
    """
    if not host.exists(_SCRIPT):
        return "none"
    verdict = host.read(_VERDICT)
    if verdict is None:
        return "armed"
    if verdict.content == _COMMITTED:
        return "committed"
    return "done" if host.exists(_DONE) else "started"


def commit(host: Host) -> bool:
    """Say that all is well: from here on the script does nothing. False if it was first. Raises HostError."""
    return host.create(_VERDICT, _COMMITTED, 0o600) or outcome(host) == "committed"


def skipped(host: Host) -> tuple[str, ...]:
    """Give what the script could not do, a sentence each. Raises HostError."""
    found = host.read(_SKIPPED)
    return tuple(found.content.decode(errors="replace").splitlines()[:_MAX_SKIPPED]) if found is not None else ()


def clear(host: Host) -> None:
    """Remove all of it, the script first: without it, nothing of the rest counts. Raises HostError."""
    host.remove(_SCRIPT, with_directory=False)
    for name in host.names(_FOLDER, unfinished=True):
        host.remove(f"{_FOLDER}/{name}", with_directory=False)


def script(items: Iterable[Restore], unit: str, kind: Kind) -> str:
    """Give the text of the script.

    Files come back before the runtime is restarted; see ``steps``.
    """
    restart = _RESTART[kind].format(unit=shlex.quote(unit))
    before = f"systemctl reset-failed {shlex.quote(unit)} 2>/dev/null" if kind == "systemd" else ":"
    body = "\n".join(f"    {line}" for line in (*steps(items), before, restart))
    # In a function: a shell reads its file as it goes, and then it is read whole before anything is done.
    return f"{_HEAD}\nroll_back() {{\n{body}\n}}\n{_TAIL}"


def steps(items: Iterable[Restore]) -> list[str]:
    """Give the calls of what ``FUNCTIONS`` has that put back each of these.

    Files come back first, those that others name before these; then what is not to be there goes, the other way round.
    """
    ordered = sorted(items, key=lambda item: not item.path.endswith(_NAMED_BY_OTHERS))
    return [
        *(_put(item) for item in ordered if item.copy),
        *(_remove(item) for item in reversed(ordered) if not item.copy),
    ]


def _put(item: Restore) -> str:
    folder = os.path.dirname(item.path)
    words = [item.copy, item.path, f"{folder}/{temporary(item.path)}", f"{item.mode:o}", f"{item.uid}:{item.gid}"]
    if name_of(item.path) == _HOSTS:
        words.append(_away(folder))
    return call("put", *words)


def _remove(item: Restore) -> str:
    folder = os.path.dirname(item.path)
    if not item.with_directory:
        return call("drop", item.path)
    if name_of(item.path) == _HOSTS:
        return call("take", item.path, f"{folder}/{temporary(item.path)}", _away(folder))
    return f"{call('drop', item.path)}; rmdir {shlex.quote(folder)} 2>/dev/null"


def _away(folder: str) -> str:
    return f"{os.path.dirname(folder)}/{temporary(folder)}"


def call(function: str, *words: str) -> str:
    """Give a call of a function, or a program, with those words as they are."""
    return " ".join((function, *map(shlex.quote, words)))


# The containers of a runtime that is restarted go on (KillMode=process in the units of all that are supported).
_RESTART: dict[Kind, str] = {
    "systemd": "again 3 systemctl restart --no-block {unit}",
    # It refuses as long as the restart is going on that was begun before: that of the agent may wait for a process
    # that does not end, or may have read the files before they were put back.
    "openrc": "again 30 openrc {unit}",
}

# What it could not do, it says in the file `skipped` of the directory in which it runs.
FUNCTIONS = """\
skip() { # SENTENCE
    echo "$1" >&2
    echo "$1" >>skipped
}

plain() { # PATH: no component of it is a symbolic link, which could lead anywhere
    at=
    rest=${1#/}/
    while [ -n "$rest" ]; do
        at=$at/${rest%%/*}
        rest=${rest#*/}
        [ ! -L "$at" ] || return 1
    done
    [ ! -e "$1" ] || [ -f "$1" ]
}

write() { # COPY TEMPORARY MODE OWNER
    rm -f "$2"
    cp "$1" "$2" && chmod "$3" "$2" && chown "$4" "$2" && { sync "$2" || :; }
}

put() { # COPY PATH TEMPORARY MODE OWNER [DIRECTORY TO BE]
    plain "$2" || { skip "$2: not put back: it, or a directory in it, is a link or no file"; return; }
    folder=${2%/*}
    if [ $# -lt 6 ] || [ -d "$folder" ]; then
        (umask 022; mkdir -p "$folder")
        write "$1" "$3" "$4" "$5" && mv -f "$3" "$2" && { sync "$folder" || :; } && return
        rm -f "$3"
    else
        # A directory of a registry is never to be seen without its file.
        file=${2##*/}
        (umask 022; mkdir -p "${folder%/*}")
        rm -f "$6/$file"
        rmdir "$6" 2>/dev/null
        mkdir "$6" && write "$1" "$6/$file" "$4" "$5" && mv "$6" "$folder" && { sync "${folder%/*}" || :; }
        # Somebody else has made it meanwhile.
        away=$folder/${6##*/}
        [ ! -d "$away" ] || { mv -f "$away/$file" "$2"; rmdir "$away"; }
        [ ! -f "$2" ] || return
        rm -f "$6/$file"
        rmdir "$6" 2>/dev/null
    fi
    skip "$2: not put back: its copy is gone, or the disk is full or read-only"
}

drop() { # PATH
    plain "$1" || { skip "$1: not removed: it, or a directory in it, is a link or no file"; return; }
    rm -f "$1" || skip "$1: not removed"
}

take() { # PATH TEMPORARY AWAY: with its directory, which is never to be seen without its file
    plain "$1" || { skip "$1: not removed: it, or a directory in it, is a link or no file"; return; }
    folder=${1%/*}
    if [ -d "$3" ] && [ ! -L "$3" ]; then
        rm -f "$3/${1##*/}" "$3/${2##*/}"
        rmdir "$3"
    fi
    [ -d "$folder" ] || return
    rm -f "$2"
    if [ "$(ls -A "$folder")" != "${1##*/}" ]; then
        drop "$1"
        rmdir "$folder" 2>/dev/null
    elif mv "$folder" "$3"; then
        rm -f "$3/${1##*/}"
        rmdir "$3" || mv "$3" "$folder"
    else
        skip "$1: not removed"
    fi
}
"""

_HEAD = f"""#!/bin/sh
# Written by the agent of registry-mirror-operator before it restarts the container runtime.
set -u
umask 077
PATH=${{PATH:+$PATH:}}/usr/sbin:/usr/bin:/sbin:/bin
export PATH
cd {_FOLDER} || exit 0

{FUNCTIONS}
again() {{ # TIMES COMMAND: tried more than once, because there is nobody else to do it
    tries=$1
    shift
    while [ "$tries" -gt 0 ]; do
        "$@" && return
        tries=$((tries - 1))
        sleep 2
    done
    skip "the runtime was not restarted: $*"
}}

began() {{ # PID: when that process was started, for a number could be another's by now
    line=$(cat "/proc/${{1:-none}}/stat" 2>/dev/null) || return 0
    set -- ${{line##*) }}
    echo "${{20}}"
}}

openrc() {{ # NAME
    old=$(cat "/run/openrc/options/$1/child_pid" 2>/dev/null)
    was=$(began "$old")
    limit=
    ! command -v timeout >/dev/null || limit='timeout 60'
    $limit rc-service "$1" restart || return
    # supervise-daemon ends five seconds after it told the old process to (unless `retry` says more), whether or not
    # that has; a runtime that hangs would keep the new one from its files for ever.
    [ -z "$was" ] || [ "$(began "$old")" != "$was" ] || kill -9 "$old"
}}

alone() {{ # True for one process at a time; who died holds nothing
    echo $$ >turn.$$ || return 0
    turn=1
    until ln turn.$$ "lock.$turn" 2>/dev/null; do
        holder=$(cat "lock.$turn" 2>/dev/null) || break
        if [ "$holder" != $$ ] && grep -q rollback.sh "/proc/$holder/cmdline" 2>/dev/null; then
            rm -f turn.$$
            return 1
        fi
        turn=$((turn + 1))
    done
    rm -f turn.$$
}}
"""

_TAIL = f"""
main() {{
    alone || return 0
    # One of two makes this file: the agent, that all is well, or this script. The agent's is never seen half written.
    (set -C; echo rollback >{_VERDICT}) 2>/dev/null
    [ "$(cat {_VERDICT})" != committed ] || return 0
    [ ! -e {_DONE} ] || return 0
    sync {_FOLDER} || :
    rm -f {_SKIPPED}
    roll_back
    mv -f {_UNDONE} {_DONE}
    sync {_FOLDER} || :
}}

main
exit 0
"""
