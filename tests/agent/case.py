"""One change of a node that takes a restart of its runtime, and how it may end."""

from __future__ import annotations

import shutil
from pathlib import Path

from registry_mirror.agent import rollback, state as memory
from registry_mirror.agent.apply import waiting_for_restart
from registry_mirror.agent.engine import Pass
from registry_mirror.agent.files import is_temporary
from registry_mirror.core.bundle import Bundle
from tests.agent import trees
from tests.agent.trees import DROP_IN, EMPTY, REGISTRIES, TLS, bundle, hosts
from tests.agent.world import World

Files = dict[str, trees.Entry]
OLD = bundle(
    "old",
    {f"{TLS}/ca-1.crt": "1", hosts("docker.io"): "d 1", hosts("quay.io"): "q 1", REGISTRIES: "r 1"},
    {"credentials": "d1"},
)
NEW = bundle(
    "new",
    {f"{TLS}/ca-2.crt": "2", hosts("docker.io"): "d 2", hosts("ghcr.io"): "g 2", REGISTRIES: "r 2", DROP_IN: "x: true"},
    {"credentials": "d2"},
)
THIRD = bundle("third", {hosts("docker.io"): "d 3", REGISTRIES: "r 3"}, {"credentials": "d3"})


def files(world: World) -> Files:
    """The node's files, without those that the running runtime makes."""
    found = trees.snapshot(world.root).items()
    return {path: entry for path, entry in found if entry[0] == "file" and not path.startswith("/run")}


class Case:
    """A node with files of its own, then with OLD in force, then as it is to be once ``wanted`` is.

    ``begin`` is the one with OLD; a start that reads NEW fails as ``fault`` says (World).
    """

    def __init__(self, work: Path, fault: str, wanted: Bundle = NEW) -> None:
        self.fault = fault
        self.wanted = wanted
        begin = World(work / "begin", "" if fault == "bus" else fault, "r 2")
        trees.put(begin.root, REGISTRIES, "theirs", 0o640)
        trees.put(begin.root, hosts("docker.io"), "theirs too")
        trees.put(begin.root, f"{trees.CERTS}/other.io/hosts.toml", "not ours")
        self.found = files(begin)
        assert begin.run(OLD).problem is None
        self.begin = begin
        self.old = files(begin)
        plain = World(work / "plain")
        shutil.rmtree(plain.root)
        shutil.copytree(begin.root, plain.root)
        assert plain.run(wanted).problem is None
        self.new = files(plain)
        begin.change(fault=fault, ordered_once=False)

    def never_torn(self, world: World) -> None:
        """Each file is as before or as after, and no directory of a registry is without its hosts.toml."""
        for path, entry in files(world).items():
            if not is_temporary(path):
                assert entry in (self.old.get(path), self.new.get(path), self.found.get(path)), path
        for folder in (world.root / trees.CERTS[1:]).glob("[!.]*"):
            assert (folder / "hosts.toml").is_file(), folder

    def ended(self, world: World, done: Pass) -> bool:
        """Check how it ended; tells whether the new revision is in force."""
        now, state, facts = files(world), memory.load(world.host), world.facts()
        assert facts.healthy
        assert facts.timer is None
        assert rollback.outcome(world.host) == "none"
        assert done.state == state
        assert not state.writing
        assert state.good is None
        assert waiting_for_restart(state) == ()
        assert facts.reads[-1].encode() == now[REGISTRIES][4], "what the runtime runs with is what is there"
        if done.problem is None:
            assert now == self.new
            assert state.revision == self.wanted.revision
            return True
        assert done.problem.reason == "RolledBack", done.problem
        assert now == self.old
        assert state.revision == OLD.revision
        return False

    def goes_on(self, world: World, new: bool) -> None:
        """What has failed is not tried again, what is another revision is; and then all can be undone."""
        reads = world.facts().reads
        again = world.run(self.wanted)
        assert (again.problem is None) == new
        assert world.facts().reads == reads
        assert world.run(THIRD).problem is None
        assert files(world)[REGISTRIES][4] == b"r 3"
        assert world.run(EMPTY).problem is None
        assert files(world) == self.found
        assert memory.load(world.host).originals == {}
