"""The CRDs and the models must say the same: what the API server stores is what the program parses, and the reverse.

Both are written by hand, the schemas because their descriptions are documentation, the models because they are code; so
a walk over the two side by side fails on any difference. The mutations below prove that it does.

How defaults compare: a model field without a default is required. None and empty collections have no default in the
schema: absent means the same. What users write (models.Spec) carries every other default in the schema too, so that
`kubectl get` shows it; a nested object has the default {} and its own fields fill it in. What programs write
(models.Status) has none in the schema, and may therefore default to empty values only.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec import inspect

from registry_mirror.api import grammar, models
from registry_mirror.api.conditions import Condition

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "registrymirrors": models.RegistryMirror,
    "registrymirrorpolicies": models.RegistryMirrorPolicy,
    "noderegistryconfigs": models.NodeRegistryConfig,
}
# metav1.Condition wants all of these; the program always writes them all, and reads fewer without complaint.
CONDITION_REQUIRED = {"type", "status", "reason", "message", "lastTransitionTime"}
# Said by the schema only: documentation, how lists and maps are merged, rules (the API server tests check those).
SCHEMA_ONLY = {
    "description",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
}
# metav1.Condition again: what the models hold as plain strings.
STRING_FORMS: dict[tuple[type, str], str] = {
    (Condition, "type"): "pattern",
    (Condition, "reason"): "pattern",
    (Condition, "lastTransitionTime"): "format",
}
NOTHING: Any = object()

Schema = dict[str, Any]


def read_crd(plural: str) -> Schema:
    document: Schema = yaml.safe_load((ROOT / "crds" / f"{plural}.yaml").read_text())
    return document


def schema_of(crd: Schema) -> Schema:
    (version,) = crd["spec"]["versions"]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


def differences(schema: Schema, model: type) -> list[str]:
    """Give every difference between a CRD's schema and the model of its kind, each with the path of the field."""
    root = inspect.type_info(model)
    assert isinstance(root, inspect.StructType)
    body = copy.deepcopy(schema)
    found: list[str] = []
    # The API server's own fields: the models read what they need of metadata and let the rest be.
    properties = body.get("properties", {})
    expected_head = {"apiVersion": "string", "kind": "string", "metadata": "object"}
    found += [
        f".{name}: not declared as {type_}"
        for name, type_ in expected_head.items()
        if properties.pop(name, {}).get("type") != type_
    ]
    fields = tuple(item for item in root.fields if item.encode_name != "metadata")
    found += _object(body, root.cls, fields, "")
    if not body.get("description"):
        found.append(": no description")
    return found


def _object(schema: Schema, cls: type, fields: tuple[inspect.Field, ...], path: str) -> Iterator[str]:
    yield from _keywords(schema, {"type", "properties", "required"}, path)
    yield from _equal(schema.get("type"), "object", f"{path}: type")
    properties: dict[str, Schema] = schema.get("properties", {})
    for name in properties.keys() - {item.encode_name for item in fields}:
        yield f"{path}.{name}: in the schema only"
    required = {item.encode_name for item in fields if item.required}
    if cls is Condition:
        yield from ([] if required <= CONDITION_REQUIRED else [f"{path}: the model requires more than metav1"])
        required = CONDITION_REQUIRED
    yield from _equal(set(schema.get("required", [])), required, f"{path}: required")
    for item in fields:
        where = f"{path}.{item.encode_name}"
        if item.encode_name not in properties:
            yield f"{where}: in the model only"
            continue
        inner = dict(properties[item.encode_name])
        if not str(inner.get("description", "")).strip():
            yield f"{where}: no description"
        form = STRING_FORMS.get((cls, item.encode_name))
        if form and not inner.pop(form, None):
            yield f"{where}: no {form}"
        yield from _default(inner.pop("default", NOTHING), cls, item, where)
        yield from _type(inner, item.type, where)


