"""Random objects, as odd as the grammar lets users write them, and random documents that nobody should write."""

from __future__ import annotations

from typing import Any

import re2
from hypothesis import strategies as st
from msgspec.structs import replace

from registry_mirror.api.grammar import registry_problem, rewrite_problem, url_problem
from registry_mirror.api.models import EmbeddedRegistry, RuntimeFacts, RuntimeName
from registry_mirror.core.layout import default_facts
from registry_mirror.core.render import RENDERERS
from registry_mirror.core.resolve import Source, Sources
from tests.pure.builders import pem

_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
_NAMES = st.lists(_LABEL, min_size=2, max_size=4).map(".".join)
_IPV6 = st.ip_addresses(v=6).map(lambda address: f"[{address.compressed}]")
_FIXED = st.sampled_from(["docker.io", "registry-1.docker.io", "localhost", "127.0.0.1", "quay.io", "ghcr.io"])
HOSTS = st.one_of(_FIXED, _NAMES, st.ip_addresses(v=4).map(str), _IPV6)
_PORTS = st.one_of(
    st.just(""), st.sampled_from([":443", ":80", ":5000", ":6443"]), st.integers(1, 65535).map(":{}".format)
)
_AUTHORITY = st.builds("{}{}".format, HOSTS, _PORTS)
REGISTRIES = st.one_of(st.just("*"), _AUTHORITY).filter(lambda name: registry_problem(name) is None)
_SEGMENT = st.text("abcXYZ019._~:@!$&()*+,;=-", max_size=8)
_PATHS = st.one_of(
    st.sampled_from(["", "/", "/v2", "/v2/", "/v2/proxy", "//"]),
    st.lists(_SEGMENT, max_size=3).map(lambda parts: "".join(f"/{part}" for part in parts)),
)
URLS = st.builds("{}://{}{}".format, st.sampled_from(["https", "http"]), _AUTHORITY, _PATHS).filter(
    lambda url: url_problem(url) is None
)
# Whatever may stand in a password: anything but control characters, which are refused where Secrets are read.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
_PATTERNS = st.one_of(
    st.sampled_from(["^(.*)$", "^", "^rancher/(.*)", r"^library/([^/]+)\.x$", '^a"b\\\\(c)', "(?P<name>x)"]),
    TEXT.map(re2.escape),
)
_REPLACEMENTS = st.one_of(
    st.sampled_from(["$1", "x/$1", "${1}/y", "a/b/$1", "$$"]), TEXT.map(lambda text: text.replace("$", "$$"))
)
REWRITES = st.builds(lambda pattern, new: {"pattern": pattern, "replacement": new}, _PATTERNS, _REPLACEMENTS).filter(
    lambda item: rewrite_problem(item["pattern"], item["replacement"]) is None and len(item["pattern"]) <= 256
)
_SOURCES: Sources = {
    ("ConfigMap", "ca"): Source(kind="ConfigMap", name="ca", data={"ca.crt": pem("ca-one.crt").encode()}),
    ("Secret", "ca"): Source(kind="Secret", name="ca", data={"ca.crt": pem("ca-two.crt").encode()}),
    ("Secret", "client"): Source(
        kind="Secret",
        name="client",
        data={"tls.crt": pem("client.crt").encode(), "tls.key": pem("client.key").encode()},
    ),
}
_TLS = st.fixed_dictionaries(
    {},
    optional={
        "caRef": st.sampled_from(["Secret", "ConfigMap"]).map(lambda kind: {"kind": kind, "name": "ca"}),
        "clientCertificateRef": st.just({"name": "client"}),
        "insecureSkipVerify": st.booleans(),
    },
)
_CREDENTIALS = st.sampled_from(["one", "two", "token"]).map(lambda name: {"name": name})


