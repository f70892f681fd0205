"""Passwords that change while pulls go on, as docs/runtimes.md says of them: live, or with the next start.

The agent's engine runs in the node, as one process; containerd and the registries are real.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from tests.benchmarks.load import LiveEngine, Pulling, secret, timed_pull
from tests.harness.cluster import mirror
from tests.harness.node import Node
from tests.harness.registries import Registries, Registry
from tests.nodes.conftest import MakeNode

ROTATIONS = 10
_NAME = "private.test"


def documents(registry: Registry, user: str, password: str) -> list[Mapping[str, Any]]:
    """The objects that have a node ask the registry with that password."""
    endpoint = {"url": registry.url, "credentialsRef": {"name": "robot"}}
    return [mirror("private", _NAME, endpoints=[endpoint]), secret("robot", user, password)]


def offer(registry: Registry, tag: str) -> str:
    """Have the registry offer a new image; gives its name as pods have it."""
    registry.push("team/app", tag)
    return f"{_NAME}/team/app:{tag}"


def rotate(
    node: Node, registry: Registry, accept: Callable[[Sequence[tuple[str, str]]], None], user: Callable[[int], str]
) -> None:
    """Change the password again and again while pulls go on, then ask with one that is accepted no more.

    ``accept`` is told users and passwords, old and new during a change; ``user`` gives the n-th.
    """
    accept([(user(0), "password-0")])
    with LiveEngine(node) as engine:
        engine.apply(*documents(registry, user(0), "password-0"))
        before = node.runtime_pid
        with Pulling(node, lambda number: offer(registry, f"load-{number}")) as load:
            for number in range(1, ROTATIONS + 1):
                accept([(user(number - 1), f"password-{number - 1}"), (user(number), f"password-{number}")])
                answer = engine.apply(*documents(registry, user(number), f"password-{number}"))
                assert answer.written
                assert not answer.waiting
                load.settle()
                accept([(user(number), f"password-{number}")])
                check = timed_pull(node, offer(registry, f"check-{number}"))
                assert not check.error, f"with password {number}: {check.error}"
        assert not load.failed, "\n".join(pull.error for pull in load.failed)
        assert len(load.pulls) >= ROTATIONS
        # Nothing else lets anybody in: an old password is refused.
        engine.apply(*documents(registry, user(0), "password-0"))
        assert timed_pull(node, offer(registry, "refused")).error
        assert node.runtime_pid == before


def test_basic_passwords_rotate_live_under_load(new_node: Node, registries: Registries) -> None:
    registry = registries.basic("basic-rotated", {})
    # htpasswd has one password a user: so the user changes too.
    rotate(
        new_node,
        registry,
        lambda known: registries.set_passwords(registry, dict(known)),
        lambda number: f"robot-{number}",
    )
    assert {item.status for item in registry.requests("/manifests/load-")} == {200}


def test_token_passwords_rotate_live_under_load_from_2_1(new_node: Node, registries: Registries) -> None:
    known: dict[str, set[str]] = {}
    registry, service = registries.token("token-rotated", known)

    def accept(passwords: Sequence[tuple[str, str]]) -> None:
        known["robot"] = {password for _, password in passwords}

    rotate(new_node, registry, accept, lambda _: "robot")
    assert {asked.user for asked in service.requests} == {"robot"}


@pytest.fixture
def old(make_node: MakeNode) -> Node:
    """A node of its own: settings that wait for a start are those of one test."""
    return make_node("containerd16")


def test_basic_passwords_are_live_on_1_6_though_a_start_is_asked_for(old: Node, registries: Registries) -> None:
    registry = registries.basic("basic-1-6", {"robot": "first"})
    with LiveEngine(old) as engine:
        before = old.runtime_pid
        answer = engine.apply(*documents(registry, "robot", "first"), restart=False)
        # Nobody can know that this registry needs no token.
        assert answer.waiting
        pulled = timed_pull(old, offer(registry, "first"))
        assert not pulled.error
        registries.set_passwords(registry, {"robot": "second"})
        assert timed_pull(old, offer(registry, "between")).error
        engine.apply(*documents(registry, "robot", "second"), restart=False)
        assert not timed_pull(old, offer(registry, "second")).error
        assert old.runtime_pid == before


def test_a_token_registry_serves_1_6_after_the_one_start_that_it_takes(old: Node, registries: Registries) -> None:
    registry, service = registries.token("token-1-6", {"robot": {"first"}})
    with LiveEngine(old) as engine:
        before = old.runtime_pid
        answer = engine.apply(*documents(registry, "robot", "first"), restart=False)
        assert answer.waiting
        refused = timed_pull(old, offer(registry, "early"))
        assert "failed to fetch anonymous token" in refused.error
        answer = engine.apply(*documents(registry, "robot", "first"))
        assert answer.restarted == old.flavour.unit
        assert not answer.waiting
        assert old.runtime_pid != before
        assert not timed_pull(old, offer(registry, "first")).error
        assert service.requests[-1].user == "robot"

        # The old one holds until the next start, so it has to be accepted until then.
        before = old.runtime_pid
        service.passwords["robot"] = {"first", "second"}
        answer = engine.apply(*documents(registry, "robot", "second"), restart=False)
        assert answer.waiting
        assert not timed_pull(old, offer(registry, "between")).error
        service.passwords["robot"] = {"second"}
        assert timed_pull(old, offer(registry, "too-soon")).error
        assert engine.apply(*documents(registry, "robot", "second")).restarted == old.flavour.unit
        assert not timed_pull(old, offer(registry, "second")).error
        assert old.runtime_pid != before


def test_apply_local_does_the_same_by_itself(old: Node, registries: Registries) -> None:
    registry, _ = registries.token("token-local", {"robot": {"first"}})
    text = "\n---\n".join(json.dumps(item) for item in documents(registry, "robot", "first"))
    old.write("/root/mirrors.json", text, mode=0o600)
    command = [sys.executable, "-m", "registry_mirror.cli.main", "apply", "--local", "-f", "/root/mirrors.json"]
    answer = old.run(*command, timeout=90.0)
    assert answer.returncode == 0, answer.stderr
    assert f"restarted {old.flavour.unit}" in answer.stdout.splitlines()
    assert not timed_pull(old, offer(registry, "first")).error
