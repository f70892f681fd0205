"""What each account may do, asked of a real API server with real tokens: as RBAC and the admission policy have it
together.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from registry_mirror.agent.confinement import REASON, Confinement
from registry_mirror.api.errors import InvalidError, WaitingError
from registry_mirror.kube.errors import ApiError
from registry_mirror.kube.resources import AGENT, CONFIGS
from registry_mirror.kube.rest import Rest, from_kubeconfig
from tests.apiserver.test_manifests import ALLOWED
from tests.harness.cluster import BUNDLES, REPOSITORY, SYSTEM, Cluster
from tests.harness.pytest_support import require_assets

pytestmark = pytest.mark.apiserver

GROUP = "/apis/registrymirror.io/v1alpha1"
OWN, OTHER = f"{GROUP}/noderegistryconfigs/pi-1", f"{GROUP}/noderegistryconfigs/pi-2"
POLICY = REPOSITORY / "manifests" / "base" / "admission-agents.yaml"
MERGE, APPLY, PATCHES = "application/merge-patch+json", "application/apply-patch+yaml", "application/json-patch+json"


class As:
    """Plain requests with the token of a kubeconfig."""

    def __init__(self, kubeconfig: Path, headers: Mapping[str, str] | None = None) -> None:
        self.rest = Rest(from_kubeconfig(kubeconfig))
        found = from_kubeconfig(kubeconfig)
        self._server, self._headers = found.server, {"Authorization": f"Bearer {found.token}", **(headers or {})}
        context = urllib3.util.create_urllib3_context()
        context.load_verify_locations(cadata=found.ca)
        self._pool = urllib3.PoolManager(ssl_context=context, retries=False)

    def call(self, method: str, path: str, body: object = None, kind: str = "application/json") -> tuple[int, Any]:
        """Give the status and the decoded answer."""
        raw = None if body is None else json.dumps(body)
        headers = {**self._headers, "Content-Type": kind}
        response = self._pool.request(method, self._server + path, body=raw, headers=headers)
        return response.status, json.loads(response.data)

    def review(self, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Ask about the own rights; gives the status of the review."""
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        code, answer = self.call("POST", f"/apis/authorization.k8s.io/v1/{kind.lower()}s", body)
        assert code == 201, answer
        status: dict[str, Any] = answer["status"]
        return status


@pytest.fixture(scope="module")
def cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The operator's objects and two nodes with their NodeRegistryConfigs; no controller."""
    require_assets(pytestconfig)
    with Cluster(tmp_path_factory.mktemp("privileges")) as made:
        made.install()
        for name in ("pi-1", "pi-2"):
            made.add_node(name, "k3s")
            made.apply({"apiVersion": CONFIGS.api_version, "kind": CONFIGS.kind, "metadata": {"name": name}})
        guard(made)
        yield made


def guard(cluster: Cluster) -> None:
    """Apply the policy, and wait until it is in force."""
    cluster.kubectl("apply", "-f", str(POLICY))
    agent = As(cluster.agent_kubeconfig("pi-1"))
    cluster.until(lambda: agent.rest.may_patch_status(CONFIGS, "pi-2") is False, "the policy is in force")


@contextlib.contextmanager
def unguarded(cluster: Cluster) -> Iterator[None]:
    """Without the binding of the policy, and without its effect."""
    agent = As(cluster.agent_kubeconfig("pi-1"))
    cluster.kubectl("delete", "validatingadmissionpolicybinding", "registry-mirror-agents")
    try:
        cluster.until(lambda: agent.rest.may_patch_status(CONFIGS, "pi-2"), "the policy is not in force")
        yield
    finally:
        guard(cluster)


@pytest.fixture(scope="module")
def agent(cluster: Cluster) -> As:
    """The agent of pi-1, with the token of its Pod."""
    return As(cluster.agent_kubeconfig("pi-1"))


