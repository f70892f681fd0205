"""A hundred live changes while pulls go on: none fails, nothing restarts, and each change holds from the next pull on.

The agent's engine runs in the node, as one process; containerd 2.4 and the registries are real.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.load import LiveEngine, Pulling, authority, secret, timed_pull, told
from tests.harness.authority import Authority
from tests.harness.cluster import mirror
from tests.harness.images import make_image
from tests.harness.node import Node
from tests.harness.registries import Registries, Registry

CHANGES = 100
AUTHORITIES = 12
_NAMES = ("open.test", "secure.test", "private.test", "moved.test")
_PASSWORDS = {"robot-a": "first", "robot-b": "second"}
_PREFIXES = ("one", "two")
_CA = re.compile(r"""ca = \[["']([^"']+)["']\]""")


@dataclass(frozen=True)
class World:
    """The registries, and what the n-th state of the objects says of them; each state differs in one thing."""

    one: Registry
    two: Registry
    three: Registry
    secure: Registry
    private: Registry
    certificates: tuple[str, str]

    def order(self, step: int) -> list[Registry]:
        """The endpoints for open.test: they change places, and a third one comes and goes."""
        found = [self.one, self.two] if _turns(step, 0) % 2 else [self.two, self.one]
        return [self.three, *found] if _turns(step, 1) % 2 else found

    def documents(self, step: int) -> list[Mapping[str, Any]]:
        """The objects of a step."""
        own, other = self.certificates
        certificates = ([own], [own, other], [other, own])[_turns(step, 2) % 3]
        user = sorted(_PASSWORDS)[_turns(step, 3) % 2]
        replacement = f"{_PREFIXES[_turns(step, 4) % 2]}/$1"
        ca = {"caRef": {"kind": "ConfigMap", "name": "ca", "key": "ca.crt"}}
        private = {"url": self.private.url, "credentialsRef": {"name": "robot"}}
        return [
            mirror("open", "open.test", *(registry.url for registry in self.order(step))),
            mirror("secure", "secure.test", endpoints=[{"url": self.secure.url, "tls": ca}]),
            mirror("private", "private.test", endpoints=[private]),
            mirror("moved", "moved.test", self.one.url, rewrites=[{"pattern": "^(.*)$", "replacement": replacement}]),
            authority("ca", *certificates),
            secret("robot", user, _PASSWORDS[user]),
        ]

    def offer(self, registry: str, tag: str) -> str:
        """Have all that serve a registry's images offer a new one; gives its name."""
        image = make_image()
        if registry == "open.test":
            for item in (self.one, self.two, self.three):
                item.push("team/app", tag, image)
        elif registry == "moved.test":
            for prefix in _PREFIXES:
                self.one.push(f"{prefix}/team/app", tag, image)
        else:
            (self.secure if registry == "secure.test" else self.private).push("team/app", tag, image)
        return f"{registry}/team/app:{tag}"

    def checked(self, step: int) -> str:
        """The registry on whose images the change of a step shows."""
        return ("open.test", "open.test", "secure.test", "private.test", "moved.test")[step % 5]

    def expected(self, step: int) -> tuple[Registry, str]:
        """Who has to be asked for the image that is pulled after a step, and under which path."""
        path = "/v2/team/app"
        if self.checked(step) == "open.test":
            return self.order(step)[0], path
        if self.checked(step) == "moved.test":
            return self.one, f"/v2/{_PREFIXES[_turns(step, 4) % 2]}/team/app"
        return (self.secure if self.checked(step) == "secure.test" else self.private), path


def _turns(step: int, kind: int) -> int:
    """How often the kind of change had its turn up to a step."""
    return (step + 5 - kind) // 5