def _default(stated: Any, cls: type, item: inspect.Field, path: str) -> Iterator[str]:
    value = item.default
    if value is msgspec.NODEFAULT and item.default_factory is not msgspec.NODEFAULT:
        value = item.default_factory()
    expected: Any = NOTHING
    if issubclass(cls, models.Spec) or (cls is models.RegistryMirrorPolicy and item.name == "spec"):
        if isinstance(value, msgspec.Struct):
            # {} is right only if the fields' own defaults amount to the value: the model's do, and those are compared.
            expected = {}
            yield from _equal(value, type(value)(), f"{path}: a default that is not all defaults")
        elif value is not None and value is not msgspec.NODEFAULT and value != () and value != {}:
            expected = list(value) if isinstance(value, tuple) else value
    elif cls is not Condition and value is not msgspec.NODEFAULT:
        empty = (isinstance(value, msgspec.Struct) and value == type(value)()) or value in (None, "", 0, False, (), {})
        yield from ([] if empty else [f"{path}: a default that is not empty, in what programs write"])
    shown = "none" if stated is NOTHING else stated
    if type(stated) is not type(expected) or stated != expected:
        yield f"{path}: default {shown!r}, in the model {'none' if expected is NOTHING else expected!r}"


def _type(schema: Schema, wanted: inspect.Type, path: str) -> Iterator[str]:
    if isinstance(wanted, inspect.UnionType):
        rest = tuple(item for item in wanted.types if not isinstance(item, inspect.NoneType))
        if len(rest) == 1:
            yield from _type(schema, rest[0], path)
        else:
            plain = rest == (inspect.IntType(), inspect.StrType())
            yield from ([] if plain else [f"{path}: a union that is not int | str"])
            yield from _keywords(schema, {"x-kubernetes-int-or-string"}, path)
            yield from _equal(schema.get("x-kubernetes-int-or-string"), True, f"{path}: x-kubernetes-int-or-string")
    elif isinstance(wanted, inspect.StructType):
        yield from _object(schema, wanted.cls, wanted.fields, path)
    elif isinstance(wanted, inspect.DictType):
        limits = {"minProperties": wanted.min_length, "maxProperties": wanted.max_length}
        yield from _leaf(schema, "object", limits, path, {"additionalProperties"})
        yield from _equal(wanted.key_type, inspect.StrType(), f"{path}: keys")
        yield from _type(schema.get("additionalProperties", {}), wanted.value_type, f"{path}{{}}")
    elif isinstance(wanted, inspect.VarTupleType):
        limits = {"minItems": wanted.min_length, "maxItems": wanted.max_length}
        yield from _leaf(schema, "array", limits, path, {"items"})
        yield from ([] if schema.get("x-kubernetes-list-type") else [f"{path}: no x-kubernetes-list-type"])
        yield from _type(schema.get("items", {}), wanted.item_type, f"{path}[]")
    else:
        yield from _scalar(schema, wanted, path)


def _scalar(schema: Schema, wanted: inspect.Type, path: str) -> Iterator[str]:
    if isinstance(wanted, inspect.LiteralType):
        yield from _leaf(schema, "string", {}, path, {"enum"})
        yield from _equal(set(schema.get("enum", [])), set(wanted.values), f"{path}: enum")
    elif isinstance(wanted, inspect.StrType):
        limits = {"minLength": wanted.min_length, "maxLength": wanted.max_length, "pattern": wanted.pattern}
        yield from _leaf(schema, "string", limits, path)
    elif isinstance(wanted, inspect.IntType):
        yield from _equal((wanted.gt, wanted.lt, wanted.multiple_of), (None,) * 3, f"{path}: gt, lt, multiple_of")
        yield from _leaf(schema, "integer", {"minimum": wanted.ge, "maximum": wanted.le}, path)
    elif isinstance(wanted, inspect.BoolType):
        yield from _leaf(schema, "boolean", {}, path)
    else:
        yield f"{path}: no rule for {type(wanted).__name__}"


def _leaf(
    schema: Schema, type_: str, limits: Mapping[str, Any], path: str, more: frozenset[str] | set[str] = frozenset()
) -> Iterator[str]:
    yield from _keywords(schema, {"type", *limits, *more}, path)
    yield from _equal(schema.get("type"), type_, f"{path}: type")
    for keyword, limit in limits.items():
        yield from _equal(schema.get(keyword), limit, f"{path}: {keyword}")


def _keywords(schema: Schema, known: set[str], path: str) -> Iterator[str]:
    for keyword in schema.keys() - known - SCHEMA_ONLY:
        yield f"{path}: {keyword} in the schema only"


def _equal(stated: Any, wanted: Any, what: str) -> Iterator[str]:
    if stated != wanted:
        yield f"{what}: {stated!r}, in the model {wanted!r}"