@pytest.fixture
def almighty(cluster: Cluster, agent: As) -> Iterator[As]:
    """The same, with a role that lets it do anything with objects of ours: what remains is the policy."""
    cluster.kubectl(
        "create", "clusterrole", "too-much", "--verb=*", "--resource=*.registrymirror.io,*.registrymirror.io/*"
    )
    account = f"--serviceaccount={SYSTEM}:{AGENT}"
    cluster.kubectl("create", "clusterrolebinding", "too-much", "--clusterrole=too-much", account)
    question = {"verb": "delete", "group": CONFIGS.group, "resource": CONFIGS.plural}
    ask = {"resourceAttributes": question}
    cluster.until(lambda: agent.review("SelfSubjectAccessReview", ask)["allowed"], "the role is in force")
    yield agent
    cluster.kubectl("delete", "clusterrolebinding/too-much", "clusterrole/too-much")
    cluster.until(lambda: not agent.review("SelfSubjectAccessReview", ask)["allowed"], "the role is gone")


def whole(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": CONFIGS.api_version, "kind": CONFIGS.kind, "metadata": {"name": name}, **more}


def test_an_agent_writes_the_status_of_its_own_node_and_nothing_comes_with_it(cluster: Cluster, agent: As) -> None:
    agent.rest.apply_status(CONFIGS, "pi-1", {"appliedRevision": "mine"}, AGENT)
    smuggled = {
        "metadata": {
            "labels": {"a": "b"},
            "annotations": {"a": "b"},
            "finalizers": ["example.com/stays"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "pi-2", "uid": "u"}],
        },
        "spec": {"revision": "smuggled", "restartAllowed": True},
        "status": {"appliedRevision": "again"},
    }
    assert agent.call("PATCH", f"{OWN}/status", smuggled, MERGE)[0] == 200
    found = cluster.get("nrc", "pi-1")
    assert found["status"] == {"appliedRevision": "again"}
    assert not found.get("spec")
    assert not {"labels", "finalizers", "ownerReferences"} & found["metadata"].keys()
    assert "a" not in found["metadata"].get("annotations", {})


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (MERGE, {"status": {"appliedRevision": "forged"}}),
        (APPLY, whole("pi-2", status={"appliedRevision": "forged"})),
        (PATCHES, [{"op": "add", "path": "/status", "value": {"appliedRevision": "forged"}}]),
        (MERGE, {}),
    ],
)
def test_an_agent_does_not_write_the_status_of_another_node(
    cluster: Cluster, agent: As, kind: str, body: object
) -> None:
    manager = "?fieldManager=tried&force=true" if kind == APPLY else ""
    code, answer = agent.call("PATCH", f"{OTHER}/status{manager}", body, kind)
    assert (code, answer["reason"]) == (403, "Forbidden")
    assert "the agent of node pi-1 may not write the status of pi-2" in answer["message"]
    assert "status" not in cluster.get("nrc", "pi-2")


BEYOND = [
    ("PATCH", OWN, {"spec": {"revision": "x"}}, MERGE),
    ("PATCH", OWN, {"metadata": {"labels": {"a": "b"}}}, MERGE),
    ("PATCH", OWN, {"metadata": {"annotations": {"a": "b"}}}, MERGE),
    ("PATCH", OWN, {"metadata": {"finalizers": ["example.com/stays"]}}, MERGE),
    ("PATCH", f"{GROUP}/noderegistryconfigs/pi-9?fieldManager=x", whole("pi-9"), APPLY),
    ("POST", f"{GROUP}/noderegistryconfigs", whole("pi-9"), "application/json"),
    ("DELETE", OWN, None, "application/json"),
    ("DELETE", OTHER, None, "application/json"),
    ("DELETE", f"{GROUP}/noderegistryconfigs", None, "application/json"),
    ("PATCH", f"{GROUP}/registrymirrorpolicies/default", {"spec": {"probe": {"mode": "Report"}}}, MERGE),
    ("DELETE", f"{GROUP}/registrymirrorpolicies/default", None, "application/json"),
]
BEYOND_IDS = [f"{method} {path.removeprefix(GROUP)} {index}" for index, (method, path, *_) in enumerate(BEYOND)]


@pytest.mark.parametrize(("method", "path", "body", "kind"), BEYOND, ids=BEYOND_IDS)
def test_an_agent_writes_nothing_else(agent: As, method: str, path: str, body: object, kind: str) -> None:
    code, answer = agent.call(method, path, body, kind)
    assert (code, answer["reason"]) == (403, "Forbidden")
    assert "ValidatingAdmissionPolicy" not in answer["message"], "RBAC has let it through"


