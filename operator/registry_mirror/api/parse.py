"""From untyped documents to models, once, at the edge; with errors that name object, field, value and remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from . import grammar
from .errors import FieldError, InvalidError
from .images import IMAGE_FORM, parse_image
from .models import (
    API_VERSION,
    TLS,
    Endpoint,
    LabelSelector,
    NodeRegistryConfig,
    RegistryMirror,
    RegistryMirrorPolicy,
    RegistryMirrorPolicySpec,
    RegistryMirrorSpec,
    Rewrite,
)
from .shape import plain, shape_error, show as show

_T = TypeVar("_T")


def registry_mirror(body: Mapping[str, Any]) -> RegistryMirror:
    """Give the model of a RegistryMirror document.

    Takes the document as JSON or YAML decodes it, with or without status. Raises InvalidError with everything that is
    wrong with its grammar, or with the first thing that is wrong with its shape.
    """
    mirror = _convert(body, RegistryMirror, "RegistryMirror")
    _raise_any(body, "RegistryMirror", _spec_errors(mirror.spec))
    return mirror


def policy(body: Mapping[str, Any]) -> RegistryMirrorPolicy:
    """Give the model of a RegistryMirrorPolicy document; raises InvalidError."""
    result = _convert(body, RegistryMirrorPolicy, "RegistryMirrorPolicy")
    _raise_any(body, "RegistryMirrorPolicy", _policy_errors(result.spec))
    return result


def node_registry_config(body: Mapping[str, Any]) -> NodeRegistryConfig:
    """Give the model of a NodeRegistryConfig document; raises InvalidError."""
    return _convert(body, NodeRegistryConfig, "NodeRegistryConfig")


def subject_of(body: Any, kind: str = "") -> str:
    """Name a document for a person: ``RegistryMirror docker-hub``, ``Secret namespace/name``."""
    body = body if isinstance(body, Mapping) else {}
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name = plain(metadata.get("name") or "(without a name)")
    namespace = metadata.get("namespace")
    return f"{kind or plain(body.get('kind') or 'document')} {f'{plain(namespace)}/' if namespace else ''}{name}"


def _raise_any(body: Any, kind: str, found: Iterator[FieldError]) -> None:
    errors = tuple(found)
    if errors:
        raise InvalidError(subject_of(body, kind), errors)


def _convert(body: Any, model: type[_T], kind: str) -> _T:
    subject = subject_of(body, kind)
    if not isinstance(body, Mapping):
        raise InvalidError(subject, (FieldError("", show(body), "write an object with apiVersion, metadata and spec"),))
    version = body.get("apiVersion", API_VERSION)
    if version != API_VERSION:
        raise InvalidError(subject, (FieldError("apiVersion", show(version), f"write {API_VERSION}"),))
    metadata = body.get("metadata")
    if not isinstance(metadata, Mapping) or not metadata.get("name"):
        raise InvalidError(subject, (FieldError("metadata.name", "", "give the object a name"),))
    try:
        found = msgspec.convert(_without_nulls(body), model)
        msgspec.json.encode(found)  # JSON and YAML can spell half a surrogate pair, which no file can hold
        return found
    except msgspec.ValidationError as error:
        raise InvalidError(subject, (shape_error(str(error), body, model),)) from None
    except UnicodeEncodeError:
        raise InvalidError(subject, (FieldError("", "text that is not Unicode", "write UTF-8 text"),)) from None


def _without_nulls(value: Any) -> Any:
    """Drop keys without a value, as the API server does before it fills in defaults: ``endpoints:`` in YAML is one."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


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
    yield from _selector_errors(spec.node_selector, "spec.nodeSelector")
    if spec.registry == "*" and spec.upstream.credentials_ref:
        yield FieldError(
            "spec.upstream", "credentialsRef", 'remove it: "*" stands for many registries, which share no password'
        )


def _selector_errors(selector: LabelSelector | None, path: str) -> Iterator[FieldError]:
    """As LabelSelectorAsSelector in apimachinery: NotIn without values would select every node."""
    for index, item in enumerate(selector.match_expressions if selector is not None else ()):
        where = f"{path}.matchExpressions[{index}].values"
        if item.operator in ("In", "NotIn") and not item.values:
            yield FieldError(where, "no value", f"write at least one: {item.operator} compares with them")
        elif item.operator in ("Exists", "DoesNotExist") and item.values:
            yield FieldError(where, "values", f"remove them: {item.operator} compares with none")


def _policy_errors(spec: RegistryMirrorPolicySpec) -> Iterator[FieldError]:
    durations = {
        "spec.rollout.canary.soak": spec.rollout.canary.soak,
        "spec.rollout.deadline": spec.rollout.deadline,
        "spec.probe.interval": spec.probe.interval,
    }
    durations.update(
        {f"spec.rollout.windows[{index}].duration": item.duration for index, item in enumerate(spec.rollout.windows)}
    )
    for path, value in durations.items():
        if grammar.duration_problem(value):
            yield FieldError(path, show(value), grammar.DURATION_FORM)
    if spec.probe.image is not None and parse_image(spec.probe.image) is None:
        yield FieldError("spec.probe.image", show(spec.probe.image), IMAGE_FORM)
    share = spec.rollout.max_unavailable
    if not (share >= 1 if isinstance(share, int) else grammar.is_share(share)):
        form = 'write a number from 1, or a share from "1%" to "100%"'
        yield FieldError("spec.rollout.maxUnavailable", show(share), form)


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
    yield from _selector_errors(endpoint.node_selector, f"{path}.nodeSelector")


def _rewrite_errors(rewrite: Rewrite, path: str, patterns: set[str]) -> Iterator[FieldError]:
    problem = grammar.rewrite_problem(rewrite.pattern, rewrite.replacement)
    if problem:
        half, text = problem
        yield FieldError(f"{path}.{half}", show(getattr(rewrite, half)), text)
    if rewrite.pattern in patterns:
        yield FieldError(f"{path}.pattern", show(rewrite.pattern), "remove it: an earlier rewrite has the same pattern")
    patterns.add(rewrite.pattern)