@pytest.mark.parametrize("plural", KINDS)
def test_schema_and_model_say_the_same(plural: str) -> None:
    assert differences(schema_of(read_crd(plural)), KINDS[plural]) == []


@pytest.mark.parametrize("plural", KINDS)
def test_condition_writers_always_write_what_the_schema_requires(plural: str) -> None:
    # The exception that CONDITION_REQUIRED makes is sound only if nothing is omitted when it equals its default.
    assert not Condition.__struct_config__.omit_defaults
    written = msgspec.json.decode(msgspec.json.encode(Condition(type="Ready", status="True", reason="Applied")))
    assert written.keys() >= CONDITION_REQUIRED


@pytest.mark.parametrize("plural", KINDS)
def test_names_scope_and_status(plural: str) -> None:
    crd = read_crd(plural)
    spec, kind = crd["spec"], KINDS[plural].__name__
    short = {"registrymirrors": "rmir", "registrymirrorpolicies": "rmpol", "noderegistryconfigs": "nrc"}[plural]
    assert crd["metadata"]["name"] == f"{plural}.{models.GROUP}"
    assert (spec["group"], spec["scope"]) == (models.GROUP, "Cluster")
    names = spec["names"]
    assert (names["plural"], names["kind"], names["singular"]) == (plural, kind, kind.lower())
    assert (names["shortNames"], names["categories"]) == ([short], ["registry-mirror"])
    (version,) = spec["versions"]
    assert (version["name"], version["subresources"]) == (models.VERSION, {"status": {}})


def test_rules_use_the_words_of_the_grammar() -> None:
    rules = list(_rules(schema_of(read_crd("registrymirrors"))))
    assert rules
    messages = {" ".join(rule["message"].split()) for rule in rules}
    wanted = {
        grammar.REGISTRY_FORM,
        grammar.URL_FORM,
        grammar.DURATION_FORM,
        grammar.registry_problem("index.docker.io"),
        grammar.registry_problem("single-word"),
        grammar.url_problem("https://example.com/../x"),
    }
    assert wanted <= messages


@pytest.mark.parametrize("plural", KINDS)
def test_message_expressions_end_in_the_message(plural: str) -> None:
    # The message is what the API server falls back to where an expression fails: it must not say something else.
    for rule in _rules(schema_of(read_crd(plural))):
        expression = rule.get("messageExpression")
        if expression is None:
            continue
        # What remains of the expression, without operands, starts with what was found and ends with what to write.
        text = re.sub(r'" \+ [^"]* \+ "', "…", expression.strip().removesuffix('"')).replace('\\"', '"')
        remedy = re.split(r"[;:] ", rule["message"])[-1]
        assert text.endswith(remedy), (text, rule["message"])


def _rules(node: Any) -> Iterator[Schema]:
    if isinstance(node, dict):
        yield from node.get("x-kubernetes-validations", [])
        for value in node.values():
            yield from _rules(value)
    elif isinstance(node, list):
        for value in node:
            yield from _rules(value)


# ---- the proof that the walk notices ---------------------------------------------------------------------------------

MIRROR, POLICY, NODE = KINDS
LABELS = "spec.nodeSelector.matchLabels"
URL = "spec.endpoints.[].url"
REGISTRY = "spec.registry"

Change = Callable[[Schema], None]


def at(schema: Schema, path: str) -> Schema:
    """Give the schema of a field by its path; ``[]`` steps into the items of a list."""
    for step in filter(None, path.split(".")):
        schema = schema["items"] if step == "[]" else schema["properties"][step]
    return schema


def put(keyword: str, value: Any) -> Change:
    return lambda schema: schema.__setitem__(keyword, value)


def drop(keyword: str) -> Change:
    return lambda schema: schema.__delitem__(keyword)


def rename(old: str, new: str) -> Change:
    return lambda schema: schema["properties"].__setitem__(new, schema["properties"].pop(old))


def drop_from(keyword: str, value: str) -> Change:
    return lambda schema: schema[keyword].remove(value)