def test_a_role_too_wide_opens_nothing(cluster: Cluster, almighty: As) -> None:
    for method, path, body, kind in BEYOND:
        code, answer = almighty.call(method, path, body, kind)
        assert (code, answer["reason"]) == (403, "Forbidden"), (method, path, answer)
        assert "an agent may write the status of a NodeRegistryConfig and nothing else" in answer["message"]
    forged = {**cluster.get("nrc", "pi-2"), "status": {"appliedRevision": "forged"}}
    assert almighty.call("PUT", f"{OTHER}/status", forged)[0] == 403
    mine = {**cluster.get("nrc", "pi-1"), "status": {"appliedRevision": "put"}}
    assert almighty.call("PUT", f"{OWN}/status", mine)[0] == 200
    assert sorted(item["metadata"]["name"] for item in cluster.get("nrc")["items"]) == ["pi-1", "pi-2"]


def test_a_token_that_names_no_node_writes_nothing(cluster: Cluster) -> None:
    unbound = As(cluster.plane.service_account_kubeconfig(SYSTEM, AGENT))
    for path in (OWN, OTHER):
        code, answer = unbound.call("PATCH", f"{path}/status", {"status": {"appliedRevision": "x"}}, MERGE)
        assert code == 403
        assert "the token of the agent names no node" in answer["message"]


def test_whoever_plays_the_agent_without_its_token_writes_nothing(cluster: Cluster) -> None:
    # Impersonation brings none of what a token says.
    played = As(cluster.plane.admin_kubeconfig, {"Impersonate-User": f"system:serviceaccount:{SYSTEM}:{AGENT}"})
    code, answer = played.call("PATCH", f"{OWN}/status", {"status": {"appliedRevision": "x"}}, MERGE)
    assert code == 403
    assert "the token of the agent names no node" in answer["message"]


def test_a_token_bound_to_the_node_itself_is_as_good(cluster: Cluster) -> None:
    bound = As(cluster.plane.service_account_kubeconfig(SYSTEM, AGENT, ("Node", "pi-2")))
    assert bound.rest.may_patch_status(CONFIGS, "pi-2") is True
    assert bound.rest.may_patch_status(CONFIGS, "pi-1") is False
    assert bound.rest.may_patch_status(CONFIGS, "pi-9") is None


def test_the_policy_is_about_agents_only(cluster: Cluster) -> None:
    controller = As(cluster.plane.service_account_kubeconfig(SYSTEM, "registry-mirror-controller"))
    body = {"spec": {"revision": "planned"}}
    assert controller.call("PATCH", f"{OTHER}?dryRun=All", body, MERGE)[0] == 200
    assert controller.call("PATCH", f"{OTHER}/status?dryRun=All", {}, MERGE)[0] == 403


# ---- the agent's own look --------------------------------------------------------------------------------------------


def test_an_agent_sees_that_it_is_confined(cluster: Cluster, agent: As) -> None:
    seen = Confinement(agent.rest, "pi-1", required=True)
    assert seen.problem() is None
    with unguarded(cluster):
        assert seen.problem() is None, "it asks at its start, and not again"


def test_an_agent_that_is_not_confined_waits_a_moment_and_then_refuses(cluster: Cluster, agent: As) -> None:
    seen = Confinement(agent.rest, "pi-1", required=True)
    tolerant = Confinement(agent.rest, "pi-1", required=False)
    with unguarded(cluster):
        found = [seen.problem() for _ in range(6)]
        assert [type(item) for item in found] == [*[WaitingError] * 5, InvalidError]
        assert {item.reason for item in found if item} == {REASON}
        assert "NodeRegistryConfig pi-2" in str(found[0])
        assert tolerant.problem() is None
    assert seen.problem() is None


def test_a_node_alone_is_asked_about_again(cluster: Cluster, agent: As) -> None:
    kept = cluster.get("nrc", "pi-2")
    cluster.kubectl("delete", "nrc", "pi-2")
    seen = Confinement(agent.rest, "pi-1", required=True)
    try:
        assert seen.problem() is None
    finally:
        cluster.apply(whole("pi-2", spec=kept.get("spec") or {}))
    with unguarded(cluster):
        assert isinstance(seen.problem(), WaitingError)


