"""Two controllers on a real API server: one writes, and the other takes over whatever becomes of the first.

Who wrote is told by the API server's audit log: each controller has a token of its own, and the log names it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from msgspec.structs import replace

from registry_mirror.controller import lease
from registry_mirror.controller.app import DIGEST_KEY
from registry_mirror.controller.election import Election, Ledger
from registry_mirror.controller.metrics import Metrics
from registry_mirror.controller.reconcile import ROLLOUT, Reconciler
from registry_mirror.controller.store import WATCHED, Store
from registry_mirror.controller.writes import Order, Writes
from registry_mirror.kube.client import Api
from registry_mirror.kube.clock import now
from registry_mirror.kube.resources import CONFIG_MAPS, CONFIGS, LEASES, SECRETS, Resource
from tests.apiserver.players import Players, set_ready
from tests.apiserver.test_rollout import BASE, FACTS, NODES, configs, policy, settled, shared, works
from tests.harness.cluster import BUNDLES, SYSTEM, Cluster
from tests.harness.pytest_support import require_assets

pytestmark = pytest.mark.apiserver

BOTH = ("one", "two")
LONG = 60.0
AUDIT = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
  verbs: [create, update]
  resources: [{group: coordination.k8s.io, resources: [leases]}]
- level: Metadata
  verbs: [create, update, patch, delete]
  users: ["system:serviceaccount:registry-mirror-system:registry-mirror-controller"]
- level: None
"""


class Pair:
    """Two controllers, and what the audit log says of them."""

    def __init__(self, cluster: Cluster, players: Players, log: Path) -> None:
        self.cluster = cluster
        self.players = players
        self._log = log
        self._names: dict[str, str] = {}  # by the id of the token

    def start(self, *names: str) -> None:
        """Start those of them that do not run."""
        for name in names:
            process = self.cluster.controllers.get(name)
            if process is None or not process.alive():
                self.cluster.start_controller(name)
                kubeconfig = self.cluster.plane.work / "kubeconfig" / f"{SYSTEM}.registry-mirror-controller"
                token = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
                part = token.split(".")[1]
                claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
                self._names[f"JTI={claims['jti']}"] = name

    def leads(self, name: str) -> bool:
        return "\nregistry_mirror_leader 1.0\n" in self.cluster.http_get("/metrics", name)

    def leader(self) -> tuple[str, str]:
        """Wait for one that leads; gives it, and the other."""
        name = self.cluster.until(self.cluster.leader, "one leads", LONG)
        (other,) = set(BOTH) - {name}
        return name, other

    def await_lead(self, name: str) -> None:
        self.cluster.until(lambda: self.leads(name), f"{name} leads", LONG)

    def written(self) -> list[dict[str, Any]]:
        """All that controllers wrote and were not refused, in order; ``writer`` is who it was."""
        found = [json.loads(line) for line in self._log.read_text().splitlines()]
        for event in found:
            ids = event["user"].get("extra", {}).get("authentication.kubernetes.io/credential-id", [""])
            event["writer"] = self._names.get(ids[0], "")
        return [event for event in found if event["writer"] and event["responseStatus"]["code"] < 300]

    def holders(self) -> list[tuple[str, str]]:
        """Who wrote which holder into the Lease, one after the other."""
        events = [event for event in self.written() if event["objectRef"]["resource"] == "leases"]
        return [(event["writer"], event["requestObject"]["spec"].get("holderIdentity", "")) for event in events]

    def writers(self, since: int = 0) -> set[str]:
        """Who wrote anything but the Lease, from that number of writes on."""
        return {event["writer"] for event in self.written()[since:] if event["objectRef"]["resource"] != "leases"}

    def taken(self, name: str, since: int) -> int:
        """The number of the write by which somebody took the Lease over, from that number on."""
        for number, event in enumerate(self.written()):
            if number >= since and event["writer"] == name and event["objectRef"]["resource"] == "leases":
                return number
        raise AssertionError(f"{name} did not take over")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Pair]:
    """Five nodes with agents that are played, and two controllers."""
    require_assets(pytestconfig)
    work = tmp_path_factory.mktemp("cluster")
    (work / "audit.yaml").write_text(AUDIT)
    log = work / "audit.log"
    flags = [f"--audit-policy-file={work / 'audit.yaml'}", f"--audit-log-path={log}"]
    with Cluster(work, apiserver_flags=flags) as cluster:
        cluster.install()
        for name in NODES:
            cluster.add_node(name, "k3s", {"node-role.kubernetes.io/control-plane": ""} if "server" in name else {})
            set_ready(cluster, name)
        policy(cluster, maxUnavailable="100%")
        cluster.apply(BASE)
        with Players(cluster, FACTS, works) as players:
            yield Pair(cluster, players, log)


@pytest.fixture
def pair(begun: Pair) -> Pair:
    """Both controllers, without objects but the base, and with nodes that work."""
    pair = begun
    pair.start(*BOTH)
    pair.leader()
    names = {item["metadata"]["name"] for item in pair.cluster.get("registrymirrors")["items"]} - {"base"}
    if names:
        policy(pair.cluster, maxUnavailable="100%")
        pair.cluster.kubectl("delete", "registrymirrors", *names)
        settled(pair.cluster)
    policy(pair.cluster)
    settled(pair.cluster)
    pair.players.forget()
    return pair


