"""What the agent remembers on the host: which files are its own, and what was there before them.

The record is written before the first change it speaks of, so that after a crash at any point an original is neither
lost nor mistaken for ours.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..api.models import RuntimeFacts
from ..core.edits import Edit
from ..core.layout import MARK, MICROK8S
from . import edits
from .host import Host, HostError, HostFile

DIRECTORY = "/var/lib/registry-mirror"
LOCK = f"{DIRECTORY}/lock"
_STATE = f"{DIRECTORY}/state.json"
_ORIGINALS = f"{DIRECTORY}/originals"
GOOD = f"{DIRECTORY}/good"
UNKNOWN = "unknown"
Result = Literal["InProgress", "Succeeded", "RolledBack", "RollbackFailed"]
_REVISION_ARGS = re.compile(rf"^{MICROK8S}/[^/]+/args(?=/|$)")


class Original(Struct, frozen=True, kw_only=True):
    """What was at a path before the agent came: nothing (then ``copy`` is empty), or a file and the copy of it."""

    copy: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0


class Good(Struct, frozen=True, kw_only=True):
    """The last good state: the record as it was then, and ``files`` with what each path that was touched since held."""

    revision: str = ""
    originals: dict[str, Original] = msgspec.field(default_factory=dict)
    directories: tuple[str, ...] = ()
    edits: dict[str, Edit] = msgspec.field(default_factory=dict)
    start_settings: dict[str, str] = msgspec.field(default_factory=dict)
    files: dict[str, Original] = msgspec.field(default_factory=dict)


Phase = Literal["Arming", "Restarting", "RollingBack", "Checking", "Done"]


class Attempt(Struct, frozen=True, kw_only=True):
    """A restart of the runtime for a revision, in flight or the last one.

    ``boot`` and ``began`` (seconds since boot) say when its phase was begun, on a clock that nobody sets. ``entered``
    (when its unit became active, microseconds since 1970), ``restarts`` (of that unit, by systemd) and ``beat`` (of the
    node's Lease) are from before the restart. Nobody asked for it if ``entered`` is -1: the runtime had started by
    itself with settings that were waiting for that.
    """

    revision: str
    unit: str
    started_at: str
    deadline: float
    phase: Phase = "Arming"
    result: Result = "InProgress"
    finished_at: str = ""
    message: str = ""
    log: tuple[str, ...] = ()
    boot: str = ""
    began: float = 0
    entered: int = 0
    restarts: int = 0
    beat: str = ""


class State(Struct, frozen=True, kw_only=True):
    """The whole record.

    ``originals`` has an entry for every path that is ours, in the order in which the files are written; what names a
    file comes after it. ``directories`` were not there before us. ``edits`` are those paths of which a part is ours.

    ``start_settings`` are those of ``revision``, on disk since ``written_at`` (nanoseconds since 1970); ``in_force``
    are those that the runtime read when it last started. ``runtime_start`` tells that start from any other, and
    ``unit`` is the service that it ran in: while it is down, nothing else tells.

    While ``writing`` names a revision, the disk has something between ``revision`` and that one, whose settings are
    ``writing_settings``. ``good`` is there as long as the disk has start settings that no start has proven.
    """

    revision: str = ""
    originals: dict[str, Original] = msgspec.field(default_factory=dict)
    directories: tuple[str, ...] = ()
    edits: dict[str, Edit] = msgspec.field(default_factory=dict)
    start_settings: dict[str, str] = msgspec.field(default_factory=dict)
    written_at: int = 0
    in_force: dict[str, str] = msgspec.field(default_factory=dict)
    runtime_start: int = 0
    unit: str = ""
    writing: str = ""
    writing_settings: dict[str, str] = msgspec.field(default_factory=dict)
    good: Good | None = None
    attempt: Attempt | None = None


def load(host: Host) -> State:
    """Read the record; an absent one is empty. Raises HostError if it is damaged: better stop than lose originals."""
    found = host.read(_STATE)
    if found is None:
        return State()
    try:
        return msgspec.convert(_as_now(msgspec.json.decode(found.content)), State)
    except msgspec.MsgspecError:
        text = f"{_STATE}: it is damaged; restore it, or move {DIRECTORY} away, which has the originals, to start anew"
        raise HostError("StateDamaged", text) from None


def _as_now(record: Any) -> Any:
    """Give a record as this version writes it: once an edit could set config_path only, and called it ``value``."""
    edited = record.get("edits") if isinstance(record, dict) else None
    for edit in edited.values() if isinstance(edited, dict) else ():
        if isinstance(edit, dict) and "value" in edit:
            edit["config_path"] = edit.pop("value")
    return record


def save(host: Host, state: State) -> None:
    """Write the record. Raises HostError."""
    host.stage(_STATE, msgspec.json.encode(state), 0o600).commit()


def on_disk(state: State) -> dict[str, str]:
    """Give what a start reads now; amid a change nobody knows, and a value that equals none stands for that."""
    if not state.writing:
        return state.start_settings
    old, new = state.start_settings, state.writing_settings
    return {name: old[name] if old.get(name) == new.get(name) else UNKNOWN for name in {**old, **new}}


def adopt(host: Host, state: State, paths: list[str]) -> State:
    """Copy what is at those paths into the agent's directory, for each path that is not ours yet.

    Gives the record with them, in the order of ``paths``; it has to be saved before anything is changed. Raises
    HostError; nothing but copies has been written then.
    """
    added = {}
    missing = set(state.directories)
    for path in paths:
        if path in state.originals:
            continue
        added[path] = keep_copy(host, path, _ORIGINALS)
        if not added[path].copy:
            missing |= {folder for folder in _above(path) if not host.exists(folder)}
    known = {**state.originals, **added}
    others = [path for path in known if path not in set(paths)]
    originals = {path: known[path] for path in (*others, *paths)}
    return replace(state, originals=originals, directories=tuple(sorted(missing)))


def adopt_again(host: Host, state: State, path: str) -> State:
    """Take what is at that path now for what is to be there without us: somebody else has written it since.

    A rollback leaves it so too. Gives the record, which is not saved. Raises HostError.
    """
    good = state.good
    originals = {**state.originals, path: keep_copy(host, path, _ORIGINALS)}
    if good is not None and path in good.files:
        files = {**good.files, path: keep_copy(host, path, GOOD)}
        good = replace(good, files=files, originals={**good.originals, path: originals[path]})
    return replace(state, originals=originals, good=good)


def keep_copy(host: Host, path: str, folder: str) -> Original:
    """Copy what is at that path into a folder of the agent's directory; says what was there. Raises HostError."""
    found = host.read(path)
    if found is None:
        return Original()
    where = f"{folder}/{hashlib.sha256(path.encode()).hexdigest()}"
    host.stage(where, found.content, 0o600).commit()
    return Original(copy=where, mode=found.mode, uid=found.uid, gid=found.gid)


def move(host: Host, state: State, facts: RuntimeFacts) -> State:
    """Follow a refresh of MicroK8s: snapd copies SNAP_DATA of a revision into that of the next (snapcraft.io, Data
    locations), and with it our files, which must not be taken for somebody's originals.

    Takes the facts, which name the revision in use. What was at a path before the agent came is kept for the same path
    there, unless something that is not ours is at it: that is adopted as any other file. The old revision is left
    alone: snapd goes back to it as it is, or removes it. Gives the record, which is not saved. Raises HostError.
    """
    args = posixpath.dirname(facts.config_file or facts.config_path)

    def now(path: str) -> str:
        return _REVISION_ARGS.sub(args, path)

    originals = {
        now(path): original
        for path, original in state.originals.items()
        if now(path) == path or path in state.edits or _is_ours(host, now(path))
    }
    edited = {now(path): replace(edit, path=now(path)) for path, edit in state.edits.items()}
    directories = tuple(sorted({now(folder) for folder in state.directories}))
    # A refresh is a start of its own: what was good lies in a revision that nothing reads any more.
    good = state.good if all(now(path) == path for path in state.originals) else None
    return replace(state, originals=originals, directories=directories, edits=edited, good=good)


def _is_ours(host: Host, path: str) -> bool:
    found = host.read(path)
    return found is None or found.content.startswith(MARK.encode())


def restore(host: Host, state: State, path: str) -> State:
    """Put back what was at that path before the agent came, and forget it; gives the record, which is not saved.

    Raises HostError.
    """
    original = state.originals[path]
    if path in state.edits:
        there = host.read(path)
        content = own_content(host, state, path, there)
        if there is not None and content != there.content:
            mode = original.mode if edits.holds_secret(state.edits[path], there) else there.mode
            host.stage(path, content, mode, (there.uid, there.gid)).commit()
    elif original.copy:
        content = _copy(host, state, path)
        host.stage(path, content, original.mode, (original.uid, original.gid)).commit()
    else:
        host.remove(path, with_directory=path.rpartition("/")[0] in state.directories)
    return replace(
        state,
        originals={key: value for key, value in state.originals.items() if key != path},
        edits={key: value for key, value in state.edits.items() if key != path},
    )


def own_content(host: Host, state: State, path: str, found: HostFile | None) -> bytes:
    """Give what a file of the node (``found``, as it is at that path) would hold without us, or nothing for None.

    Raises HostError.
    """
    if found is None:
        return b""
    edit = state.edits.get(path)
    return found.content if edit is None else edits.without(edit, found, _copy(host, state, path))


def _copy(host: Host, state: State, path: str) -> bytes:
    original = state.originals[path]
    found = host.read(original.copy)
    if found is None:
        text = f"{path}: the copy of the original is gone: write the file that is to be there to {original.copy}"
        raise HostError("OriginalLost", text)
    return found.content


def remove_directories(host: Host, state: State) -> State:
    """Remove the directories that the agent made and that hold none of its files any more, unless others use them.

    Gives the record, which is not saved. Raises HostError.
    """
    needed = {folder for path in state.originals for folder in _above(path)}
    for folder in reversed(state.directories):  # sorted: what is below comes first
        if folder not in needed:
            host.remove_empty(folder)
    return replace(state, directories=tuple(folder for folder in state.directories if folder in needed))


def sweep(host: Host, state: State) -> None:
    """Remove copies that the record does not name: of originals that are back for good, of a last good state that is
    not needed any more, and what a crash left.

    Raises HostError.
    """
    good = state.good if state.good is not None else Good()
    # A rollback makes those that were ours at that time ours again.
    for folder, needed in ((_ORIGINALS, (state.originals, good.originals)), (GOOD, (good.files,))):
        named = {item.copy for items in needed for item in items.values()}
        for path in (f"{folder}/{name}" for name in host.names(folder, unfinished=True)):
            if path not in named:
                host.remove(path, with_directory=False)


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(2, len(parts))]


def remove(host: Host) -> None:
    """Remove all that the agent remembers: for the end, when nothing of ours is left. Raises HostError."""
    for folder in (f"{DIRECTORY}/absence", f"{DIRECTORY}/restart", f"{DIRECTORY}/boot", _ORIGINALS, GOOD, DIRECTORY):
        for name in host.names(folder, unfinished=True):
            host.remove(f"{folder}/{name}", with_directory=False)
        host.remove_empty(folder)
