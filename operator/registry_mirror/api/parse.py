"""From untyped documents to models, once, at the edge; with errors that name object, field, value and remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from . import grammar
from .errors import FieldError, InvalidError
from .models import (
    API_VERSION,
    TLS,
    Endpoint,
    NodeRegistryConfig,
    RegistryMirror,
    RegistryMirrorPolicy,
    RegistryMirrorSpec,
    Rewrite,
)

_T = TypeVar("_T")
_LOCATION = re.compile(r"^(?P<text>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*)`")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_FOUND_LENGTH = 80


def registry_mirror(body: Mapping[str, Any]) -> RegistryMirror:
    """Give the model of a RegistryMirror document.

    Takes the document as JSON or YAML decodes it, with or without status. Raises InvalidError with everything that is
    wrong with its grammar, or with the first thing that is wrong with its shape.
    """
    mirror = _convert(body, RegistryMirror, "RegistryMirror")
    errors = tuple(_spec_errors(mirror.spec))
    if errors:
        raise InvalidError(subject_of(body, "RegistryMirror"), errors)
    return mirror


def policy(body: Mapping[str, Any]) -> RegistryMirrorPolicy:
    """Give the model of a RegistryMirrorPolicy document; raises InvalidError."""
    return _convert(body, RegistryMirrorPolicy, "RegistryMirrorPolicy")


def node_registry_config(body: Mapping[str, Any]) -> NodeRegistryConfig:
    """Give the model of a NodeRegistryConfig document; raises InvalidError."""
    return _convert(body, NodeRegistryConfig, "NodeRegistryConfig")


def subject_of(body: Mapping[str, Any], kind: str = "") -> str:
    """Name a document for a person: ``RegistryMirror docker-hub``, ``Secret namespace/name``."""
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name = metadata.get("name") or "(without a name)"
    namespace = metadata.get("namespace")
    return f"{kind or body.get('kind') or 'document'} {f'{namespace}/' if namespace else ''}{name}"


def _convert(body: Mapping[str, Any], model: type[_T], kind: str) -> _T:
    subject = subject_of(body, kind)
    version = body.get("apiVersion", API_VERSION)
    if version != API_VERSION:
        raise InvalidError(subject, (FieldError("apiVersion", show(version), f"write {API_VERSION}"),))
    metadata = body.get("metadata")
    if not isinstance(metadata, Mapping) or not metadata.get("name"):
        raise InvalidError(subject, (FieldError("metadata.name", "", "give the object a name"),))
    try:
        return msgspec.convert(dict(body), model)
    except msgspec.ValidationError as error:
        raise InvalidError(subject, (_shape_error(str(error), body, model),)) from None


def _shape_error(text: str, body: Mapping[str, Any], model: Any) -> FieldError:
    """Turn msgspec's message into ours: same fact, with the value that was found and a remedy."""
    match = _LOCATION.match(text)
    assert match is not None  # every part of the pattern is optional
    path = (match["path"] or "").lstrip(".")
    unknown = _UNKNOWN.search(match["text"])
    if unknown:
        name = unknown["name"]
        near = difflib.get_close_matches(name, _field_names(model), n=1)
        remedy = f"did you mean {near[0]}?" if near else "remove it: there is no such field"
        return FieldError(f"{path}.{name}" if path else name, "an unknown field", remedy)
    return FieldError(path, _found(body, path), match["text"][:1].lower() + match["text"][1:])


def _field_names(model: Any) -> list[str]:
    """All field names of a model and of the models inside it, as users write them."""
    names: set[str] = set()
    pending: list[Any] = [msgspec.inspect.type_info(model)]
    while pending:
        node = pending.pop()
        if isinstance(node, msgspec.inspect.StructType):
            names.update(item.encode_name for item in node.fields)
            pending.extend(item.type for item in node.fields)
        elif isinstance(node, msgspec.inspect.UnionType):
            pending.extend(node.types)
        elif isinstance(node, msgspec.inspect.VarTupleType):
            pending.append(node.item_type)
    return sorted(names)


def _found(body: Any, path: str) -> str:
    value = body
    for key, index in _STEP.findall("." + path if path else ""):
        try:
            value = value[int(index)] if index else value[key]
        except (KeyError, IndexError, TypeError):
            return ""
    return show(value)


def show(value: Any) -> str:
    """Render a value from a user's object, shortened, on one line, with nothing that a terminal would act on."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a list of {len(value)}"
    text = repr(value) if isinstance(value, str) else str(msgspec.json.encode(value), "utf-8")
    return text if len(text) <= _FOUND_LENGTH else text[: _FOUND_LENGTH - 1] + "…"


def _spec_errors(spec: RegistryMirrorSpec) -> Iterator[FieldError]:
    problem = grammar.registry_problem(spec.registry)
    if problem:
        yield FieldError("spec.registry", show(spec.registry), problem)
    seen: dict[str, int] = {}
    for index, endpoint in enumerate(spec.endpoints):
        path = f"spec.endpoints[{index}]"
        yield from _endpoint_errors(endpoint, path)
        if grammar.url_problem(endpoint.url):
            continue
        first = seen.setdefault(grammar.normal_url(endpoint.url), index)
        if first != index:
            yield FieldError(
                f"{path}.url",
                show(endpoint.url),
                f"remove it: spec.endpoints[{first}] is the same endpoint ({grammar.normal_url(endpoint.url)})",
            )
    patterns: set[str] = set()
    for index, rewrite in enumerate(spec.rewrites):
        yield from _rewrite_errors(rewrite, f"spec.rewrites[{index}]", patterns)
    if spec.registry == "*" and (spec.upstream.tls or spec.upstream.credentials_ref):
        yield FieldError(
            "spec.upstream", "tls or credentialsRef", 'remove them: "*" stands for many registries, which share neither'
        )


def _endpoint_errors(endpoint: Endpoint, path: str) -> Iterator[FieldError]:
    problem = grammar.url_problem(endpoint.url)
    if problem:
        yield FieldError(f"{path}.url", show(endpoint.url), problem)
    elif endpoint.url.startswith("http://") and endpoint.tls not in (None, TLS()):
        yield FieldError(f"{path}.tls", "TLS settings for an http:// endpoint", "remove tls, or write https://")
    if endpoint.dial_timeout is not None and grammar.duration_problem(endpoint.dial_timeout):
        yield FieldError(f"{path}.dialTimeout", show(endpoint.dial_timeout), grammar.DURATION_FORM)
    if len(set(endpoint.capabilities)) != len(endpoint.capabilities):
        yield FieldError(f"{path}.capabilities", "a repeated value", "write each capability once")
    elif "Pull" not in endpoint.capabilities:
        yield FieldError(f"{path}.capabilities", "[Resolve]", "add Pull: an endpoint without it serves no image")


def _rewrite_errors(rewrite: Rewrite, path: str, patterns: set[str]) -> Iterator[FieldError]:
    problem = grammar.rewrite_problem(rewrite.pattern, rewrite.replacement)
    if problem:
        half, text = problem
        yield FieldError(f"{path}.{half}", show(getattr(rewrite, half)), text)
    if rewrite.pattern in patterns:
        yield FieldError(f"{path}.pattern", show(rewrite.pattern), "remove it: an earlier rewrite has the same pattern")
    patterns.add(rewrite.pattern)
