"""A machine around an agent, all of it on the disk, so that the agent may die: a clock that the test moves, a service
manager, a runtime that reads its files when it starts, a node's heartbeat, and the host's dead-man, whose script a real
shell runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from registry_mirror.agent import rollback
from registry_mirror.agent.cri import Health, Runtime, RuntimeAnswerError
from registry_mirror.agent.engine import READERS, Engine, Order, Pass
from registry_mirror.agent.environment import Started
from registry_mirror.agent.host import Host
from registry_mirror.agent.live import RANCHER, Live
from registry_mirror.agent.service import Kind, ServiceError, Unit
from registry_mirror.agent.signs import Tools
from registry_mirror.agent.state import DIRECTORY
from registry_mirror.api.errors import WaitingError
from registry_mirror.core.bundle import Bundle
from tests.agent import trees

UNIT = "k3s.service"
DEADLINE = 20.0
_EPOCH = 1_700_000_000.0
_BEAT = 3.0
_MAX_PASSES = 500
_PATHS = re.compile(r"(?<![\w}])/(?=(?:etc|var/lib)/)")


class Facts(Struct):
    """What holds of the machine. ``fault`` is what goes wrong with a start that reads ``poison`` (see World)."""

    fault: str = ""
    poison: str = ""
    now: float = 1000.0
    boot: str = "first"
    step: float = 0.0  # of the wall clock
    active: str = "active"
    entered: int = 1
    restarts: int = 0
    healthy: bool = True
    beating: bool = True
    beat: float = 0.0
    beat_said: str = ""
    ordered: bool = False
    ordered_once: bool = False
    timer: float | None = None
    timer_command: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


class World:
    """Takes a directory of its own. Faults of a start that reads ``poison``: ``refuses`` (the service fails), ``hangs``
    (nobody answers), ``mute`` (no heartbeat comes). ``bus``: from the first restart on, the service manager answers the
    agent no more until `mend` is called; it works all the same.
    """

    def __init__(self, work: Path, fault: str = "", poison: str = "") -> None:
        self.work = work
        self.root = work / "host"
        self.host = Host(self.root)
        self.step: Callable[[], None] = lambda: None
        """Called before and after everything that the machine does for the agent."""
        self._file = work / "world.json"
        if not self._file.exists():
            self.root.mkdir(parents=True)
            (work / "bin").mkdir()
            for name in ("systemctl", "sleep"):
                program = work / "bin" / name
                program.write_text(f'#!/bin/sh\necho "{name} $*" >>"$CALLS"\n')
                program.chmod(0o755)
            self._save(Facts(fault=fault, poison=poison))
            self._start(self.facts())

    def copy(self, work: Path) -> World:
        """Give another one that is in the same state."""
        shutil.copytree(self.work, work, symlinks=True)
        return World(work)

    def facts(self) -> Facts:
        """Read what holds now."""
        return msgspec.json.decode(self._file.read_bytes(), type=Facts)

    def change(self, **values: object) -> None:
        """Set what holds from now on."""
        facts = self.facts()
        for name, value in values.items():
            setattr(facts, name, value)
        self._save(facts)

    def _save(self, facts: Facts) -> None:
        self._file.write_bytes(msgspec.json.encode(facts))

    # ---- time and what comes with it -----------------------------------------------------------------------------

    def boot(self) -> str:
        """Give the id of the boot."""
        return self.facts().boot

    def seconds(self) -> float:
        """Give the seconds since boot."""
        return self.facts().now

    def wall(self) -> str:
        """Give the time of day, as the API writes it."""
        facts = self.facts()
        return _text(_EPOCH + facts.now + facts.step)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        facts = self.facts()
        facts.now += seconds
        if facts.ordered:
            facts.ordered = False
            self._start(facts)
        if facts.beating and facts.now - facts.beat >= _BEAT:
            facts.beat, facts.beat_said = facts.now, _text(_EPOCH + facts.now + facts.step)
        due = facts.timer is not None and facts.now >= facts.timer
        self._save(facts)
        if due:
            self.roll_back()

    def roll_back(self) -> None:
        """Run the dead-man's script, and do what it asked the service manager for."""
        script = self.root / DIRECTORY[1:] / "restart/rollback.sh"
        here = self.work / "rollback.sh"
        here.write_text(_PATHS.sub(f"{self.root}/", script.read_text()) if script.exists() else "exit 127")
        calls = self.work / "calls"
        calls.unlink(missing_ok=True)
        path = f"{self.work}/bin:{os.environ['PATH']}"
        done = subprocess.run(["sh", str(here)], env={"PATH": path, "CALLS": str(calls)}, check=False, timeout=60)
        facts = self.facts()
        if done.returncode == 0:
            facts.timer = None
        if calls.exists() and "restart" in calls.read_text():
            self._start(facts)
        self._save(facts)

    def reboot(self) -> None:
        """Lose the power: what is transient is gone, and the runtime starts from what is on the disk."""
        shutil.rmtree(self.root / "run", ignore_errors=True)
        self.change(boot=f"{self.boot()}+", now=50.0, beat=50.0, timer=None, ordered=False)
        self.start()

    def start(self) -> None:
        """Somebody restarts the runtime."""
        self._start(self.facts())

    def _start(self, facts: Facts) -> None:
        """The runtime starts, from the files that are there now."""
        file = self.root / trees.REGISTRIES[1:]
        read = file.read_text() if file.exists() else ""
        facts.reads = (*facts.reads, read)
        fault = facts.fault if facts.poison and facts.poison == read else ""
        facts.entered = int((_EPOCH + facts.now + facts.step) * 1_000_000)
        facts.restarts = 4 if fault == "refuses" else 0
        facts.active = "failed" if fault == "refuses" else "active"
        facts.healthy = fault not in ("refuses", "hangs")
        facts.beating = facts.healthy and fault != "mute"
        self._save(facts)
        if fault != "refuses":
            socket = trees.put(self.root, RANCHER)
            os.utime(socket, ns=(time.time_ns(),) * 2)

    # ---- the service manager ---------------------------------------------------------------------------------------

    @property
    def kind(self) -> Kind:
        """Say which."""
        return "systemd"

    def _answers(self) -> Facts:
        facts = self.facts()
        if facts.fault == "bus" and facts.ordered_once:
            raise ServiceError("ServiceManagerTimeout", "systemd did not answer within 10 s")
        return facts

    def mend(self) -> None:
        """Have the service manager answer again."""
        self.change(fault="")

    def unit(self, name: str) -> Unit | None:
        """Give the runtime's service."""
        facts = self._answers()
        return Unit(name=name, active=facts.active, restarts=facts.restarts, entered_at=facts.entered)

    def restart(self, name: str) -> None:
        """Take the order."""
        self.step()
        self._answers()
        self.change(ordered=True, ordered_once=True)
        self.step()
        self._answers()

    def schedule(self, name: str, after_seconds: float, argv: tuple[str, ...]) -> None:
        """Set the timer."""
        self.step()
        self.change(timer=self._answers().now + after_seconds, timer_command=argv)
        self.step()

    def scheduled(self, name: str) -> bool:
        """Tell whether it is set."""
        return self._answers().timer is not None

    def run_now(self, name: str, argv: tuple[str, ...]) -> None:
        """Run the script; the timer stays until it has ended well."""
        self.step()
        assert argv == rollback.command()
        self._answers()
        self.roll_back()
        self.step()

    def cancel(self, name: str) -> None:
        """Take the timer back."""
        self.step()
        self._answers()
        self.change(timer=None)
        self.step()

    def running(self, name: str) -> bool:
        """Tell that nothing runs: it takes no time here."""
        return False

    def log(self, unit: str, since_usec: int, lines: int) -> tuple[str, ...]:
        """Give what the runtime said."""
        self._answers()
        return ("line of the runtime",)

    # ---- the agent ---------------------------------------------------------------------------------------------------

    def engine(self) -> Engine:
        """Give an agent's engine that has just been started."""
        tools = Tools(self, _Answers(self), self, self.wall, self._heartbeat, api_depends=True)

        socket = self.root / RANCHER[1:]

        def look() -> tuple[Live, ...]:
            if self.facts().active == "active":
                return (Live(socket=RANCHER, state="Listening", name="k3s", pid=1, unit=UNIT),)
            return (Live(socket=RANCHER, state="Dead", name="k3s"),) if socket.exists() else ()

        def started(_: str) -> Started | None:
            return None

        return Engine(self.host, "k3s", self, lambda *_: tools, look, started)

    def _heartbeat(self) -> str:
        return self.facts().beat_said

    def run(self, wanted: Bundle, engine: Engine | None = None, *, restart: bool = True) -> Pass:
        """Let an agent work until it waits for nothing any more; gives its last pass."""
        engine = engine or self.engine()
        order = Order(fetch=lambda: wanted, restart_allowed=restart, deadline=DEADLINE)
        for _ in range(_MAX_PASSES):
            done = engine.run(order)
            if isinstance(done.problem, WaitingError):
                self.advance(max(done.problem.after, 1.0))
            elif done.outcome.held:
                self.advance(READERS)
            else:
                return done
        raise AssertionError(f"it never comes to an end: {done.problem}")


class _Answers(Runtime):
    """The runtime's own answers."""

    def __init__(self, world: World) -> None:
        super().__init__(Path("/nowhere"))
        self._world = world

    def health(self) -> Health:
        """Say that all is well, or nothing."""
        if not self._world.facts().healthy:
            raise RuntimeAnswerError("RuntimeNotAnswering", "no answer within 10 s")
        return Health(name="containerd", version="v2", ready=True, images=True)

    def busy(self) -> int:
        """Give that nothing is being made."""
        return 0


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
