"""What is wrong with the installation itself: parts that are missing, too old, or do not run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import msgspec

from ...api.models import GROUP, VERSION, NodeRegistryConfigSpec, RegistryMirrorPolicySpec, RegistryMirrorSpec
from ..finding import Finding
from ..words import some
from .picture import Json, Picture

NAMESPACES = ("registry-mirror-system", "registry-mirror-bundles")
POLICIES = ("registry-mirror-agents", "registry-mirror-controller-nodes")
SPECS: Mapping[str, type] = {
    f"registrymirrors.{GROUP}": RegistryMirrorSpec,
    f"registrymirrorpolicies.{GROUP}": RegistryMirrorPolicySpec,
    f"noderegistryconfigs.{GROUP}": NodeRegistryConfigSpec,
}
_ENFORCE = "pod-security.kubernetes.io/enforce"
_APPLY = "kubectl apply -k manifests/overlays/… of the version that you use"
_WARN = "--node-confinement"


def findings(seen: Picture) -> Iterator[Finding]:
    """Give what is wrong with the installation."""
    yield from of_controller(seen)
    yield from _namespaces(seen.parts.namespaces)
    yield from _workloads(seen.parts.workloads)
    yield from _crds(seen.parts.crds)
    yield from _confinement(seen)


def of_controller(seen: Picture) -> Iterator[Finding]:
    """No controller works: nothing changes any more, and what the objects say is old."""
    leader = seen.overview.leader
    if leader is None or leader.alive:
        return
    text = f"{leader.holder} led until {leader.renewed}" if leader.holder else "nobody has taken the Lease"
    yield Finding(
        reason="NoController",
        severity="error",
        subject="Lease registry-mirror-controller",
        evidence=f"no controller works: {text}; what the objects say may be out of date",
        remedy="kubectl -n registry-mirror-system describe pods -l app.kubernetes.io/component=controller says why",
    )


def _namespaces(found: Mapping[str, Json | None] | None) -> Iterator[Finding]:
    for name, body in (found or {}).items():
        if body is None:
            yield _missing("NamespaceMissing", f"Namespace {name}")
            continue
        enforced = (body["metadata"].get("labels") or {}).get(_ENFORCE, "privileged")
        if name == NAMESPACES[0] and enforced != "privileged":
            yield Finding(
                reason="NamespaceRefusesAgents",
                severity="error",
                subject=f"Namespace {name}",
                evidence=f"its label {_ENFORCE} is {enforced}: Pods with directories of the host are refused",
                remedy=f"kubectl label namespace {name} {_ENFORCE}=privileged --overwrite",
            )


def _workloads(found: Mapping[str, Json | None] | None) -> Iterator[Finding]:
    for kind, body in (found or {}).items():
        name = f"{kind} registry-mirror-{'agent' if kind == 'DaemonSet' else 'controller'}"
        if body is None:
            yield _missing("NotInstalled", name)
            continue
        status = body.get("status") or {}
        if kind != "Deployment" or not status.get("observedGeneration"):
            continue
        wanted, ready = body["spec"].get("replicas", 1), status.get("readyReplicas", 0)
        if ready < wanted:
            yield Finding(
                reason="ControllerNotReady",
                severity="warning" if ready else "error",
                subject=name,
                evidence=f"{ready} of {wanted} Pods are ready",
                remedy="kubectl -n registry-mirror-system describe pods -l app.kubernetes.io/component=controller "
                "says why",
            )


def _missing(reason: str, subject: str) -> Finding:
    return Finding(reason=reason, severity="error", subject=subject, evidence="it does not exist", remedy=_APPLY)


# ---- CRDs --------------------------------------------------------------------------------------------------------


def _crds(found: Mapping[str, Json | None] | None) -> Iterator[Finding]:
    for name, body in (found or {}).items():
        if body is None:
            yield _missing("CRDMissing", f"CustomResourceDefinition {name}")
            continue
        served = {item["name"]: item for item in body["spec"].get("versions") or () if item.get("served")}
        if VERSION not in served:
            text = f"it serves {some(sorted(served)) or 'no version'}, not {VERSION}"
            yield _outdated(name, text)
            continue
        schema = (served[VERSION].get("schema") or {}).get("openAPIV3Schema") or {}
        lacking = sorted(_lacking(SPECS[name], schema.get("properties", {}).get("spec") or {}, "spec"))
        if lacking:
            yield _outdated(name, f"it does not know {some(lacking)}: the API server drops or refuses such fields")


def _outdated(name: str, evidence: str) -> Finding:
    remedy = "kubectl apply -k crds of the version that you use: kubectl and Helm leave CRDs alone on an upgrade"
    return Finding(
        reason="CRDOutdated",
        severity="error",
        subject=f"CustomResourceDefinition {name}",
        evidence=evidence,
        remedy=remedy,
    )


def _lacking(model: type, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    """Give the fields of a model that a schema has not, as paths."""
    known = schema.get("properties") or {}
    for field in msgspec.structs.fields(model):
        here = f"{path}.{field.encode_name}"
        if field.encode_name not in known:
            yield here
            continue
        below = known[field.encode_name]
        for inner, is_list in _models(msgspec.inspect.type_info(field.type)):
            yield from _lacking(inner, below.get("items") or {} if is_list else below, f"{here}[]" if is_list else here)


def _models(info: msgspec.inspect.Type, is_list: bool = False) -> Iterator[tuple[type, bool]]:
    """Give the models in a field's type, and whether they are the items of a list."""
    match info:
        case msgspec.inspect.StructType(cls=cls):
            yield cls, is_list
        case msgspec.inspect.UnionType(types=types):
            for item in types:
                yield from _models(item, is_list)
        case msgspec.inspect.VarTupleType(item_type=item) | msgspec.inspect.ListType(item_type=item):
            yield from _models(item, True)
        case msgspec.inspect.Metadata(type=item):
            yield from _models(item, is_list)


