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
from . import edits
from . import state as memory
from .apply import check, waiting_for_restart
from .engine import Engine, Order
from .host import Host, HostFile

_KEY = f"{memory.DIRECTORY}/digest-key"
_KEY_BYTES = 32
_MAX_PASSES = 2000


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

    def __init__(self, host: Host, engine: Engine, sleep: Callable[[float], None] = time.sleep) -> None:
        self._host = host
        self._engine = engine
        self._sleep = sleep

    def facts(self) -> RuntimeFacts:
        """Give what was found of the runtime. Raises ProblemError."""
        done = self._engine.run(Order(fetch=lambda: None))
        if done.problem is not None and not isinstance(done.problem, WaitingError):
            raise done.problem
        assert done.facts is not None
        return done.facts

    def key(self) -> bytes:
        """Give the key for digests on this node; made at the first time. Raises HostError."""
        found = self._host.read(_KEY)
        if found is not None and len(found.content) == _KEY_BYTES:
            return found.content
        key = secrets.token_bytes(_KEY_BYTES)
        self._host.stage(_KEY, key, 0o600).commit()
        return key

    def nothing(self) -> Bundle:
        """Give the bundle of a node that has nothing of ours. Raises ProblemError."""
        return Bundle(revision="none", runtime=self.facts().name, files=())

    def forget(self, result: Result) -> None:
        """Remove what the agent remembers, once nothing of ours is on the node or in force. Raises HostError."""
        if not result.waiting:
            memory.remove(self._host)

    def plan(self, bundle: Bundle) -> Plan:
        """Say what applying the bundle would do; writes nothing. Raises ProblemError."""
        facts = self.facts()
        check(bundle, facts)
        state = memory.load(self._host)
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
            if done.problem is not None:
                raise done.problem
            assert done.state is not None
            attempt = done.state.attempt
            restarted = attempt.unit if attempt is not None and attempt != before else ""
            return Result(tuple(written), tuple(restored), waiting_for_restart(done.state), restarted)
        raise ProblemError("RestartUnfinished", "the restart came to no end; see `systemctl status` of the runtime")


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode(errors="replace")
