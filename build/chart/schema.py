"""The JSON schema of the chart's values; what policy and mirrors may hold comes from the CRDs."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

RUNTIMES = ("k3s", "rke2", "microk8s", "k0s", "crio", "containerd")
_DNS = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_KEPT = (
    *("type", "description", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("minProperties", "maxProperties", "pattern", "required"),
)

_FLAG: Schema = {"type": "boolean"}
_TEXT: Schema = {"type": "string"}
_STRINGS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def values_schema(policy: Schema, mirror: Schema, descriptions: dict[str, str]) -> Schema:
    """Give the schema; takes the CRDs of policies and mirrors, and what values.yaml says of each value by its path."""
    known = {
        "runtime": {"enum": list(RUNTIMES)},
        "image": _image(),
        "restoreOnUninstall": _FLAG,
        "restoreWhenGone": _pattern(r"^([0-9]{1,6}(ms|s|m)|[0-9]{1,4}h)+$"),
        "openrc": _FLAG,
        "unconfined": _FLAG,
        "agent": _agent(),
        "controller": _controller(),
        "policy": _spec(policy),
        # Helm names the wrong place where propertyNames does not hold: templates/checks.yaml looks at the names.
        "mirrors": {"type": "object", "additionalProperties": _spec(mirror)},
        "crds": _object(install=_FLAG, keep=_FLAG),
        "networkPolicy": _object(enabled=_FLAG),
        "monitoring": _object(enabled=_FLAG, labels=_STRINGS),
        "argocdWaves": _FLAG,
        # Helm adds it where this chart is a part of another.
        "global": {"type": "object"},
    }
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **_object(**known), "required": ["runtime"]}
    for path, description in descriptions.items():
        _below(schema, path)["description"] = description
    return schema


def from_crd(node: Schema) -> Schema:
    """Turn a structural schema of a CRD into one that also refuses unknown fields; its CEL rules stay with the API."""
    found: Schema = {key: node[key] for key in _KEPT if key in node}
    if node.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    if "properties" in node:
        found["properties"] = {name: from_crd(item) for name, item in node["properties"].items()}
        found["additionalProperties"] = False
    elif isinstance(node.get("additionalProperties"), dict):
        found["additionalProperties"] = from_crd(node["additionalProperties"])
    if "items" in node:
        found["items"] = from_crd(node["items"])
    return found


def _spec(crd: Schema) -> Schema:
    (version,) = crd["spec"]["versions"]
    spec: Schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return from_crd(spec)


def _image() -> Schema:
    return _object(
        repository={"type": "string", "pattern": r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*$"},
        tag=_pattern(r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"),
        digest=_pattern(r"^(sha256:[0-9a-f]{64})?$"),
        pullPolicy={"enum": ["", "Always", "IfNotPresent", "Never"]},
        pullSecrets={"type": "array", "items": _name()},
    )


def _agent() -> Schema:
    variable = _object(name=_pattern(r"^[A-Za-z_][A-Za-z0-9_]*$"), value=_TEXT)
    return _object(
        extraArgs={"type": "array", "items": _pattern(r"^--[a-z][a-z0-9-]*(=.*)?$")},
        extraEnv={"type": "array", "items": {**variable, "required": ["name", "value"]}},
        **_placed(),
    )


def _controller() -> Schema:
    return _object(
        replicas={"type": "integer", "minimum": 0, "maximum": 10},
        priorityClassName=_pattern(r"^[a-z0-9.-]*$"),
        affinity=_object(nodeAffinity={}, podAffinity={}, podAntiAffinity={}),
        **_placed(),
    )


def _placed() -> dict[str, Schema]:
    """What agent and controller have in common."""
    quantity = _pattern(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
    quantity["type"] = ["string", "number"]
    amounts: Schema = {"type": "object", "additionalProperties": quantity}
    toleration = _object(
        key=_TEXT,
        operator={"enum": ["Exists", "Equal"]},
        value=_TEXT,
        effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        tolerationSeconds={"type": "integer"},
    )
    return {
        "resources": _object(requests=amounts, limits=amounts),
        "nodeSelector": _STRINGS,
        "tolerations": {"type": "array", "items": toleration},
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _pattern(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def _name() -> Schema:
    return {**_pattern(_DNS), "maxLength": 253}


def _below(schema: Schema, path: str) -> Schema:
    """The part of the schema for a value. It is copied on the way: parts are shared."""
    for name in path.split("."):
        properties = schema["properties"]
        properties[name] = {**properties[name]}
        schema = properties[name]
        if "properties" in schema:
            schema["properties"] = {**schema["properties"]}
    return schema