def restarted(pair: Pair) -> None:
    """Wait until all nodes have restarted: each once, and one at a time."""
    pair.cluster.until(lambda: len(pair.players.restarted) >= len(NODES), "all have restarted", LONG)
    settled(pair.cluster)
    assert sorted(pair.players.restarted) == sorted(NODES)
    assert pair.players.most_at_once == 1


def test_one_writes_and_the_other_is_ready(pair: Pair) -> None:
    leader, other = pair.leader()
    before = len(pair.written())
    pair.cluster.apply(shared("one.example.com"))
    restarted(pair)
    assert pair.writers(before) == {leader}
    assert {writer for writer, _ in pair.holders()[-3:]} == {leader}
    assert not pair.leads(other)
    assert pair.cluster.http_get("/readyz", other) == pair.cluster.http_get("/healthz", other) == "ok\n"
    assert "registry_mirror_rollout_nodes{" not in pair.cluster.http_get("/metrics", other)


def test_a_leader_that_is_killed_is_followed_in_the_middle_of_a_rollout(pair: Pair) -> None:
    leader, other = pair.leader()
    pair.cluster.apply(shared("two.example.com"))
    pair.cluster.until(lambda: len(pair.players.restarted) >= 2, "the rollout has begun", LONG)
    before = len(pair.written())
    pair.cluster.controllers[leader].stop(grace=0.0)
    pair.await_lead(other)
    restarted(pair)
    assert pair.writers(pair.taken(other, before)) == {other}


def test_a_leader_that_ends_hands_over(pair: Pair) -> None:
    leader, other = pair.leader()
    assert pair.cluster.controllers[leader].stop() == 0
    pair.await_lead(other)
    changes = [who for who, _ in groupby(pair.holders())]
    assert changes[-2:] == [(leader, ""), (other, other)], "the Lease was released, and did not run out"
    pair.cluster.apply(shared("three.example.com"))
    restarted(pair)


def test_a_leader_that_was_stopped_writes_nothing_when_it_goes_on(pair: Pair) -> None:
    leader, other = pair.leader()
    process = pair.cluster.controllers[leader]
    before = len(pair.written())
    pair.cluster.apply(shared("four.example.com"))
    pair.cluster.until(lambda: pair.players.restarted, "the rollout has begun", LONG)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        pair.await_lead(other)
        taken = pair.taken(other, before)
        restarted(pair)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert process.wait(LONG) == 1
    assert "LeaseLost" not in process.tail(), "the message is for a person"
    assert f"{other} leads now" in process.tail()
    assert pair.writers(taken) == {other}


def test_without_an_api_server_nobody_leads_and_one_does_when_it_is_back(pair: Pair) -> None:
    leader, other = pair.leader()
    (server,) = [process for process in pair.cluster.plane.processes if process.name == "kube-apiserver"]
    os.kill(server.pid, signal.SIGSTOP)
    try:
        assert pair.cluster.controllers[leader].wait(LONG) == 1
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert pair.cluster.controllers[other].alive(), "who stands by has lost nothing"
    pair.await_lead(other)
    pair.start(leader)
    assert pair.leader() == (other, leader)
    pair.cluster.apply(shared("five.example.com"))
    restarted(pair)


def test_a_lease_that_is_deleted_is_lost_and_whatever_is_under_way_made_void(pair: Pair) -> None:
    leader, _ = pair.leader()
    pair.cluster.kubectl("delete", "lease", lease.NAME, f"--namespace={SYSTEM}")
    assert pair.cluster.controllers[leader].wait(LONG) == 1
    pair.leader()
    pair.cluster.apply(shared("six.example.com"))
    restarted(pair)
    annotations = [item["metadata"].get("annotations", {}) for item in configs(pair.cluster).values()]
    assert all("registrymirror.io/voided" in found for found in annotations)


# ---- what no timing may decide ---------------------------------------------------------------------------------------