MUTATIONS: list[tuple[str, str, Change, str]] = [
    (MIRROR, "spec", rename("priority", "prio"), ".spec.prio: in the schema only"),
    (MIRROR, "spec", rename("priority", "prio"), ".spec.priority: in the model only"),
    (MIRROR, "status.nodes", rename("failed", "broken"), ".status.nodes.failed: in the model only"),
    (POLICY, "spec.rollout", rename("paused", "pause"), ".spec.rollout.paused: in the model only"),
    (NODE, "spec", rename("revision", "rev"), ".spec.revision: in the model only"),
    (MIRROR, "", drop("required"), ": required"),
    (MIRROR, "spec", drop("required"), ".spec: required"),
    (MIRROR, "spec", put("required", ["registry", "endpoints"]), ".spec: required"),
    (MIRROR, "spec.endpoints.[]", drop("required"), ".spec.endpoints[]: required"),
    (MIRROR, "status.failures.[]", drop_from("required", "reason"), ".status.failures[]: required"),
    (NODE, "status.conditions.[]", drop_from("required", "reason"), ".status.conditions[]: required"),
    (NODE, "status.runtime.embeddedRegistry", drop("required"), ".status.runtime.embeddedRegistry: required"),
    (MIRROR, "spec.upstream.fallback", drop_from("enum", "Deny"), ".spec.upstream.fallback: enum"),
    (MIRROR, "spec.upstream.fallback", drop("enum"), ".spec.upstream.fallback: enum"),
    (MIRROR, "spec.endpoints.[].capabilities.[]", put("enum", ["Pull"]), ".spec.endpoints[].capabilities[]: enum"),
    (NODE, "status.runtime.name", drop_from("enum", "k0s"), ".status.runtime.name: enum"),
    (NODE, "status.conditions.[].status", drop_from("enum", "Unknown"), ".status.conditions[].status: enum"),
    (MIRROR, "spec.upstream", drop("default"), ".spec.upstream: default"),
    (MIRROR, "spec.upstream", put("default", {"fallback": "Deny"}), ".spec.upstream: default"),
    (MIRROR, "spec.upstream.fallback", put("default", "Deny"), ".spec.upstream.fallback: default"),
    (MIRROR, "spec.priority", drop("default"), ".spec.priority: default"),
    (MIRROR, "spec.priority", put("default", False), ".spec.priority: default"),
    (MIRROR, "spec.endpoints.[].capabilities", put("default", ["Pull"]), ".spec.endpoints[].capabilities: default"),
    (MIRROR, "spec.endpoints", put("default", []), ".spec.endpoints: default"),
    (MIRROR, REGISTRY, put("default", "docker.io"), ".spec.registry: default"),
    (POLICY, "spec", drop("default"), ".spec: default"),
    (POLICY, "spec.rollout.canary", drop("default"), ".spec.rollout.canary: default"),
    (POLICY, "spec.rollout.canary.soak", put("default", "31s"), ".spec.rollout.canary.soak: default"),
    (POLICY, "spec.rollout.maxUnavailable", put("default", "1"), ".spec.rollout.maxUnavailable: default"),
    (POLICY, "spec.startupTaint", drop("default"), ".spec.startupTaint: default"),
    (NODE, "spec.revision", put("default", ""), ".spec.revision: default"),
    (MIRROR, "status.nodes.selected", put("default", 0), ".status.nodes.selected: default"),
    (MIRROR, REGISTRY, put("type", "integer"), ".spec.registry: type"),
    (MIRROR, "spec", put("type", "array"), ".spec: type"),
    (POLICY, "spec.rollout.paused", put("type", "string"), ".spec.rollout.paused: type"),
    (POLICY, "spec.rollout.maxUnavailable", drop("x-kubernetes-int-or-string"), "x-kubernetes-int-or-string"),
    (MIRROR, URL, put("maxLength", 1025), ".spec.endpoints[].url: maxLength"),
    (MIRROR, URL, drop("minLength"), ".spec.endpoints[].url: minLength"),
    (MIRROR, URL, put("pattern", "^https"), ".spec.endpoints[].url: pattern"),
    (MIRROR, URL, put("format", "uri"), ".spec.endpoints[].url: format in the schema only"),
    (MIRROR, URL, put("nullable", True), ".spec.endpoints[].url: nullable in the schema only"),
    (MIRROR, "spec.endpoints", put("maxItems", 17), ".spec.endpoints: maxItems"),
    (MIRROR, "spec.endpoints", drop("x-kubernetes-list-type"), ".spec.endpoints: no x-kubernetes-list-type"),
    (MIRROR, "spec.endpoints.[].capabilities", drop("minItems"), ".spec.endpoints[].capabilities: minItems"),
    (MIRROR, LABELS, put("maxProperties", 65), ".spec.nodeSelector.matchLabels: maxProperties"),
    (MIRROR, LABELS, put("additionalProperties", {"type": "string"}), "matchLabels{}: maxLength"),
    (MIRROR, "spec.priority", put("maximum", 1), ".spec.priority: maximum"),
    (MIRROR, "spec.priority", drop("minimum"), ".spec.priority: minimum"),
    (POLICY, "spec.rollout.canary.nodes", put("minimum", 1), ".spec.rollout.canary.nodes: minimum"),
    (NODE, "status.endpoints", put("maxItems", 4096), ".status.endpoints: maxItems"),
    (NODE, "status.endpoints.[].reason", drop("maxLength"), ".status.endpoints[].reason: maxLength"),
    (NODE, "status.conditions.[].message", put("maxLength", 32768), ".status.conditions[].message: maxLength"),
    (NODE, "status.conditions.[].reason", drop("pattern"), ".status.conditions[].reason: no pattern"),
    (NODE, "status.conditions.[].lastTransitionTime", drop("format"), "lastTransitionTime: no format"),
    (MIRROR, "spec", put("x-kubernetes-preserve-unknown-fields", True), ".spec: x-kubernetes-preserve-unknown-fields"),
    (MIRROR, REGISTRY, drop("description"), ".spec.registry: no description"),
    (MIRROR, REGISTRY, put("description", " "), ".spec.registry: no description"),
    (POLICY, "status", drop("description"), ".status: no description"),
    (NODE, "status.runtime.embeddedRegistry.caFile", drop("description"), "embeddedRegistry.caFile: no description"),
    (NODE, "", drop("description"), ": no description"),
    (NODE, "", lambda schema: schema["properties"].__delitem__("metadata"), ".metadata: not declared as object"),
]


