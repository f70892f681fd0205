"""What the host keeps while files of ours are on it: how to put back what was there before, for when nobody else will.

A node that is away while the operator is uninstalled comes back without an agent. systemd runs a script every half an
hour then, and after each boot. The script is written before the first change that it can undo, and goes with the last.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec
from msgspec.structs import replace

from ..api.errors import TransientError
from ..api.models import RuntimeFacts
from ..core.layout import MICROK8S, layout
from . import absence_script as scripts, edits, state as memory
from .absence_script import FOLDER, SCRIPT, Revert
from .edits import Change
from .host import Host, HostError, HostFile
from .restart import in_flight
from .rollback import Restore
from .service import kept
from .state import Original, State

_log = logging.getLogger(__name__)

_NAME = "registry-mirror-absence"
_NEXT = f"{FOLDER}/next.json"
_SEEN = f"{FOLDER}/seen"
_BEGAN = f"{FOLDER}/began"
_SKIPPED = f"{FOLDER}/skipped"
_DIGEST_LENGTH = 64
_REVISION = re.compile(rf"{MICROK8S}/([^/]+)/args/")


class Periodic(Protocol):
    """What is needed of the host's service manager. Every method raises ServiceError."""

    def scheduled(self, name: str) -> bool:
        """Tell whether a timer of that name is going to run something."""

    def shell(self, name: str, script: str) -> None:
        """Have the host's shell do something, and wait for its end."""


@dataclass(frozen=True, slots=True)
class _Known:
    """All that the script is made of: as long as that is the same, so is the script."""

    state: State
    contents: dict[str, bytes]