class Delayed(Api):
    """Holds back what a test says, as a network may, until it says so."""

    def __init__(self, configuration: Configuration, time_left: Callable[[], float] = lambda: 1.0) -> None:
        super().__init__(configuration, time_left)
        self.sent: list[tuple[str, Mapping[str, Any]]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def apply(
        self, resource: Resource, name: str, body: Mapping[str, Any], *, manager: str, subresource: str = ""
    ) -> dict[str, Any]:
        if (body.get("spec") or {}).get("restartAllowed"):
            self.sent.append((name, body))
            await self.go.wait()
        return await super().apply(resource, name, body, manager=manager, subresource=subresource)

    async def put(
        self, resource: Resource, name: str, body: Mapping[str, Any], namespace: str = "", *, create: bool = False
    ) -> dict[str, Any]:
        self.sent.append((name, body))
        await self.go.wait()
        return await super().put(resource, name, body, namespace, create=create)


class Deaf(Election):
    """A leader that does not hear of the loss of its Lease."""

    async def _renew(self) -> None:
        await asyncio.Event().wait()


async def configuration(cluster: Cluster) -> Configuration:
    found = Configuration()
    await config.load_kube_config(str(cluster.plane.admin_kubeconfig), client_configuration=found)
    return found


async def reconciler(api: Api, election: Election) -> Reconciler:
    """A controller that has just begun to lead, and has read everything."""
    store = Store()
    for resource in WATCHED:
        namespace = SYSTEM if resource in (SECRETS, CONFIG_MAPS) else ""
        store.replace(resource, *await api.list(resource, namespace))
    secret = await api.get(SECRETS, DIGEST_KEY, SYSTEM)
    assert secret is not None
    key = base64.b64decode(secret["data"]["key"])
    found = Reconciler(store, api, Metrics(), key=key, bundle_namespace=BUNDLES, now=now, ledger=election)
    await found.recover()
    return found


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG):
        while not check():
            await asyncio.sleep(0.02)


async def taking_over(election: Election, clock: list[float], work: Callable[[], Awaitable[None]]) -> None:
    """Lead without waiting for the Lease to run out."""
    task = asyncio.ensure_future(election.run(work))
    await until(lambda: election.waits)
    clock[0] += lease.LEASE_SECONDS + 1
    await task


def test_a_grant_that_was_under_way_at_a_failover_is_void(pair: Pair) -> None:
    cluster = pair.cluster
    for process in cluster.controllers.values():
        process.stop()
    policy(cluster, maxUnavailable=2)  # one for the node that is not ready, and one
    cluster.apply(shared("seven.example.com"))
    late: list[str] = []

    async def story() -> None:
        settings = await configuration(cluster)
        async with Delayed(settings) as old_api, Api(settings) as api, Api(settings) as leases:
            old, clock = Deaf(leases, SYSTEM, "old"), [0.0]
            new = Election(leases, SYSTEM, "new", clock=lambda: time.monotonic() + clock[0])

            async def old_work() -> None:
                await (await reconciler(old_api, old)).handle(ROLLOUT)

            async def new_work() -> None:
                assert new.inherited == set(late)
                set_ready(cluster, late[0], False)
                await (await reconciler(api, new)).handle(ROLLOUT)
                granted = {name for name, found in configs(cluster).items() if found["spec"].get("restartAllowed")}
                old_api.go.set()
                await old_run
                assert len(granted) == 1
                assert granted.isdisjoint(late)

            old_api.go.clear()
            old_run = asyncio.ensure_future(old.run(old_work))
            await until(lambda: old_api.sent)
            late.extend(name for name, _ in old_api.sent)
            await taking_over(new, clock, new_work)

    try:
        asyncio.run(story())
        assert late
        assert not configs(cluster)[late[0]]["spec"].get("restartAllowed"), "it came late, and was refused"
        assert late[0] not in pair.players.restarted
    finally:
        set_ready(cluster, late[0])


def test_an_order_for_an_object_that_has_changed_is_refused_and_the_object_read_again(begun: Pair) -> None:
    cluster, name = begun.cluster, NODES[0]
    for process in cluster.controllers.values():
        process.stop()

    async def story() -> None:
        async with Api(await configuration(cluster)) as api:
            store = Store()
            store.replace(CONFIGS, *await api.list(CONFIGS))
            writes = Writes(store, api, lambda _resource: None, Ledger())
            config, version = store.configs[name], store.version(CONFIGS, name)
            spec = replace(config.spec, restart_deadline="77s")
            cluster.kubectl("annotate", CONFIGS.plural, name, "somebody=else")
            assert not await writes.write({name: Order(config, version, spec)})
            known = store.version(CONFIGS, name)
            assert int(known) > int(version)
            earlier = replace(config, metadata=replace(config.metadata, uid="that-of-an-earlier-node"))
            assert not await writes.write({name: Order(earlier, known, spec)})
            assert configs(cluster)[name]["spec"].get("restartDeadline") != "77s"
            assert await writes.write({name: Order(config, known, spec)})
            assert configs(cluster)[name]["spec"]["restartDeadline"] == "77s"

    asyncio.run(story())


def test_a_renewal_that_comes_late_takes_nothing_back(begun: Pair) -> None:
    cluster = begun.cluster
    for process in cluster.controllers.values():
        process.stop()

    async def story() -> None:
        settings = await configuration(cluster)
        async with Delayed(settings) as api:
            election = Deaf(api, SYSTEM, "me")

            async def work() -> None:
                await election.announce({"a"})
                election.settle(())
                api.go.clear()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await election.announce({"b"})
                name, body = api.sent[-1]
                api.go.set()
                election.settle(())
                await election.announce({"a"})
                with pytest.raises(Exception, match="409"):
                    await Api.put(api, LEASES, name, body, SYSTEM)
                found = await api.get(LEASES, lease.NAME, SYSTEM)
                assert found is not None
                assert "a" in lease.read(found).writing

            await election.run(work)

    asyncio.run(story())
