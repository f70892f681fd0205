"""The rules of ``registry-mirror doctor`` for a cluster: a picture in which all is well, and faults one by one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec.structs import replace

from registry_mirror.api import parse
from registry_mirror.api.models import NodeRegistryConfig, RegistryMirrorPolicySpec
from registry_mirror.cli.doctor_cluster import _joined
from registry_mirror.core.certificates import certificates, day
from registry_mirror.core.cluster_diagnosis.picture import AgentPod, MirrorSeen, NodeSeen, Parts, Picture, Pulls
from registry_mirror.core.cluster_diagnosis.pulls import has_entry, hosts_of, pulls, registry_of
from registry_mirror.core.cluster_diagnosis.whole import diagnosed, diagnosed_node, narrowed
from registry_mirror.core.finding import Examined, Finding
from registry_mirror.core.overview import Leader, Seen, overview
from registry_mirror.core.resolve import source
from tests.pure.builders import pem

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 8, 1, 12, tzinfo=UTC).timestamp()
OLD = "2026-07-01T00:00:00Z"
URL = "https://mirror.example.com"
NAMES = ("n1", "n2", "n3")
FACTS = {
    "name": "k3s",
    "version": "v1.33.4+k3s1",
    "containerdVersion": "2.1.4",
    "configPath": "/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
    "embeddedRegistry": {"address": "127.0.0.1:6443"},
}
Json = dict[str, Any]


def conditions(since: str = OLD, **found: tuple[bool, str, str]) -> list[Json]:
    return [
        {"type": name, "status": str(status), "reason": reason, "message": text, "lastTransitionTime": since}
        for name, (status, reason, text) in found.items()
    ]


READY = conditions(Ready=(True, "Applied", ""))


@cache
def installed() -> str:
    """What the manifests install, as JSON."""
    files = (*(ROOT / "manifests/base").glob("*.yaml"), *(ROOT / "crds").glob("*.yaml"))
    documents = [item for file in files for item in yaml.safe_load_all(file.read_text()) if item]
    return json.dumps([item for item in documents if item["kind"] != "Kustomization"])


class Plan:
    """A cluster in which all is well, as dictionaries to plant faults in."""

    def __init__(self) -> None:
        self.mirrors: dict[str, Json] = {}
        self.mirror("hub", "docker.io", [{"url": URL}])
        self.labels: dict[str, dict[str, str]] = {name: {"zone": "a"} for name in NAMES}
        self.nodes: dict[str, Json] = {name: {"created": 0.0, "ready": True, "tainted": False} for name in NAMES}
        applied = conditions(Applied=(True, "Applied", ""))
        self.status: dict[str, Json] = {
            name: {
                "appliedRevision": "new",
                "agentVersion": "1",
                "runtime": dict(FACTS),
                "conditions": applied,
                "endpoints": [{"url": URL, "reachable": True, "reason": "Reachable"}],
            }
            for name in NAMES
        }
        self.agents: dict[str, AgentPod] | None = {name: AgentPod(name=f"agent-{name}", ready=True) for name in NAMES}
        self.policy: Json = {}
        self.leader: Leader | None = Leader(holder="controller-a", alive=True)
        self.sources: dict[Any, Any] = {}
        self.pulls: tuple[Pulls, ...] = ()
        self.pulled: frozenset[str] = frozenset({"docker.io", "harbor.example.com"})
        documents = json.loads(installed())

        def of(kind: str) -> dict[str, Any]:
            return {item["metadata"]["name"]: item for item in documents if item["kind"] == kind}

        self.namespaces = of("Namespace")
        self.workloads = {kind: next(iter(of(kind).values())) for kind in ("Deployment", "DaemonSet")}
        self.crds = of("CustomResourceDefinition")
        self.policies = of("ValidatingAdmissionPolicy")
        self.bindings = of("ValidatingAdmissionPolicyBinding")

    def mirror(self, name: str, registry: str, endpoints: list[Json], status: Any = READY, **spec: Any) -> Json:
        found = conditions(**status) if isinstance(status, dict) else status
        self.mirrors[name] = {
            "metadata": {"name": name, "creationTimestamp": f"2026-01-0{len(self.mirrors) + 1}T00:00:00Z"},
            "spec": {"registry": registry, "endpoints": endpoints, **spec},
            "status": {"conditions": found, "failures": spec.pop("failures", [])},
        }
        return self.mirrors[name]

    def secret(self, name: str, kind: str = "Secret", **data: str) -> None:
        body = {"kind": kind, "metadata": {"name": name}, "stringData" if kind == "Secret" else "data": data}
        self.sources[kind, name] = source(body)

    def picture(self) -> Picture:
        parsed = {name: parse.registry_mirror(body) for name, body in self.mirrors.items()}
        configs = {
            name: msgspec.convert(
                {"metadata": {"name": name}, "spec": {"revision": "new"}, "status": status}, NodeRegistryConfig
            )
            for name, status in self.status.items()
        }
        seen = [
            Seen(name=name, registry=item.spec.registry, generation=0, endpoints=(), status=item.status)
            for name, item in parsed.items()
        ]
        nodes = {name: NodeSeen(name=name, labels=self.labels[name], **fields) for name, fields in self.nodes.items()}
        return Picture(
            now=NOW,
            mirrors={
                name: MirrorSeen(
                    name=name,
                    created=item.metadata.creation_timestamp,
                    spec=item.spec,
                    status=item.status,
                )
                for name, item in parsed.items()
            },
            configs=configs,
            nodes=nodes,
            policy=msgspec.convert(self.policy, RegistryMirrorPolicySpec),
            overview=overview(seen, configs.values(), set(nodes), self.leader),
            sources=self.sources,
            agents=self.agents,
            pulls=self.pulls,
            pulled=self.pulled,
            parts=Parts(
                namespaces=self.namespaces,
                workloads=self.workloads,
                crds=self.crds,
                policies=self.policies,
                bindings=self.bindings,
            ),
        )


def found(plan: Plan) -> tuple[Finding, ...]:
    return diagnosed(plan.picture())


def test_where_all_is_well_nothing_is_found() -> None:
    assert found(Plan()) == ()


def test_what_could_not_be_read_is_no_fault() -> None:
    plan = Plan()
    plan.mirror("private", "private.example.com", [{"url": URL, "credentialsRef": {"name": "unread"}}])
    plan.agents = plan.leader = None
    seen = replace(plan.picture(), nodes=None, parts=Parts())
    assert diagnosed(seen) == ()


def new_node(plan: Plan) -> None:
    plan.nodes["n2"]["created"] = NOW - 60
    assert plan.agents is not None
    del plan.agents["n2"], plan.status["n2"]


def away(plan: Plan) -> None:
    plan.nodes["n2"]["ready"] = False
    assert plan.agents is not None
    plan.agents["n2"] = AgentPod(name="agent-n2", ready=False, told="the node is away")


def decided(plan: Plan) -> None:
    plan.mirror("late", "docker.io", [{"url": URL}], nodeSelector={"matchLabels": {"zone": "a"}}, priority=1)


def elsewhere(plan: Plan) -> None:
    plan.labels["n3"] = {"zone": "b"}
    plan.mirror("hub", "docker.io", [{"url": URL}], nodeSelector={"matchLabels": {"zone": "a"}})
    plan.mirror("late", "docker.io", [{"url": URL}], nodeSelector={"matchLabels": {"zone": "b"}})


def under_way(plan: Plan) -> None:
    soaking = conditions("2026-08-01T11:50:00Z", Reconciling=(True, "Soaking", "watching n1"))
    plan.mirror("hub", "docker.io", [{"url": URL}], soaking)


def no_such_secret(plan: Plan) -> None:
    plan.mirror("hub", "docker.io", [{"url": URL}])
    plan.pulls = (Pulls(namespace="shop", name="hub", registries=frozenset({"docker.io"})),)


def own_host(plan: Plan) -> None:
    plan.mirror("own", "own.example.com", [{"url": "https://own.example.com:5000", "credentialsRef": {"name": "r"}}])
    plan.pulls = (Pulls(namespace="shop", name="own", registries=frozenset({"own.example.com"})),)


def wildcard_with_more(plan: Plan) -> None:
    wildcard(plan)
    plan.mirror("harbor", "harbor.example.com", [{"url": "https://harbor.example.com"}])


def wildcard_with_fallback(plan: Plan) -> None:
    plan.mirror("all", "*", [{"url": "https://harbor.example.com/v2/proxy"}])


def restarts_wait(plan: Plan) -> None:
    required = (True, "StartSettings", "waits for a restart")
    plan.status["n2"]["conditions"] = conditions(
        "2026-08-01T11:50:00Z", Applied=(True, "Applied", ""), RestartRequired=required
    )


WELL = [
    new_node,
    away,
    decided,
    elsewhere,
    under_way,
    no_such_secret,
    own_host,
    wildcard_with_more,
    wildcard_with_fallback,
    restarts_wait,
]


@pytest.mark.parametrize("change", WELL, ids=[item.__name__ for item in WELL])
def test_what_is_as_it_should_be_is_no_fault(change: Callable[[Plan], None]) -> None:
    plan = Plan()
    change(plan)
    assert found(plan) == ()


# ---- one fault after another -----------------------------------------------------------------------------------------

Plant = Callable[[Plan], object]
PLANTS: list[tuple[str, str, Plant]] = []


def plant(reason: str, *words: str) -> Callable[[Plant], Plant]:
    """The fault that the function plants is found, alone, by that reason, with those words."""

    def add(function: Plant) -> Plant:
        PLANTS.append((reason, "|".join(words), function))
        return function

    return add


@plant("NoController", "controller-a led until 2026")
def leader(plan: Plan) -> None:
    plan.leader = Leader(holder="controller-a", renewed="2026-07-31T00:00:00Z", alive=False)


@plant("ControllerNotReady", "warning", "1 of 2 Pods")
def controller(plan: Plan) -> None:
    plan.workloads["Deployment"]["status"] = {"observedGeneration": 1, "readyReplicas": 1}


@plant("NotInstalled", "error", "DaemonSet registry-mirror-agent")
def daemon_set(plan: Plan) -> None:
    plan.workloads["DaemonSet"] = None


@plant("NamespaceMissing", "error", "registry-mirror-bundles")
def namespace(plan: Plan) -> None:
    plan.namespaces["registry-mirror-bundles"] = None


@plant("NamespaceRefusesAgents", "error", "is baseline")
def level(plan: Plan) -> None:
    labels = plan.namespaces["registry-mirror-system"]["metadata"]["labels"]
    labels["pod-security.kubernetes.io/enforce"] = "baseline"


@plant("CRDMissing", "error", "noderegistryconfigs")
def crd(plan: Plan) -> None:
    plan.crds["noderegistryconfigs.registrymirror.io"] = None


@plant("CRDOutdated", "error", "spec.endpoints[].dialTimeout", "spec.endpoints[].tls.caRef.kind")
def fields(plan: Plan) -> None:
    schema = plan.crds["registrymirrors.registrymirror.io"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    items = schema["properties"]["spec"]["properties"]["endpoints"]["items"]["properties"]
    del items["dialTimeout"], items["tls"]["properties"]["caRef"]["properties"]["kind"]


@plant("CRDOutdated", "error", "serves no version, not v1alpha1")
def served(plan: Plan) -> None:
    plan.crds["registrymirrors.registrymirror.io"]["spec"]["versions"][0]["served"] = False


@plant("AdmissionPolicyMissing", "error", "agents do nothing without it")
def agents_policy(plan: Plan) -> None:
    plan.policies["registry-mirror-agents"] = None


@plant("AdmissionPolicyMissing", "warning", "may write the status of other nodes", "does not deny")
def accepted(plan: Plan) -> None:
    plan.bindings["registry-mirror-agents"]["spec"]["validationActions"] = ["Audit"]
    spec = plan.workloads["DaemonSet"]["spec"]["template"]["spec"]
    spec["containers"][0]["args"].append("--node-confinement=warn")


@plant("AdmissionPolicyMissing", "warning", "registry-mirror-controller-nodes")
def nodes_policy(plan: Plan) -> None:
    plan.bindings["registry-mirror-controller-nodes"] = None


@plant("AgentMissing", "warning", "node n2", "stays in force")
def no_pod(plan: Plan) -> None:
    assert plan.agents is not None
    del plan.agents["n2"]


@plant("AgentNotReady", "error", "2 nodes (n1, n2)", "ImagePullBackOff")
def no_image(plan: Plan) -> None:
    assert plan.agents is not None
    for name in ("n1", "n2"):
        plan.agents[name] = AgentPod(name="agent", ready=False, told="ImagePullBackOff: no such image")
        del plan.status[name]


@plant("AgentNotReporting", "error", "node n3", "ready, but has not reported")
def mute(plan: Plan) -> None:
    del plan.status["n3"]["runtime"]


@plant("VersionsDiffer", "warning", "1 on 2 nodes (n1, n3), 2 on node n2")
def versions(plan: Plan) -> None:
    plan.status["n2"]["agentVersion"] = "2"


@plant("VersionsDiffer", "warning", "the DaemonSet has other:2")
def images(plan: Plan) -> None:
    plan.workloads["DaemonSet"]["spec"]["template"]["spec"]["containers"][0]["image"] = "other:2"


@plant("StartupTaintIgnored", "error", "node n1", "startupTaint: true")
def ignored(plan: Plan) -> None:
    plan.nodes["n1"]["tainted"] = True


@plant("StartupTaintKept", "error", "node n1", "quarter of an hour")
def kept(plan: Plan) -> None:
    plan.nodes["n1"]["tainted"] = True
    plan.policy["startupTaint"] = True


@plant("ConfigPathNotSet", "warning", "node n1", "no mirror can be in force there")
def config_path(plan: Plan) -> None:
    plan.status["n1"]["runtime"] = {"name": "containerd", "version": "2.1.4", "configFile": "/etc/own.toml"}


@plant("RolledBack", "error", "2 nodes (n1, n2)", "did not come back; it keeps 200 RegistryMirrors back")
def one_cause(plan: Plan) -> None:
    for name in ("n1", "n2"):
        stalled = {"Stalled": (True, "RolledBack", "it did not come back")}
        plan.status[name]["conditions"] = conditions(**stalled)  # type: ignore[arg-type]
    for number in range(200):
        reason = "RolloutHalted" if number % 2 else "RolledBack"
        text = f"n{number % 2 + 1}: it did not come back"
        plan.mirror(f"m{number}", f"m{number}.example.com", [{"url": URL}], {"Stalled": (True, reason, text)})


@plant("RewriteUnsupported", "error", "2 RegistryMirrors (hub, quay)", "cannot rewrite by pattern")
def unsupported(plan: Plan) -> None:
    stalled = {"Stalled": (True, "RewriteUnsupported", "cannot rewrite by pattern on n1")}
    plan.mirror("hub", "docker.io", [{"url": URL}], stalled)
    plan.mirror("quay", "quay.io", [{"url": URL}], stalled)


@plant("Soaking", "warning", "RegistryMirror hub", "for 756 h now")
def for_long(plan: Plan) -> None:
    plan.mirror("hub", "docker.io", [{"url": URL}], {"Reconciling": (True, "Soaking", "watching n1")})


@plant("AgentNotReporting", "warning", "RegistryMirror hub", "n2 has not answered")
def hung(plan: Plan) -> None:
    plan.mirror("hub", "docker.io", [{"url": URL}], {"Reconciling": (True, "AgentNotReporting", "n2 has not answered")})


@plant("AgentMissing", "warning", "node n2")
def gone(plan: Plan) -> None:
    hung(plan)
    no_pod(plan)


@plant("CoOwned", "warning", "node n2", "changed by something else")
def co_owned(plan: Plan) -> None:
    drifted = (True, "CoOwned", "changed by something else again and again: /etc/rancher/k3s/registries.yaml")
    plan.status["n2"]["conditions"] = conditions(Applied=(True, "Applied", ""), Drifted=drifted)


@plant("StartSettings", "warning", "node n2", "the restart is yours")
def restart(plan: Plan) -> None:
    plan.policy["rollout"] = {"restart": "Never"}
    required = (True, "StartSettings", "waits for a restart: the embedded registry")
    plan.status["n2"]["conditions"] = conditions(Applied=(True, "Applied", ""), RestartRequired=required)


@plant("InvalidSpec", "error", "RegistryMirrorPolicy default", "write five cron fields")
def policy(plan: Plan) -> None:
    plan.policy["rollout"] = {"windows": [{"schedule": "no cron line", "duration": "1h"}]}


@plant("Paused", "warning", "RegistryMirrorPolicy default")
def paused(plan: Plan) -> None:
    plan.policy["rollout"] = {"paused": True}
    plan.mirror("hub", "docker.io", [{"url": URL}], {"Reconciling": (True, "Paused", "rollout.paused is set")})


@plant("WindowFarOff", "warning", "(0 2 29 2 *) open not before 2028-02-29")
def window(plan: Plan) -> None:
    plan.policy["rollout"] = {"windows": [{"schedule": "0 2 29 2 *", "duration": "1h"}]}


@plant("PriorityUndecided", "warning", "RegistryMirror late", "hub is for docker.io too, on 3 nodes (n1, n2, n3)")
def undecided(plan: Plan) -> None:
    plan.mirror("late", "docker.io", [{"url": URL}], nodeSelector={"matchLabels": {"zone": "a"}})


@plant("Conflicted", "error", "RegistryMirror late", "hub takes precedence")
def conflict(plan: Plan) -> None:
    plan.mirror("late", "docker.io", [{"url": URL}], {"Stalled": (True, "Conflicted", "hub takes precedence")})


@plant("LabelNotFound", "warning", "spec.endpoints[1].nodeSelector asks for the label zoen")
def label(plan: Plan) -> None:
    other = {"url": "https://b.example.com", "nodeSelector": {"matchLabels": {"zoen": "a"}}}
    plan.mirror("hub", "docker.io", [{"url": URL}, other])


@plant("NoEndpointForNode", "warning", "n3: RegistryMirror hub", "pulls go to docker.io itself")
def no_endpoint(plan: Plan) -> None:
    plan.labels["n3"] = {"zone": "b"}
    plan.mirror("hub", "docker.io", [{"url": URL, "nodeSelector": {"matchLabels": {"zone": "a"}}}])


@plant("EmbeddedRegistryOff", "warning", "2 RegistryMirrors (ghcr, quay)", "off on node n2")
def off(plan: Plan) -> None:
    plan.mirror("ghcr", "ghcr.io", [])
    plan.mirror("quay", "quay.io", [])
    del plan.status["n2"]["runtime"]["embeddedRegistry"]


@plant("EndpointUnreachable", "warning", "n2: endpoint https://mirror", "1 of 3 nodes (n2): TimedOut: it hangs")
def hangs(plan: Plan) -> None:
    plan.status["n2"]["endpoints"] = [{"url": URL, "reachable": False, "reason": "TimedOut", "message": "it hangs"}]


@plant("EndpointUnreachable", "error", "no way is left there for RegistryMirror hub", "2 of 3 nodes (n1, n2)")
def lost(plan: Plan) -> None:
    plan.mirror("hub", "docker.io", [{"url": URL}], upstream={"fallback": "Deny"})
    for name in ("n1", "n2"):
        plan.status[name]["endpoints"] = [{"url": URL, "reachable": False, "reason": "TimedOut", "message": "it hangs"}]


@plant("CredentialsInClear", "warning", "endpoint http://10.0.0.1:5000", "plain HTTP")
def clear(plan: Plan) -> None:
    plan.mirror("own", "own.example.com", [{"url": "http://10.0.0.1:5000", "credentialsRef": {"name": "robot"}}])


@plant("PullSecretsGoToMirror", "warning", "imagePullSecrets (shop/hub)", "in place of those of credentialsRef")
def sent(plan: Plan) -> None:
    plan.mirror("hub", "docker.io", [{"url": URL, "credentialsRef": {"name": "robot"}}])
    plan.pulls = (
        Pulls(namespace="shop", name="hub", registries=frozenset({"docker.io"})),
        Pulls(namespace="shop", name="other", registries=frozenset({"quay.io"})),
    )


@plant("PullSecretsGoToMirror", "warning", "which could not be read")
def perhaps(plan: Plan) -> None:
    asks = "it answers 401 without credentials: set spec.endpoints[].credentialsRef"
    for status in plan.status.values():
        status["endpoints"][0]["message"] = asks
    plan.pulls = (Pulls(namespace="shop", name="hub", registries=frozenset({"docker.io"}), certain=False),)


@plant("WildcardCatchesMirror", "warning", "RegistryMirror all", "Pods pull from harbor.example.com itself")
def wildcard(plan: Plan) -> None:
    path = {"url": "https://harbor.example.com/v2/proxy"}
    plan.mirror("all", "*", [path, {"url": "https://harbor.example.com/v2"}], upstream={"fallback": "Deny"})


@plant("ReferenceNotFound", "error", "Secret robot", "it does not exist; 2 RegistryMirrors (hub, quay) refer to it")
def missing(plan: Plan) -> None:
    waits = {"Reconciling": (True, "ReferenceNotFound", "no Secret robot")}
    for name, registry in (("hub", "docker.io"), ("quay", "quay.io")):
        plan.mirror(name, registry, [{"url": URL, "credentialsRef": {"name": "robot"}}], waits)
    plan.sources["Secret", "robot"] = None


@plant("ReferenceInvalid", "error", "Secret robot", "auths has no entry for mirror.example.com")
def no_entry(plan: Plan) -> None:
    plan.mirror("hub", "docker.io", [{"url": URL, "credentialsRef": {"name": "robot"}}])
    plan.secret("robot", **{".dockerconfigjson": json.dumps({"auths": {"other.example.com": {"auth": "cDpx"}}})})


PEM = pem("ca-one.crt")
ENDS = max(item.ends for item in certificates(PEM))


@plant("ReferenceNotFound", "error", "ConfigMap ca", "create it")
def no_ca(plan: Plan) -> None:
    plan.mirror("hub", "docker.io", [{"url": URL, "tls": {"caRef": {"kind": "ConfigMap", "name": "ca"}}}])
    plan.sources["ConfigMap", "ca"] = None


def test_each_fault_is_planted_once() -> None:
    assert len({function for _, _, function in PLANTS}) == len(PLANTS) > 35


@pytest.mark.parametrize(("reason", "words", "fault"), PLANTS, ids=[item[2].__name__ for item in PLANTS])
def test_a_planted_fault_is_found_and_nothing_else(reason: str, words: str, fault: Plant) -> None:
    plan = Plan()
    fault(plan)
    (finding,) = found(plan)
    where = f"{finding.node}: {finding.subject}" if finding.node else finding.subject
    text = f"{finding.severity} {where} {finding.evidence} {finding.remedy}"
    assert finding.reason == reason, finding
    assert [word for word in words.split("|") if word not in text] == [], finding
    assert finding.remedy


def with_ca(data: str = PEM, reference: str = "caRef") -> Plan:
    plan = Plan()
    name = {"name": "ca"} if reference == "clientCertificateRef" else {"kind": "ConfigMap", "name": "ca"}
    plan.mirror("hub", "docker.io", [{"url": URL, "tls": {reference: name}}])
    if reference == "caRef":
        plan.secret("ca", "ConfigMap", **{"ca.crt": data})
    else:
        plan.secret("ca", **{"tls.crt": data, "tls.key": pem("client.key")})
    return plan


@pytest.mark.parametrize(
    ("at", "reason", "severity"),
    [
        (ENDS - 31 * 86400, None, None),
        (ENDS - 29 * 86400, "Expiring", "warning"),
        (ENDS + 1, "Expired", "error"),
        (0.0, "NotYetValid", "error"),
    ],
)
@pytest.mark.parametrize("reference", ["caRef", "clientCertificateRef"])
def test_certificates_that_do_not_hold(at: float, reason: str | None, severity: str, reference: str) -> None:
    seen = replace(with_ca(reference=reference).picture(), now=at)
    items = [item for item in diagnosed(seen) if item.reason.startswith(("Authority", "ClientC"))]
    if reason is None:
        assert items == []
        return
    (item,) = items
    kind = "Authority" if reference == "caRef" else "ClientCertificate"
    assert (item.reason, item.severity) == (f"{kind}{reason}", severity)
    assert "RegistryMirror hub refers to it" in item.evidence
    assert "BEGIN" not in item.evidence
    if reason != "NotYetValid":
        assert day(ENDS) in item.evidence


def test_one_old_certificate_in_a_bundle_is_no_fault() -> None:
    text = "".join(PEM.splitlines()[1:-1])
    der = base64.b64decode(text).replace(b"21261028", b"20201028")
    old = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"
    assert [day(item.ends) for item in certificates(old + PEM)] == ["2020-10-28", "2126-10-28"]
    now = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    for bundle, wanted in ((old, ["AuthorityExpired"]), (old + PEM, []), (PEM + old, [])):
        items = diagnosed(replace(with_ca(bundle).picture(), now=now))
        assert [item.reason for item in items if item.reason.startswith("Auth")] == wanted


def test_what_is_no_certificate_is_none() -> None:
    assert certificates("no certificate -----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----") == ()
    assert certificates("-----BEGIN CERTIFICATE-----\nMIIBszCC\n-----END CERTIFICATE-----") == ()


# ---- one node --------------------------------------------------------------------------------------------------------


def test_of_one_node_what_concerns_it_is_found() -> None:
    plan = Plan()
    hangs(plan)
    paused(plan)
    no_pod(plan)
    other = plan.mirror("other", "other.example.com", [{"url": URL}], nodeSelector={"matchLabels": {"zone": "z"}})
    other["status"]["failures"] = [{"node": "n2", "reason": "RewriteUnsupported", "message": "no rewrites"}]
    plan.mirror("quay", "quay.io", [{"url": URL}])["status"]["failures"] = [
        {"node": "n2", "reason": "RewriteUnsupported", "message": "no rewrites"}
    ]
    plan.status["n3"]["conditions"] = conditions(Stalled=(True, "DiskFull", "no space left"))

    def reasons(name: str) -> set[str]:
        seen = narrowed(plan.picture(), name)
        seen = replace(seen, overview=overview((), seen.configs.values(), {name}, plan.leader))
        return {f"{item.reason} {item.subject}" for item in diagnosed_node(seen)}

    assert reasons("n1") == set()
    assert reasons("n2") == {
        "AgentMissing node n2",
        f"EndpointUnreachable endpoint {URL}",
        "RewriteUnsupported RegistryMirror quay",
    }
    assert reasons("n3") == {"DiskFull node n3"}


def test_of_the_same_thing_the_node_itself_knows_more() -> None:
    def one(reason: str, **fields: str) -> Finding:
        return Finding(reason=reason, severity="error", subject="it", evidence="", remedy="", **fields)

    outside = Examined(
        nodes=("n1",),
        runtimes=("k3s",),
        endpoints=(URL,),
        notes=("secrets may not be read",),
        findings=(one("AgentMissing"), one("EndpointUnreachable", node="n1"), one("CoOwned", node="n1")),
    )
    inside = Examined(
        nodes=("host",), runtimes=("K3s v1",), files=("/a",), notes=("no logs",), findings=(one("CoOwned"), one("Own"))
    )
    both = _joined(outside, inside, "n1")
    assert both == Examined(
        nodes=("n1",),
        runtimes=("K3s v1",),
        files=("/a",),
        notes=("secrets may not be read", "no logs"),
        findings=(one("AgentMissing"), one("CoOwned", node="n1"), one("Own", node="n1")),
    )


# ---- pull secrets ----------------------------------------------------------------------------------------------------


def test_which_registries_pods_pull_from_and_which_secrets_are_for_them() -> None:
    names = ("app:1", "library/app", "docker.io/app", "quay.io/a/b:1", "localhost/a", "registry:5000/a")
    assert [registry_of(name) for name in names] == [
        "docker.io",
        "docker.io",
        "docker.io",
        "quay.io",
        "localhost",
        "registry:5000",
    ]
    raw = json.dumps({"https://index.docker.io/v1/": {}, "*.example.com": {}, "quay.io/project": {}}).encode()
    for data in ({".dockercfg": raw}, {".dockerconfigjson": b'{"auths":' + raw + b"}"}):
        hosts = hosts_of(data)
        found = {name: has_entry(hosts, name) for name in ("docker.io", "a.example.com", "quay.io", "ghcr.io")}
        assert found == {"docker.io": True, "a.example.com": True, "quay.io": True, "ghcr.io": False}
    for broken in ({}, {".dockerconfigjson": b"[]"}, {".dockerconfigjson": b"\xff"}, {".dockerconfigjson": b"{}"}):
        assert hosts_of(broken) == ()

    def pod(name: str, phase: str, *secrets: str) -> Json:
        spec = {"containers": [{"image": "quay.io/a"}], "initContainers": [{"image": "app"}]}
        named = {"imagePullSecrets": [{"name": item} for item in secrets]} if secrets else {}
        return {"metadata": {"name": name, "namespace": "shop"}, "spec": {**spec, **named}, "status": {"phase": phase}}

    items = [pod("a", "Running", "one"), pod("b", "Succeeded", "two"), pod("c", "Pending")]
    assert sorted(pulls(items)) == [
        ("shop", "", "docker.io"),
        ("shop", "", "quay.io"),
        ("shop", "one", "docker.io"),
        ("shop", "one", "quay.io"),
    ]
