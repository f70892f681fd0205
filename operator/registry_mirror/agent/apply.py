"""Making the files of a node equal to a bundle: check everything, stage everything, and only then change anything."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from ..api.errors import FieldError, InvalidError, WaitingError
from ..api.models import RuntimeFacts
from ..core.bundle import PUBLIC_MODE, SECRET_MODE, Bundle, File
from ..core.layout import layout
from . import edits, good, state as memory
from .files import is_temporary
from .host import Host, write_all
from .state import Original, State

_RANCHERS = ("k3s", "rke2")
_MAX_FILES = 2048
_MAX_SIZE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass did: paths written, paths restored or removed, which of those written others had changed, and what
    others have changed and was left so. ``held``: something is still to be removed.
    """

    written: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    held: bool = False


def _always(_path: str) -> bool:
    return True


def _nobody(_writing: bool) -> bool:
    return False


def _nothing(_state: State, _changes: list[edits.Change]) -> None:
    pass


def apply(
    host: Host,
    state: State,
    bundle: Bundle,
    facts: RuntimeFacts,
    repair: Callable[[str], bool] = _always,
    readers: Callable[[bool], bool] = _nobody,
    begun: Callable[[State, list[edits.Change]], None] = _nothing,
) -> tuple[State, Outcome]:
    """Make the node's files equal to the bundle; gives the record as saved, and what was done.

    ``repair`` is asked for each path that somebody else has changed since it was written. ``readers`` is told whether
    something is written now, and says whether a pull may still be at what was there before: then TLS files that are
    not wanted any more stay until another pass. ``begun`` is told the record, as saved, and the changes to files of the
    node before the first file is written. Does nothing at all when nothing differs. Raises InvalidError for a
    bundle that must not be applied (nothing is touched then) and HostError; after a HostError the same call goes on
    where it stopped.
    """
    _check_again(state, bundle, facts)
    if facts.name == "microk8s":
        state = memory.move(host, state, facts)
    work = _work_out(host, state, bundle, facts, repair, readers)
    if work.known and not work.paths:
        memory.sweep(host, state)
        return state, Outcome(left=work.left, held=work.held)
    if state.writing:
        for path in {*state.originals, *bundle.paths}:
            host.clean(path)
    state = _begin(host, _prepared(host, state, bundle, facts, work), bundle)
    begun(state, work.changes)
    write_all(host, work.files)
    for change in work.changes:
        host.stage(change.path, change.content, change.mode, change.owner).commit()
    restored = [path for path in reversed(state.originals) if path in work.stale]
    for path in restored:
        state = memory.restore(host, state, path)
    state = _end(host, memory.remove_directories(host, state), bundle)
    memory.sweep(host, state)
    repaired = tuple(path for path in work.written if path not in work.rendered) if work.known else ()
    return state, Outcome(work.written, tuple(restored), repaired, work.left, work.held)


@dataclass(frozen=True, slots=True)
class _Work:
    """What there is to do: files and changes to write, and stale paths to restore. ``known``: the revision is on the
    node. ``rendered`` is what K3s wrote in place of ours at its start; ``left`` and ``held`` are as in Outcome.
    """

    files: list[File]
    changes: list[edits.Change]
    stale: set[str]
    known: bool
    rendered: set[str]
    left: tuple[str, ...]
    held: bool

    @property
    def written(self) -> tuple[str, ...]:
        return (*(file.path for file in self.files), *(change.path for change in self.changes))

    @property
    def paths(self) -> set[str]:
        return {*self.written, *self.stale}