@pytest.mark.parametrize(("plural", "path", "change", "reported"), MUTATIONS)
def test_a_broken_schema_is_reported(plural: str, path: str, change: Change, reported: str) -> None:
    schema = schema_of(read_crd(plural))
    change(at(schema, path))
    found = differences(schema, KINDS[plural])
    assert any(reported in item for item in found), found
    # The cause and at most its counterpart, as with a renamed property: the report leads to the place.
    assert len(found) <= 3, found


class _Wrong(models.Spec, frozen=True, kw_only=True):
    """A nested default that {} in a schema cannot give."""

    upstream: models.Upstream = models.Upstream(fallback="Deny")


class _Written(models.Status, frozen=True, kw_only=True):
    """A default in what programs write that a reader of an absent field would not guess."""

    count: int = 7


@pytest.mark.parametrize(
    ("model", "properties", "reported"),
    [
        (_Wrong, {"upstream": {"default": {}}}, ".upstream: a default that is not all defaults"),
        (_Written, {"count": {"type": "integer"}}, ".count: a default that is not empty"),
    ],
)
def test_a_model_default_that_the_schema_cannot_say_is_reported(model: type, properties: Schema, reported: str) -> None:
    found = differences({"type": "object", "properties": properties}, model)
    assert any(reported in item for item in found), found


@pytest.mark.parametrize("plural", KINDS)
def test_every_limit_and_word_counts(plural: str) -> None:
    # Not a choice of examples: each keyword anywhere in the schema is dropped in turn, and each must be missed.
    quiet: list[str] = []
    original = schema_of(read_crd(plural))
    for path, keyword in _places(original, ()):
        schema = copy.deepcopy(original)
        node: Any = schema
        for step in path:
            node = node[step]
        del node[keyword]
        if not differences(schema, KINDS[plural]):
            quiet.append(".".join(map(str, (*path, keyword))))
    assert quiet == []


def _places(schema: Schema, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    beneath = path[:1] == ("properties",) and path[1:2] in (("spec",), ("status",))
    if beneath:
        skipped = {"x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations"}
        in_items = path[-1] in ("items", "additionalProperties")
        yield from ((path, keyword) for keyword in schema if keyword not in skipped and not in_items)
    for name, inner in schema.get("properties", {}).items():
        yield from _places(inner, (*path, "properties", name))
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield from _places(schema[name], (*path, name))