@pytest.fixture(scope="module")
def certificates(registries: Registries, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """That of the authority that signs our registries' certificates, and that of another one."""
    directory: Path = tmp_path_factory.mktemp("other-authority")
    other = Authority(directory, "Another authority")
    return registries.authority.certificate.read_text(), other.certificate.read_text()


@pytest.fixture(scope="module")
def world(registries: Registries, certificates: tuple[str, str]) -> World:
    return World(
        registries.plain("one"),
        registries.plain("two"),
        registries.plain("three"),
        registries.tls("secure"),
        registries.basic("private", _PASSWORDS),
        certificates,
    )


def test_a_hundred_changes_under_load_fail_no_pull_and_restart_nothing(new_node: Node, world: World) -> None:
    waits: list[float] = []
    with LiveEngine(new_node) as engine:
        engine.apply(*world.documents(-1))
        before = new_node.runtime_pid
        with Pulling(new_node, lambda number: world.offer(_NAMES[number % 4], f"load-{number}")) as load:
            for step in range(CHANGES):
                answer = engine.apply(*world.documents(step))
                assert answer.written, f"change {step} changed nothing"
                assert not answer.restarted
                assert not answer.waiting
                waits.append(answer.seconds)
                check = timed_pull(new_node, world.offer(world.checked(step), f"check-{step}"))
                assert not check.error, f"after change {step}: {check.error}"
    assert not load.failed, "\n".join(pull.error for pull in load.failed)
    assert len(load.pulls) >= CHANGES
    assert new_node.runtime_pid == before
    assert new_node.show(new_node.flavour.unit, "NRestarts") == "0"
    _asked_whom_they_should(world)
    print(told("bundle to files in place", waits))
    print(told(f"{len(load.pulls)} pulls meanwhile", [pull.seconds for pull in load.pulls]))


def test_at_any_moment_the_authority_that_is_named_is_there(
    new_node: Node, registries: Registries, certificates: tuple[str, str]
) -> None:
    """A CA file that is missing fails the whole pull (docs/runtimes.md), so none may be named before it is there."""
    looking, _ = change_authorities(new_node, registries.tls("watched"), certificates, pause=0.0)
    assert not looking.missing, looking.missing[0]


def test_a_pull_that_has_read_which_authority_to_trust_still_finds_it(
    new_node: Node, registries: Registries, certificates: tuple[str, str]
) -> None:
    """Between its reading of hosts.toml and of the files that are named there, containerd may have to wait its turn."""
    looking, load = change_authorities(new_node, registries.tls("slowly"), certificates, pause=0.05)
    assert not looking.missing, looking.missing[0]
    assert not looking.gone, looking.gone[0]
    assert not load.failed, "\n".join(pull.error for pull in load.failed)


def change_authorities(
    node: Node, registry: Registry, certificates: tuple[str, str], pause: float
) -> tuple[Looking, Pulling]:
    """Change the CA of a mirror again and again while pulls go on, and its files are looked at as a pull would.

    ``pause`` is how long that takes between the two, in seconds.
    """
    name = f"{registry.name}.test"
    own, other = certificates
    states = ([own], [own, other], [other, own])
    tls = {"caRef": {"kind": "ConfigMap", "name": "ca", "key": "ca.crt"}}
    objects = mirror(registry.name, name, endpoints=[{"url": registry.url, "tls": tls}])

    def offer(number: int) -> str:
        registry.push("team/app", f"load-{number}")
        return f"{name}/team/app:load-{number}"

    with LiveEngine(node) as engine:
        engine.apply(objects, authority("ca", *states[0]))
        with Looking(node, name, pause) as looking, Pulling(node, offer) as load:
            for step in range(1, AUTHORITIES):
                answer = engine.apply(objects, authority("ca", *states[step % 3]))
                assert len(answer.written) == 2, "a new file, and the one that names it"
    assert len(looking.seen) == len(states)
    return looking, load


class Looking:
    """Reads hosts.toml and looks for the files that it names, as a pull does, while the `with` block goes on.

    ``missing`` is what was not there though it was named still; ``gone`` what was named when hosts.toml was read, and
    was not there ``pause`` seconds later (not looked for without a pause: nobody is as fast as that).
    """

    def __init__(self, node: Node, registry: str, pause: float) -> None:
        self.seen: set[str] = set()
        self.missing: list[str] = []
        self.gone: list[str] = []
        self._node = node
        self._pause = pause
        self._hosts = node.path(f"{node.flavour.certs}/{registry}/hosts.toml")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="looking", daemon=True)

    def __enter__(self) -> Looking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(0.0005):
            text = self._read()
            self._stop.wait(self._pause)
            for path in _CA.findall(text):
                self.seen.add(path)
                if not self._node.path(path).exists():
                    if self._read() == text:
                        self.missing.append(f"{path} is named and not there")
                    elif self._pause:
                        self.gone.append(f"{path} was named {self._pause:g} s ago and is not there")

    def _read(self) -> str:
        try:
            return self._hosts.read_text()
        except FileNotFoundError:
            self.missing.append(f"{self._hosts.name} is not there")
            return ""


def _asked_whom_they_should(world: World) -> None:
    everyone = (world.one, world.two, world.three, world.secure, world.private)
    asked = {registry.name: {item.path.split("?")[0] for item in registry.requests()} for registry in everyone}
    for step in range(CHANGES):
        registry, path = world.expected(step)
        # Who answers first is the only one to be asked: so nobody of an earlier order was.
        end = f"/manifests/check-{step}"
        who = [name for name, paths in asked.items() if any(item.endswith(end) for item in paths)]
        assert who == [registry.name], f"change {step}"
        assert f"{path}{end}" in asked[registry.name]
    for registry in everyone:
        assert any("/manifests/load-" in path for path in asked[registry.name]), f"{registry.name} was never used"