def _work_out(
    host: Host,
    state: State,
    bundle: Bundle,
    facts: RuntimeFacts,
    repair: Callable[[str], bool],
    readers: Callable[[bool], bool],
) -> _Work:
    """Compare the node with the bundle; nothing is changed. Raises InvalidError and HostError."""
    modes = {path: item.mode for path, item in state.originals.items()}
    changes = list(edits.changes(host, bundle.edits, modes))
    files = [file for file in bundle.files if _differs(host, file)]
    known = state.revision == bundle.revision and not state.writing
    rendered = {file.path for file in files if facts.name in _RANCHERS and _without_header(host, file)}
    left: tuple[str, ...] = ()
    if known:
        changed = {*(file.path for file in files), *(change.path for change in changes)} - rendered
        left = tuple(sorted(path for path in changed if not repair(path)))
        files = [file for file in files if file.path not in left]
        changes = [change for change in changes if change.path not in left]
    stale = set(state.originals).difference(bundle.paths)
    if bundle.start_settings != state.in_force:
        # What the runtime read at its start may name these, and a CA file that is gone fails every pull, the fallback
        # included (runtimes.md, trap 1): they go when it has started again.
        stale = {path for path in stale if not _read_when_it_started(state, path, layout(facts).tls)}
    tls = {path for path in stale if path.rpartition("/")[0] == layout(facts).tls}
    held = bool(tls) and readers(bool(files or changes or stale - tls))
    return _Work(files, changes, stale - tls if held else stale, known, rendered, left, held)


def _prepared(host: Host, state: State, bundle: Bundle, facts: RuntimeFacts, work: _Work) -> State:
    """Copy what was there before us, and what was last good; gives the record with that. Raises HostError."""
    at_start = {*layout(facts).files, *layout(facts).edits, *state.edits}
    if state.revision and not state.writing and not at_start.intersection(work.paths):
        state = _under_new_digests(host, state, bundle, at_start)
    adopted = memory.adopt(host, state, list(bundle.paths))
    if state.good is None and bundle.start_settings == state.in_force:
        return adopted
    return good.keep(host, adopted, state, {**adopted.originals, **dict.fromkeys(bundle.paths)})


def _read_when_it_started(state: State, path: str, tls: str) -> bool:
    if path.rpartition("/")[0] != tls:
        return False
    if state.good is None:
        return not state.writing
    return bool(state.good.files.get(path, Original()).copy)


def _under_new_digests(host: Host, state: State, bundle: Bundle, at_start: set[str]) -> State:
    """What a start reads stays as it is, so its settings are those of before, whatever their digests: another key made
    them (``apply --local`` before there was a cluster), or another version of the operator.

    One that is new by name is in force if the runtime started when all of it was on the disk already.
    """
    old, new = state.start_settings, bundle.start_settings
    read = all((host.modified(path) or 0) < state.runtime_start for path in at_start)
    in_force = {
        name: value if state.in_force.get(name) == old.get(name) else state.in_force.get(name, memory.UNKNOWN)
        for name, value in new.items()
        if name in old or read
    }
    return replace(state, start_settings=new, in_force=in_force)


def _begin(host: Host, state: State, bundle: Bundle) -> State:
    """Put on record what is about to be written: from here on the disk may have a part of it."""
    changed = state.start_settings != bundle.start_settings
    state = replace(
        state,
        writing=bundle.revision,
        writing_settings=bundle.start_settings,
        edits={**state.edits, **{edit.path: edit for edit in bundle.edits}},
        written_at=time.time_ns() if changed else state.written_at,
    )
    memory.save(host, state)
    return state


def _end(host: Host, state: State, bundle: Bundle) -> State:
    changed = state.start_settings != bundle.start_settings
    state = replace(
        state,
        # What the runtime runs with is on the disk again: there is nothing to prove, and nothing to go back to.
        good=state.good if bundle.start_settings != state.in_force else None,
        revision=bundle.revision,
        start_settings=bundle.start_settings,
        written_at=time.time_ns() if changed else state.written_at,
        writing="",
        writing_settings={},
    )
    memory.save(host, state)
    return state


