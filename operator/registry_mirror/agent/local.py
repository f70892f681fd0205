"""The agent's engine on one node without a cluster: for bootstrap, air gap, and to leave a node as it was."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..api.errors import ProblemError, WaitingError
from ..api.models import RuntimeFacts
from ..core.bundle import Bundle
from ..core.layout import layout
from ..core.masked import diff
from . import edits, state as memory
from .absence import Absence
from .apply import check, runtime_started, waiting_for_restart
from .engine import Engine, Order, Pass
from .host import Host, HostFile
from .live import SOCKETS, Live
from .provisioned import heed
from .restart import in_flight, rejected

_KEY = f"{memory.DIRECTORY}/digest-key"
_KEY_BYTES = 32
_NOTHING, _NOTHING_AGAIN = "none", "none-again"
_MAX_PASSES = 2000
_HELD = 1.0
_BY_ITSELF = -1  # state.Attempt.entered of a start that nobody asked for

Found = tuple[RuntimeFacts, Live | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What applying a bundle would do: the diff, without secrets, and the settings that would wait for a restart."""

    paths: tuple[str, ...]
    diff: tuple[str, ...]
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What was done; ``waiting`` are the settings that still wait for a restart, ``restarted`` names the service."""

    written: tuple[str, ...]
    restored: tuple[str, ...]
    waiting: tuple[str, ...]
    restarted: str = ""


class LocalNode:
    """The node that the program runs on, changed by a person or a script instead of by a controller."""

    def __init__(
        self,
        host: Host,
        engine: Engine,
        find: Callable[[memory.State], Found],
        absence: Absence,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the host's files, the engine that changes them, what finds the runtime without changing anything (given
        the record; raises ProblemError), and what an agent may have left for when it is gone.
        """
        self._host = host
        self._engine = engine
        self._find = find
        self._absence = absence
        self._sleep = sleep

    def facts(self) -> RuntimeFacts:
        """Give what was found of the runtime. Raises ProblemError."""
        return self._find(memory.load(self._host))[0]

    def key(self, *, keep: bool = True) -> bytes:
        """Give the key for digests on this node; it is made at the first time, and then ``keep`` says whether it is
        written down. Raises HostError.
        """
        found = self._host.read(_KEY)
        if found is not None and len(found.content) == _KEY_BYTES:
            return found.content
        key = secrets.token_bytes(_KEY_BYTES)
        if keep:
            self._host.stage(_KEY, key, 0o600).commit()
        return key

    def untouched(self) -> bool:
        """Tell whether nothing of ours is on the node or in force, whatever runtime it has. Raises HostError."""
        state = memory.load(self._host)
        return not (state.originals or state.writing or in_flight(state) or waiting_for_restart(state))

    def nothing(self) -> Bundle:
        """Give the bundle of a node that has nothing of ours. Raises ProblemError."""
        name = self.facts().name
        # A revision that failed is not tried again, but whoever asks again has mended what kept the runtime from it.
        again = rejected(memory.load(self._host), _NOTHING) is not None
        return Bundle(revision=_NOTHING_AGAIN if again else _NOTHING, runtime=name, files=())

    def restore(self, *, restart: bool, deadline: float, report: Callable[[str], None]) -> Result:
        """Put back what was there before us, and forget all once nothing of ours is on the node or in force.

        Takes and raises the same as ``apply``.
        """
        if self.untouched():
            result = Result((), (), ())
        else:
            result = self.apply(self.nothing(), restart=restart, deadline=deadline, report=report)
        if not result.waiting:
            self._absence.forget()
            memory.remove(self._host)
        return result

    def plan(self, bundle: Bundle) -> Plan:
        """Say what applying the bundle would do; writes nothing. Raises ProblemError."""
        before = memory.load(self._host)
        facts, live = self._find(before)
        check(bundle, facts)
        before = heed(self._host, before, bundle, facts, look=True)
        state = runtime_started(before, self._host.modified(live.socket if live is not None else SOCKETS[facts.name]))
        lines: list[str] = []
        paths: list[str] = []
        for path, old, new in self._changes(state, bundle):
            paths.append(path)
            lines += diff(path, old, new)
        at_start = {*layout(facts).files, *layout(facts).edits, *state.edits}
        if state.revision and not at_start.intersection(paths):
            waiting = waiting_for_restart(state)
        else:
            names = {*bundle.start_settings, *state.in_force}
            waiting = tuple(sorted(n for n in names if bundle.start_settings.get(n) != state.in_force.get(n)))
        return Plan(tuple(paths), tuple(lines), waiting)

    def _changes(self, state: memory.State, bundle: Bundle) -> Iterable[tuple[str, str | None, str | None]]:
        """Give path, content now and content to be, for each file that would change."""
        for file in bundle.files:
            found = self._host.read(file.path)
            if found is None or found.content != file.content.encode() or found.mode != file.mode:
                yield file.path, _text(found.content if found is not None else None), file.content
        modes = {path: item.mode for path, item in state.originals.items()}
        for change in edits.changes(self._host, bundle.edits, modes):
            found = self._host.read(change.path)
            yield change.path, _text(found.content if found is not None else None), _text(change.content)
        wanted = {*(file.path for file in bundle.files), *(edit.path for edit in bundle.edits)}
        for path, original in state.originals.items():
            if path not in wanted:
                now = self._host.read(path)
                before = self._before(state, path, original, now)
                if before != (now.content if now is not None else None):
                    yield path, _text(now.content if now is not None else None), _text(before)

    def _before(self, state: memory.State, path: str, original: memory.Original, now: HostFile | None) -> bytes | None:
        if path in state.edits:
            return memory.own_content(self._host, state, path, now)
        found = self._host.read(original.copy) if original.copy else None
        return found.content if found is not None else None

    def apply(self, bundle: Bundle, *, restart: bool, deadline: float, report: Callable[[str], None]) -> Result:
        """Make the node so, and see a restart through to its end. ``report`` is told what is waited for.

        Raises ProblemError; of a restart that failed after the node has gone back.
        """
        order = Order(fetch=lambda: bundle, restart_allowed=restart, deadline=deadline)
        written: dict[str, None] = {}
        restored: dict[str, None] = {}
        before = memory.load(self._host).attempt
        for _ in range(_MAX_PASSES):
            done = self._engine.run(order)
            written.update(dict.fromkeys(done.outcome.written))
            restored.update(dict.fromkeys(done.outcome.restored))
            if isinstance(done.problem, WaitingError):
                report(done.problem.message)
                self._sleep(done.problem.after)
                continue
            if done.problem is not None and not _starts_later(done):
                raise done.problem
            if done.outcome.held:
                self._sleep(_HELD)
                continue
            assert done.state is not None
            attempt = done.state.attempt
            ours = attempt is not None and attempt != before and attempt.entered != _BY_ITSELF
            restarted = attempt.unit if attempt is not None and ours else ""
            return Result(tuple(written), tuple(restored), waiting_for_restart(done.state), restarted)
        raise ProblemError("RestartUnfinished", "the restart came to no end; see `systemctl status` of the runtime")


def _starts_later(done: Pass) -> bool:
    """Tell whether all that was missing is a restart of what does not run: as before a node's first boot is over."""
    assert done.problem is not None
    stopped = done.live is None or done.live.state in ("Dead", "Missing")
    return done.problem.reason == "RestartUnsupported" and stopped


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode(errors="replace")
