"""The script that puts a node back when no agent is left to do it: one file for any POSIX shell, as the dead-man's.

It may die at any line and be run again. It needs flock(1) (util-linux, BusyBox): with the lock in its hands no agent
can begin, and without that program it does nothing.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

from msgspec import Struct

from ..core.layout import MICROK8S
from . import rollback
from .files import temporary
from .rollback import FUNCTIONS, Restore, call
from .state import DIRECTORY

FOLDER = f"{DIRECTORY}/absence"
SCRIPT = f"{FOLDER}/restore.sh"
STAMP = 3600  # how often the host notes that an agent is there, in seconds
# Of a volume of the agent's Pod (manifests/base/agent.yaml). The kubelet makes its directory before it pulls an image,
# and removes it once the API server has told it that the Pod is no more: before that, and without an API server, it
# neither unmounts volumes nor removes directories (pkg/kubelet/kubelet.go, syncLoopIteration: sourcesReady).
VOLUME = "registry-mirror-agent"
# The defaults of --root-dir, of MicroK8s (microk8s-resources/default-args/kubelet) and of k0s (--data-dir). Another
# one is not found, and then nothing is done.
_ROOTS = ("/var/lib/kubelet", "/var/snap/microk8s/common/var/lib/kubelet", "/var/lib/k0s/kubelet")


# snapd has copied our files with all others if there is another one now (state.move).
_CURRENT = f'[ "$(readlink {MICROK8S}/current)" = {{revision}} ]'


class Revert(Struct, frozen=True, kw_only=True):
    """A file of the node with settings of ours in it: ``pairs`` are the names of copies, of what it may hold with us,
    and of the same without us.
    """

    path: str
    mode: int
    uid: int
    gid: int
    pairs: tuple[tuple[str, str], ...]


def script(
    reverts: Iterable[Revert],
    items: Iterable[Restore],
    later: Iterable[Restore],
    directories: Iterable[str],
    revision: str = "",
) -> str:
    """Give the text. What is in ``later`` goes after the next boot only; ``directories`` were not there before us.

    With ``revision``, nothing is done unless that one of MicroK8s is in use.
    """
    first = [*map(_revert, reverts), *rollback.steps(items)]
    last = rollback.steps(later)
    empty = [call("empty", folder) for folder in sorted(directories, reverse=True)]
    waits = ["another_boot || return 1"] if last else []
    current = _CURRENT.format(revision=shlex.quote(revision)) if revision else ":"
    parts = {
        "in_place": [current],
        "put_back": [*first, *empty, ":"],
        "put_back_later": [*waits, *last, *empty, ":"],
    }
    functions = "".join(f"\n{name}() {{\n    " + "\n    ".join(lines) + "\n}\n" for name, lines in parts.items())
    return f"{_HEAD}{functions}{_TAIL}"


def _revert(item: Revert) -> str:
    there = f"{os.path.dirname(item.path)}/{temporary(item.path)}"
    pairs = [f"{FOLDER}/{name}" for pair in item.pairs for name in pair]
    return call("revert", item.path, there, f"{item.mode:o}", f"{item.uid}:{item.gid}", *pairs)


_HEAD = f"""#!/bin/sh
# Written by the agent of registry-mirror-operator, for when it is gone for good: puts back what was there before it.
set -u
umask 077
PATH=${{PATH:+$PATH:}}/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin
export PATH
cd {FOLDER} || exit 0
boot=$(cat /proc/sys/kernel/random/boot_id)

{FUNCTIONS}
same() {{ # FILE FILE
    [ -f "$1" ] && [ -f "$2" ] && [ "$(cat "$1"; echo .)" = "$(cat "$2"; echo .)" ]
}}

revert() {{ # PATH TEMPORARY MODE OWNER [COPY WITH US, COPY WITHOUT US]...
    plain "$1" || {{ skip "$1: not put back: it, or a directory in it, is a link or no file"; return; }}
    [ -e "$1" ] || return 0
    to=$1 there=$2 mode=$3 owner=$4
    shift 4
    while [ $# -gt 1 ]; do
        ! same "$to" "$2" || return 0
        ! same "$to" "$1" || {{ put "$2" "$to" "$there" "$mode" "$owner"; return; }}
        shift 2
    done
    skip "$to: left as it is, because somebody has changed it since: take out what it says of mirrors"
}}

empty() {{ # DIRECTORY
    plain "$1/none" && rmdir "$1" 2>/dev/null
}}

keep() {{ # NAME TEXT: written only if it says something else
    [ "$(cat "$1" 2>/dev/null)" = "$2" ] || {{ echo "$2" >"$1.new" && mv -f "$1.new" "$1"; }}
}}

agent() {{ # True if a Pod of the agent is on this node, whether or not it runs; notes where the kubelet has it
    for pods in {" ".join(f"{root}/pods" for root in _ROOTS)}; do
        for volume in "$pods"/*/volumes/kubernetes.io~empty-dir/{VOLUME}; do
            [ ! -d "$volume" ] || {{ keep kubelet "$pods"; return 0; }}
        done
    done
    return 1
}}

since() {{ # SECONDS: true if for so long no agent was seen; 'seen' says when, and after how long it is gone for good
    read -r at after <seen || return 1
    case "$at$after" in '' | *[!0-9]*) return 1 ;; esac
    [ $(($(date +%s) - at)) -ge "${{1:-$after}}" ]
}}

gone() {{ # True if all says that no agent is there, or will be
    ! agent || return 1
    pods=$(cat kubelet 2>/dev/null)
    [ -n "$pods" ] && [ -d "$pods" ] || return 1
    since '' || return 1
    [ ! -e ../restart/rollback.sh ] || [ -e ../restart/done ] || [ "$(cat ../restart/verdict)" = committed ] || return 1
    in_place
}}

another_boot() {{ # True once there was one since all was put back that may be put back while the runtime runs
    [ -s boot ] || keep boot "$boot"
    [ "$(cat boot)" != "$boot" ]
}}
"""

_TAIL = f"""
put_all_back() {{
    rm -f skipped
    : >began
    sync
    put_back
    # What it could not do is left to the next agent or to the clean-up, which find the record as it was.
    if [ ! -e skipped ]; then
        put "$PWD/next.json" {DIRECTORY}/state.json {DIRECTORY}/{temporary("state.json")} 600 0:0
        [ ! -e skipped ] || return 1
    fi
    keep boot "$boot"
    sync
    rm -f next.json
}}

main() {{
    [ -f ../lock ] || return 0
    exec 9<../lock
    if ! flock -n 9; then
        agent
        ! since {STAMP} || keep seen "$(date +%s) $after"
        rm -f gone
        return 0
    fi
    if [ -e next.json ]; then
        gone || {{ rm -f gone; return 0; }}
        # It has to be so twice in one boot, half an hour apart: a new Pod may be on its way, and the clock be set.
        [ "$(cat gone 2>/dev/null)" = "$boot" ] || {{ keep gone "$boot"; return 0; }}
        put_all_back || return 0
    fi
    if [ ! -e skipped ]; then
        put_back_later || return 0
        cd ..
        rm -rf originals good restart boot
        rm -f state.json digest-key
        rm -rf absence
    else
        rm -f {SCRIPT}
    fi
    sync
}}

main
exit 0
"""
