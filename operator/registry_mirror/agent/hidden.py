"""What must not be seen in what the runtime says: one that cannot read its configuration may quote it, and its last
lines go into the status of the node, where many can read them.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..core.masked import hide, secrets
from .host import Host, HostError
from .state import DIRECTORY, State

_FILE = f"{DIRECTORY}/restart/secrets"
_NOT_SHOWN = "(not shown: it may hold a secret, and a file that would tell cannot be read)"


def remember(host: Host, state: State) -> None:
    """Keep, for the time of a restart, the secrets that the runtime may read then: a rollback takes the files away.

    It goes with the rest of the directory. Raises HostError if it cannot be written; a file that cannot be read is not
    to keep a rollback from being prepared.
    """
    found, _ = _secrets(host, state)
    if found:
        host.stage(_FILE, msgspec.json.encode(sorted(found)), 0o600).commit()


def shown(host: Host, state: State, lines: Iterable[str]) -> tuple[str, ...]:
    """Give lines of the runtime without the secrets of the files that it reads, or has read.

    Where those cannot all be told, no line is shown. Never raises for what can go wrong on a node.
    """
    known, complete = _secrets(host, state)
    try:
        kept = host.read(_FILE)
        known |= set(msgspec.json.decode(kept.content, type=list[str])) if kept is not None else set()
    except (HostError, msgspec.MsgspecError):
        complete = False
    return tuple(hide(line, known) if complete else _NOT_SHOWN for line in lines)


def _secrets(host: Host, state: State) -> tuple[set[str], bool]:
    """Those in our files as they are now, and in those of the last good state; and whether all could be read."""
    copies = {path: item.copy for path, item in state.good.files.items()} if state.good is not None else {}
    found: set[str] = set()
    complete = True
    for path, where in [*((path, path) for path in state.originals), *copies.items()]:
        try:
            file = host.read(where) if where else None
        except HostError:
            complete = False
            continue
        if file is not None:
            found |= secrets(path, file.content.decode(errors="replace"))
    return found, complete