@st.composite
def endpoints(draw: st.DrawFn) -> dict[str, Any]:
    """An endpoint as a user writes it."""
    url = draw(URLS)
    item: dict[str, Any] = {"url": url}
    if draw(st.booleans()):
        item["capabilities"] = draw(st.sampled_from([["Pull"], ["Pull", "Resolve"], ["Resolve", "Pull"]]))
    if url.startswith("https") and draw(st.booleans()):
        item["tls"] = draw(_TLS)
    if draw(st.booleans()):
        item["credentialsRef"] = draw(_CREDENTIALS)
    if draw(st.booleans()):
        item["dialTimeout"] = draw(st.sampled_from(["5s", "500ms", "1m30s", "0s", "9999h"]))
    return item


@st.composite
def mirrors(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A few RegistryMirrors, each for another registry."""
    names = draw(st.lists(REGISTRIES, min_size=1, max_size=5, unique=True))
    documents = []
    for index, registry in enumerate(names):
        spec: dict[str, Any] = {
            "registry": registry,
            "endpoints": draw(st.lists(endpoints(), max_size=3)),
            "rewrites": draw(st.lists(REWRITES, max_size=2, unique_by=lambda item: str(item["pattern"]))),
            "upstream": {"fallback": draw(st.sampled_from(["Allow", "Allow", "Deny"]))},
            "priority": draw(st.integers(-2, 2)),
        }
        if registry != "*" and draw(st.integers(0, 3)) == 0:
            spec["upstream"] |= {"tls": draw(_TLS), "credentialsRef": draw(_CREDENTIALS)}
        documents.append({"metadata": {"name": f"m{index}", "uid": f"u{index}"}, "spec": spec})
    return documents


@st.composite
def sources(draw: st.DrawFn) -> Sources:
    """The Secrets and ConfigMaps that the objects refer to, with odd passwords."""
    found = dict(_SOURCES)
    for name in ("one", "two"):
        data = {
            "username": draw(TEXT.filter(lambda text: ":" not in text)).encode(),
            "password": f"swordfish-{draw(TEXT)}".encode(),
        }
        found["Secret", name] = Source(kind="Secret", name=name, data=data)
    found["Secret", "token"] = Source(kind="Secret", name="token", data={"token": draw(TEXT).encode()})
    return found


_VERSIONS = [
    "",
    "v1.21.14",
    "v1.22.17",
    "v1.25.3",
    "v1.31.6",
    "v1.33.4",
    "1.5.13",
    "1.6.20",
    "1.7.29",
    "2.0.3",
    "2.1.4",
    "2.4.2",
    "nonsense",
]


@st.composite
def facts(draw: st.DrawFn) -> RuntimeFacts:
    """A node of any runtime that is rendered for."""
    name: RuntimeName = draw(st.sampled_from(sorted(RENDERERS)))
    found = default_facts(name, draw(st.sampled_from(_VERSIONS)))
    containerd = draw(st.sampled_from(_VERSIONS)) if not found.containerd_version else found.containerd_version
    found = replace(found, containerd_version=containerd)
    if name in ("k3s", "rke2"):
        embedded = EmbeddedRegistry(address="127.0.0.1:6443", ca_file="/ca", cert_file="/cert", key_file="/key")
        found = replace(
            found,
            disable_default_endpoint=draw(st.booleans()),
            embedded_registry=draw(st.sampled_from([None, embedded])),
        )
    if name == "containerd":
        path, schema = draw(st.sampled_from([(found.config_path, 0), (found.config_path, 2), ("", 2), ("", 3)]))
        found = replace(found, config_path=path, config_schema=schema)
    return found


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=5))
_KEYS = st.one_of(
    st.sampled_from(
        [
            "spec",
            "metadata",
            "name",
            "registry",
            "endpoints",
            "url",
            "tls",
            "upstream",
            "rewrites",
            "pattern",
            "nodeSelector",
        ]
    ),
    st.text(max_size=8),
    st.integers(),
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_KEYS, inner, max_size=5)),
    max_leaves=20,
)