def _check_again(state: State, bundle: Bundle, facts: RuntimeFacts) -> None:
    """Check a bundle; one that was good before is waited for: the runtime's directories are others now.

    Raises InvalidError and WaitingError.
    """
    try:
        check(bundle, facts)
    except InvalidError:
        if bundle.runtime != facts.name or state.revision != bundle.revision:
            raise
        text = "the runtime has other directories now: waiting for the controller to render for these"
        raise WaitingError("RuntimeMoved", text, after=5.0) from None


def check(bundle: Bundle, facts: RuntimeFacts) -> None:
    """Refuse a bundle that is not for this runtime or that would write elsewhere; raises InvalidError."""
    errors = tuple(_bundle_errors(bundle, facts))
    if errors:
        raise InvalidError(f"bundle {bundle.name}", errors[:5], "BundleRefused")


def _bundle_errors(bundle: Bundle, facts: RuntimeFacts) -> Iterator[FieldError]:
    if bundle.runtime != facts.name:
        yield FieldError("runtime", bundle.runtime, f"this node runs {facts.name}")
    if len(bundle.files) > _MAX_FILES:
        yield FieldError("files", f"{len(bundle.files)} files", f"at most {_MAX_FILES} are accepted")
    allowed, seen = layout(facts), set()
    for index, file in enumerate(bundle.files):
        where = f"files[{index}]"
        if not allowed.allows(file.path):
            yield FieldError(where, repr(file.path[:200]), f"it is not a file of {facts.name} on this node")
        if is_temporary(file.path):
            yield FieldError(where, repr(file.path[:200]), "the agent uses such names for files in the making")
        if file.path in seen:
            yield FieldError(where, repr(file.path[:200]), "it is there twice")
        if file.mode not in (PUBLIC_MODE, SECRET_MODE):
            yield FieldError(where, f"mode {file.mode:o}", f"{PUBLIC_MODE:o} and {SECRET_MODE:o} are accepted")
        if len(file.content) > _MAX_SIZE:
            yield FieldError(where, f"{len(file.content)} characters", f"at most {_MAX_SIZE} are accepted")
        seen.add(file.path)
    for index, edit in enumerate(bundle.edits):
        for text in ("it is there twice",) if edit.path in seen else edits.problems(edit, allowed):
            yield FieldError(f"edits[{index}]", repr(edit.path[:200]), text)
        seen.add(edit.path)


def _differs(host: Host, file: File) -> bool:
    found = host.read(file.path)
    if found is None or found.uid != os.geteuid():
        return True
    return found.mode != file.mode or found.content != file.content.encode()


def _without_header(host: Host, file: File) -> bool:
    """Tell whether a hosts.toml is as K3s writes it at every start: ours but for the headers, which have credentials.

    That is nobody's change: K3s hands the credentials to containerd another way (runtimes.md, Credentials).
    """
    if not file.path.endswith("/hosts.toml"):
        return False
    found = host.read(file.path)
    try:
        there = tomllib.loads(found.content.decode()) if found is not None else {}
        return bool(there) and _no_headers(there) == _no_headers(tomllib.loads(file.content))
    except ValueError:
        return False


def _no_headers(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _no_headers(value) if isinstance(value, dict) else value for key, value in table.items() if key != "header"
    }


def waiting_for_restart(state: State) -> tuple[str, ...]:
    """Name the settings that the runtime does not have yet, or still has, until it starts again."""
    names = {*state.start_settings, *state.in_force}
    return tuple(sorted(name for name in names if state.start_settings.get(name) != state.in_force.get(name)))


def runtime_started(state: State, started_at: int | None) -> State:
    """Take note of a start of the runtime: what was on disk before it is in force now.

    ``started_at`` is when the runtime made its socket, in nanoseconds since 1970, or None if that is not known. A
    different time is another start, be it earlier: clocks are set back. Where times can be compared, a start before
    the last write does not count.
    """
    if started_at is None or started_at == state.runtime_start:
        return state
    state = replace(state, runtime_start=started_at)
    if started_at <= state.written_at <= time.time_ns():
        return state
    return replace(state, in_force=memory.on_disk(state))
