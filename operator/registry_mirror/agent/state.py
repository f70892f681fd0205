"""What the agent remembers on the host: which files are its own, and what was there before them.

The record is written before the first change it speaks of, so that after a crash at any point an original is neither
lost nor mistaken for ours.
"""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from .host import Host, HostError

DIRECTORY = "/var/lib/registry-mirror"
_STATE = f"{DIRECTORY}/state.json"


class Original(Struct, frozen=True, kw_only=True):
    """What was at a path before the agent came: nothing (then ``copy`` is empty), or a file and the copy of it."""

    copy: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    directory: bool = True


class State(Struct, frozen=True, kw_only=True):
    """The whole record.

    ``originals`` has an entry for every path that is ours, in the order in which the files were written.
    ``start_settings`` are those of the revision on disk, written at ``written_at`` (nanoseconds since 1970);
    ``in_force`` are those that the runtime read when it last started.
    """

    revision: str = ""
    originals: dict[str, Original] = msgspec.field(default_factory=dict)
    start_settings: dict[str, str] = msgspec.field(default_factory=dict)
    written_at: int = 0
    in_force: dict[str, str] = msgspec.field(default_factory=dict)


def load(host: Host) -> State:
    """Read the record; an absent one is empty. Raises HostError if it is damaged: better stop than lose originals."""
    found = host.read(_STATE)
    if found is None:
        return State()
    try:
        return msgspec.json.decode(found.content, type=State)
    except msgspec.MsgspecError:
        text = f"{_STATE}: it is damaged; restore it, or move it away to start anew (originals stay in {DIRECTORY})"
        raise HostError("StateDamaged", text) from None


def save(host: Host, state: State) -> None:
    """Write the record. Raises HostError."""
    host.stage(_STATE, msgspec.json.encode(state), 0o600).commit()


def adopt(host: Host, state: State, paths: list[str]) -> State:
    """Copy what is at those paths into the agent's directory and record it, for each path that is not ours yet.

    Gives the record as saved. Raises HostError; nothing but copies has been written then.
    """
    added = {}
    for path in paths:
        if path in state.originals:
            continue
        found = host.read(path)
        if found is None:
            added[path] = Original(directory=host.exists(path.rpartition("/")[0]))
            continue
        copy = f"{DIRECTORY}/originals/{hashlib.sha256(path.encode()).hexdigest()}"
        host.stage(copy, found.content, 0o600).commit()
        added[path] = Original(copy=copy, mode=found.mode, uid=found.uid, gid=found.gid)
    if not added:
        return state
    state = replace(state, originals={**state.originals, **added})
    save(host, state)
    return state


def restore(host: Host, state: State, path: str) -> State:
    """Put back what was at that path before the agent came, and forget it; gives the record, which is not saved.

    Raises HostError.
    """
    original = state.originals[path]
    if original.copy:
        found = host.read(original.copy)
        if found is None:
            raise HostError("OriginalLost", f"{path}: the copy of the original, {original.copy}, is gone")
        host.stage(path, found.content, original.mode, (original.uid, original.gid)).commit()
    else:
        host.remove(path, with_directory=not original.directory)
    return replace(state, originals={key: value for key, value in state.originals.items() if key != path})


def forget_copy(host: Host, original: Original) -> None:
    """Remove the copy of an original that has been put back. Raises HostError."""
    if original.copy:
        host.remove(original.copy, with_directory=False)