class Absence:
    """The script on the host, and what it needs. ``after`` is for how many seconds no agent must have been seen.

    With 0 there is none. With None, one that is there already is kept up to date, and none is made: for what works on
    a node without being its agent.
    """

    def __init__(
        self, host: Host, service: Periodic | None, after: float | None, now: Callable[[], float] = time.time
    ) -> None:
        """Take the host's files, its service manager (None: it has none that runs such a script) and a clock."""
        self._host = host
        self._service = service
        self._after = after if service is not None or after == 0 else None
        self._now = now
        self._known: _Known | None = None
        self._installed = False
        self._back = False

    def returned(self, state: State) -> State:
        """Give the record to begin with. Where the script has begun and not ended, what is on the disk is between two
        states, as after a crash. Raises HostError.
        """
        if self._back or in_flight(state):
            return state
        self._back = True
        if not self._host.exists(_BEGAN):
            return state
        found = self._host.read(_SKIPPED)
        said = found.content.decode(errors="replace").splitlines() if found is not None else []
        _log.warning("no agent was there for long, and the node began to restore itself: %s", "; ".join(said) or "all")
        if state.revision and not state.writing:
            state = replace(state, writing=state.revision, writing_settings=state.start_settings)
            memory.save(self._host, state)
        for path in (_BEGAN, _SKIPPED):
            self._host.remove(path, with_directory=False)
        return state

    def keep(self, state: State, facts: RuntimeFacts, coming: Iterable[Change] = ()) -> None:
        """Have the host know how to undo what is on it, and what is about to be put on it.

        ``state`` has to be on record. Raises HostError.
        """
        if self._after == 0 or (self._after is None and not self._kept()):
            return
        contents = {path: found for path in state.edits if (found := self._host.read(path)) is not None}
        known = _Known(state, {path: found.content for path, found in contents.items()})
        new = tuple(coming)
        if new or known != self._known:
            self._write(state, facts, contents, new)
            self._known = known if not new else None
        if self._after is not None:
            self._install(self._after)

    def settle(self, state: State, facts: RuntimeFacts) -> None:
        """Do what is to be done when nothing is going on: keep all that is needed, and nothing else. Raises HostError.

        What a restart may still go back to stays known.
        """
        if in_flight(state):
            return
        if state.originals or state.writing:
            self.keep(state, facts)
        if self._after == 0 or not (state.originals or state.writing):
            self.forget()

    def forget(self) -> None:
        """Have nothing happen any more, the script first: without it, nothing of the rest counts. Raises HostError."""
        self._known = None
        if not self._host.names(FOLDER, unfinished=True):
            return
        self._host.remove(SCRIPT, with_directory=False)
        self._shell(kept.forget(_NAME))
        for name in self._host.names(FOLDER, unfinished=True):
            self._host.remove(f"{FOLDER}/{name}", with_directory=False)
        self._host.remove_empty(FOLDER)
        self._installed = False

    # ---- the parts -----------------------------------------------------------------------------------------------

    def _kept(self) -> bool:
        return self._host.exists(SCRIPT)

    def _write(
        self, state: State, facts: RuntimeFacts, contents: dict[str, HostFile], coming: tuple[Change, ...]
    ) -> None:
        """Copies first, the script last: whichever of the two is there then, it finds what it needs."""
        later = {path for path in state.originals if _is_named_by_the_runtime(state, path, layout(facts).tls)}
        copies: dict[str, bytes] = {}
        reverts = [self._revert(state, path, contents, coming, copies) for path in state.edits]
        for name, content in copies.items():
            self._put(f"{FOLDER}/{name}", content)
        self._put(_NEXT, msgspec.json.encode(_afterwards(state, later)))
        text = scripts.script(
            reverts,
            [_restore(state, path) for path in state.originals if path not in state.edits and path not in later],
            [_restore(state, path) for path in state.originals if path in later and path not in state.edits],
            state.directories,
            next((found[1] for path in state.originals if (found := _REVISION.match(path))), ""),
        )
        self._put(SCRIPT, text.encode())
        for name in self._host.names(FOLDER, unfinished=True):
            if len(name) == _DIGEST_LENGTH and name not in copies:
                self._host.remove(f"{FOLDER}/{name}", with_directory=False)

    def _put(self, path: str, content: bytes) -> None:
        found = self._host.read(path)
        if found is None or found.content != content:
            self._host.stage(path, content, 0o600).commit()

    def _revert(
        self,
        state: State,
        path: str,
        contents: dict[str, HostFile],
        coming: tuple[Change, ...],
        copies: dict[str, bytes],
    ) -> Revert:
        """Give what each content that the file may have becomes without us; they are put into ``copies`` by name."""
        original = state.originals[path]
        now = contents.get(path)
        mode, owner = (
            (now.mode, (now.uid, now.gid)) if now is not None else (original.mode, (original.uid, original.gid))
        )
        found = [now] if now is not None else []
        found += [HostFile(item.content, item.mode, *item.owner) for item in coming if item.path == path]
        good = state.good.files.get(path, Original()) if state.good is not None else Original()
        back = self._host.read(good.copy) if good.copy else None
        found += [back] if back is not None else []
        pairs = {}
        for item in found:
            if edits.holds_secret(state.edits[path], item):
                mode = original.mode
            try:
                without = memory.own_content(self._host, state, path, item)
            except HostError as error:  # such a file is left as it is
                _log.warning("%s: %s", error.reason, error.message)
                continue
            pairs[_copy(item.content, copies)] = _copy(without, copies)
        return Revert(path=path, mode=mode, uid=owner[0], gid=owner[1], pairs=tuple(pairs.items()))

    def _install(self, after: float) -> None:
        if self._installed:
            return
        self._installed = True
        now = int(self._now())
        found = self._host.read(_SEEN)
        seen, _, told = found.content.decode(errors="replace").partition(" ") if found is not None else ("", "", "")
        fresh = seen.isdigit() and 0 <= now - int(seen) < scripts.STAMP
        if not fresh or told.strip() != f"{after:.0f}":
            self._put(_SEEN, f"{now} {after:.0f}\n".encode())
        try:
            if self._service is not None and not self._service.scheduled(_NAME):
                self._service.shell(_NAME, kept.keep(self._host, FOLDER, _NAME, SCRIPT))
        except TransientError as error:
            _log.warning("this node will not restore itself when the operator is gone: %s", error.message)

    def _shell(self, script: str) -> None:
        try:
            if self._service is not None:
                self._service.shell(_NAME, script)
        except TransientError as error:  # the units take themselves back once the script is not there
            _log.warning("forget %s: %s", _NAME, error.message)


def _copy(content: bytes, copies: dict[str, bytes]) -> str:
    name = hashlib.sha256(content).hexdigest()
    copies[name] = content
    return name


def _restore(state: State, path: str) -> Restore:
    item = state.originals[path]
    ours = not item.copy and path.rpartition("/")[0] in state.directories
    return Restore(path=path, copy=item.copy, mode=item.mode, uid=item.uid, gid=item.gid, with_directory=ours)


def _is_named_by_the_runtime(state: State, path: str, tls: str) -> bool:
    """A CA file that is gone fails every pull (runtimes.md, trap 1): it stays until the runtime has started again."""
    return path.rpartition("/")[0] == tls and bool(state.in_force or memory.on_disk(state))


def _afterwards(state: State, later: set[str]) -> State:
    """Give the record once all but those paths is as it was before us."""
    return State(
        originals={path: item for path, item in state.originals.items() if path in later},
        directories=state.directories if later else (),
        in_force=state.in_force,
        runtime_start=state.runtime_start,
        unit=state.unit,
        written_at=state.written_at,
    )