# ---- admission policies ------------------------------------------------------------------------------------------


def _confinement(seen: Picture) -> Iterator[Finding]:
    """The policies that keep agents to their nodes, and the controller to the startup taint, and their bindings."""
    policies, bindings = seen.parts.policies, seen.parts.bindings
    if policies is None or bindings is None:
        return
    for name in POLICIES:
        evidence = _unguarded(name, policies.get(name), bindings.get(name))
        if not evidence:
            continue
        agents = name == POLICIES[0]
        accepted = agents and _accepts(seen)
        effect = (
            "agents may write the status of other nodes"
            if accepted
            else "agents do nothing without it"
            if agents
            else "the controller may change all of Nodes"
        )
        file = "admission-agents.yaml" if agents else "admission-nodes.yaml"
        yield Finding(
            reason="AdmissionPolicyMissing",
            severity="error" if agents and not accepted else "warning",
            subject=f"ValidatingAdmissionPolicy {name}",
            evidence=f"{evidence}: {effect}",
            remedy=f"kubectl apply -f manifests/base/{file}",
        )


def _unguarded(name: str, policy: Json | None, binding: Json | None) -> str:
    """Say what keeps a policy from being in force; empty if nothing does."""
    if policy is None:
        return "it does not exist"
    if binding is None:
        return f"its ValidatingAdmissionPolicyBinding {name} does not exist"
    if "Deny" not in (binding["spec"].get("validationActions") or ()):
        return "its binding does not deny"
    return "" if binding["spec"].get("policyName") == name else "its binding is for another policy"


def _accepts(seen: Picture) -> bool:
    """Whether the agents are told to work without it."""
    body = (seen.parts.workloads or {}).get("DaemonSet") or {}
    spec = (body.get("spec") or {}).get("template", {}).get("spec", {})
    words = [word for item in spec.get("containers") or () for word in item.get("args") or ()]
    return f"{_WARN}=warn" in words or (_WARN, "warn") in pairwise(words)