def test_it_is_an_error_not_to_know(cluster: Cluster) -> None:
    nobody = As(cluster.plane.service_account_kubeconfig(SYSTEM, "registry-mirror-controller"))
    assert Confinement(nobody.rest, "pi-1", required=True).problem() is None, "refused by RBAC is refused"
    cluster.kubectl("create", "serviceaccount", "stranger")
    stranger = As(cluster.plane.service_account_kubeconfig("default", "stranger"))
    with pytest.raises(ApiError):
        Confinement(stranger.rest, "pi-1", required=True).problem()


def test_an_agent_without_the_policy_refuses_and_goes_on_as_soon_as_it_is_there(cluster: Cluster) -> None:
    cluster.kubectl("patch", "nrc", "pi-1", "--type=merge", '-p={"spec":{"revision":"r"}}')
    before = cluster.nodes["pi-1"].files()

    def stalled() -> dict[str, Any]:
        return cluster.condition("pi-1", "Stalled", "nrc")

    with unguarded(cluster):
        process = cluster.start_agent("pi-1", "--resync", "1")
        cluster.until(lambda: stalled().get("status") == "True", "it is Stalled", 60)
        assert stalled()["reason"] == REASON
        assert "manifests/base/admission-agents.yaml" in stalled()["message"]
        assert not cluster.get("nrc", "pi-1")["status"].get("runtime"), "it has not looked at the node"
        assert not cluster.nodes["pi-1"].path("/var/lib/registry-mirror/state.json").exists()
    cluster.until(lambda: stalled().get("status") == "False", "it works", 60)
    assert cluster.get("nrc", "pi-1")["status"]["runtime"]["name"] == "k3s"
    assert cluster.nodes["pi-1"].files() == before
    process.stop()


def test_an_owner_may_accept_it(cluster: Cluster) -> None:
    with unguarded(cluster):
        process = cluster.start_agent("pi-2", "--node-confinement", "warn")
        cluster.until(lambda: (cluster.get("nrc", "pi-2").get("status") or {}).get("runtime"), "it works", 60)
    assert "lets the agent of this node write the status of other nodes" in process.tail(50)
    process.stop()


