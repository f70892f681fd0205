"""A runtime that quotes its configuration when it cannot read it: its words reach the status, its secrets do not."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from registry_mirror.agent import hidden, state as memory
from registry_mirror.agent.engine import Order
from registry_mirror.agent.restart import in_flight
from registry_mirror.core.bundle import Bundle
from tests.agent.trees import REGISTRIES, bundle
from tests.agent.world import DEADLINE, World

OLD_SECRET, NEW_SECRET = "canary-of-the-old-one", "canary-of-the-new-one"


def registries(secret: str) -> str:
    """A registries.yaml with a password."""
    return json.dumps({"configs": {"r.example": {"auth": {"username": "robot", "password": secret}}}})


OLD = bundle("old", {REGISTRIES: registries(OLD_SECRET)}, {"credentials": "d1"})
NEW = bundle("new", {REGISTRIES: registries(NEW_SECRET)}, {"credentials": "d2"})


class Quoting(World):
    """Its runtime says what it has read last, and before that."""

    def log(self, unit: str, since_usec: int, lines: int) -> tuple[str, ...]:
        """Give what the runtime said."""
        said = [f'time="now" level=error msg="cannot read: {read}"' for read in self.facts().reads if read]
        pairs = [base64.b64encode(f"robot:{secret}".encode()).decode() for secret in (OLD_SECRET, NEW_SECRET)]
        return (*said, *(f"Authorization: Basic {pair}" for pair in pairs), "the end")


@pytest.fixture
def node(tmp_path: Path) -> Quoting:
    """A node with OLD in force, on which NEW does not start."""
    found = Quoting(tmp_path, "refuses", registries(NEW_SECRET))
    assert found.run(OLD).problem is None
    return found


def check(node: World, wanted: Bundle) -> None:
    """It went back, and says so without any secret."""
    done = node.run(wanted)
    assert done.problem is not None
    assert done.problem.reason == "RolledBack"
    state = memory.load(node.host)
    assert state.attempt is not None
    assert state.attempt.log[-1] == "the end"
    told = "\n".join([done.problem.message, state.attempt.message, *state.attempt.log])
    assert "cannot read" in told
    for secret in (OLD_SECRET, NEW_SECRET):
        assert secret not in told
        assert base64.b64encode(f"robot:{secret}".encode()).decode()[:-3] not in told
    kept = {str(path.relative_to(node.root)) for path in node.root.rglob("*") if path.is_file()}
    assert not [path for path in kept if path.endswith("restart/secrets")], "nothing is left of what was remembered"


def test_what_the_runtime_quotes_is_hidden(node: Quoting) -> None:
    check(node, NEW)


def test_it_is_hidden_too_where_the_host_has_gone_back_by_itself(node: Quoting) -> None:
    # Then the files of the new revision are gone, and nobody can look into them any more.
    engine = node.engine()
    order = Order(fetch=lambda: NEW, restart_allowed=True, deadline=DEADLINE)
    while not in_flight(memory.load(node.host)):
        engine.run(order)
        node.advance(1.0)
    node.roll_back()
    assert (node.root / REGISTRIES[1:]).read_text() == registries(OLD_SECRET)
    check(node, NEW)


def test_nothing_is_shown_where_a_file_does_not_tell(node: Quoting) -> None:
    state = memory.load(node.host)
    path = node.root / REGISTRIES[1:]
    path.unlink()
    path.symlink_to("/etc/hostname")
    (line,) = hidden.shown(node.host, state, (f"it is {OLD_SECRET}",))
    assert OLD_SECRET not in line