def test_the_component_for_old_clusters_leaves_the_policies_out_and_has_agents_warn(
    cluster: Cluster, tmp_path: Path
) -> None:
    for name in ("crds", "manifests"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    own = {"resources": ["../manifests/overlays/k3s"], "components": ["../manifests/components/unconfined"]}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "kustomization.yaml").write_text(json.dumps(own))
    both = [
        [body for body in yaml.safe_load_all(cluster.kubectl("kustomize", str(tmp_path / path))) if body]
        for path in ("manifests/overlays/k3s", "own")
    ]
    plain, made = ({f"{body['kind']} {body['metadata']['name']}": body for body in objects} for objects in both)
    assert {name.split()[0] for name in plain.keys() - made.keys()} == {
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    for name, body in made.items():
        if name == "DaemonSet registry-mirror-agent":
            args = plain[name]["spec"]["template"]["spec"]["containers"][0]["args"]
            args.append("--node-confinement=warn")
        assert body == plain[name]


# ---- who may do what -------------------------------------------------------------------------------------------------

NAMESPACES = (SYSTEM, BUNDLES, "kube-node-lease", "kube-system", "default")
ACCOUNTS = ("registry-mirror-controller", AGENT)
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
# What would be worth having to somebody who has taken over one of the programs.
RESOURCES = [
    "configmaps",
    "events",
    "namespaces",
    "nodes",
    "nodes/proxy",
    "nodes/status",
    "persistentvolumes",
    "pods",
    "pods/attach",
    "pods/ephemeralcontainers",
    "pods/eviction",
    "pods/exec",
    "pods/log",
    "pods/portforward",
    "secrets",
    "serviceaccounts",
    "serviceaccounts/token",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "customresourcedefinitions.apiextensions.k8s.io",
    "daemonsets.apps",
    "deployments.apps",
    "tokenreviews.authentication.k8s.io",
    "certificatesigningrequests.certificates.k8s.io",
    "certificatesigningrequests.certificates.k8s.io/approval",
    "leases.coordination.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "noderegistryconfigs.registrymirror.io",
    "noderegistryconfigs.registrymirror.io/status",
    "registrymirrors.registrymirror.io",
    "registrymirrors.registrymirror.io/status",
    "registrymirrors.registrymirror.io/finalizers",
    "registrymirrorpolicies.registrymirror.io",
    "registrymirrorpolicies.registrymirror.io/status",
]
SPECIAL = [
    ("impersonate", "users"),
    ("impersonate", "groups"),
    ("impersonate", "serviceaccounts"),
    ("bind", "clusterroles.rbac.authorization.k8s.io"),
    ("escalate", "clusterroles.rbac.authorization.k8s.io"),
    ("approve", "signers.certificates.k8s.io"),
    ("sign", "signers.certificates.k8s.io"),
    ("*", "*"),
]

Right = tuple[str, str]


def wanted(account: str, namespace: str) -> set[Right]:
    """Verb and resource, as the table of test_manifests.py has them, in a namespace or for all of the cluster."""
    rows = [row for row in ALLOWED if row[0] == account and row[3] in ("", namespace)]
    return {(verb, resource) for _, verbs, resource, _ in rows for verb in verbs.split()}


def resource_rights(who: As, namespace: str) -> set[Right]:
    """Every right that the API server's authorizer knows of in a namespace."""
    status = who.review("SelfSubjectRulesReview", {"namespace": namespace})
    found = set()
    for rule in status["resourceRules"]:
        names = itertools.product(rule["verbs"], rule["apiGroups"], rule["resources"], rule.get("resourceNames", [""]))
        for verb, group, resource, name in names:
            plural, slash, subresource = resource.partition("/")
            full = (f"{plural}.{group}" if group else plural) + slash + subresource
            found.add((verb, f"{full} {name}".rstrip()))
    return found


def urls(who: As) -> set[Right]:
    """Every right to a path of the API server that is no resource."""
    rules = who.review("SelfSubjectRulesReview", {"namespace": "default"})["nonResourceRules"]
    return {right for rule in rules for right in itertools.product(rule["verbs"], rule["nonResourceURLs"])}


@pytest.fixture(scope="module")
def nobody(cluster: Cluster) -> As:
    """An account to which nobody has given anything: what it may do, everybody may."""
    cluster.kubectl("create", "serviceaccount", "nobody")
    return As(cluster.plane.service_account_kubeconfig("default", "nobody"))


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_has_the_rights_of_the_table_and_no_others(
    cluster: Cluster, nobody: As, account: str, namespace: str
) -> None:
    who = As(cluster.plane.service_account_kubeconfig(SYSTEM, account))
    assert resource_rights(who, namespace) - resource_rights(nobody, namespace) == wanted(account, namespace)
    assert urls(who) == urls(nobody)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_the_authorizer_answers_so_too(cluster: Cluster, account: str) -> None:
    # By single questions, which every authorizer answers and not RBAC alone.
    who = As(cluster.plane.service_account_kubeconfig(SYSTEM, account))
    for namespace in (SYSTEM, BUNDLES, "kube-system"):
        asked = [*itertools.product(VERBS, RESOURCES), *SPECIAL]
        found = {right for right in asked if allowed(who, *right, namespace)}
        assert found == wanted(account, namespace) & set(asked), namespace


def allowed(who: As, verb: str, resource: str, namespace: str) -> bool:
    full, _, subresource = resource.partition("/")
    plural, _, group = full.partition(".")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource, "namespace": namespace}
    return bool(who.review("SelfSubjectAccessReview", {"resourceAttributes": attributes})["allowed"])


def test_the_account_that_cleans_up_may_do_nothing(cluster: Cluster, nobody: As) -> None:
    cluster.kubectl("apply", "-k", str(REPOSITORY / "manifests" / "cleanup" / "k3s"))
    try:
        who = As(cluster.plane.service_account_kubeconfig("registry-mirror-cleanup", "registry-mirror-cleanup"))
        for namespace in (*NAMESPACES, "registry-mirror-cleanup"):
            assert resource_rights(who, namespace) == resource_rights(nobody, namespace)
    finally:
        cluster.kubectl("delete", "-k", str(REPOSITORY / "manifests" / "cleanup" / "k3s"), "--wait=false")
