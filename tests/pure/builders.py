"""Short ways to say the inputs of the pure functions, so that a test shows only what it is about."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from registry_mirror.api import parse
from registry_mirror.api.errors import InvalidError
from registry_mirror.api.models import EmbeddedRegistry, RegistryMirror, Rewrite, RuntimeFacts
from registry_mirror.core.bundle import File, Rendered
from registry_mirror.core.layout import default_facts
from registry_mirror.core.render import render
from registry_mirror.core.resolve import Credentials, ResolvedEndpoint, ResolvedMirror, ResolvedTLS

DATA = Path(__file__).parent / "data"
K3S = default_facts("k3s", "v1.33.4+k3s1")
CONTAINERD = default_facts("containerd", "2.1.4")
K3S_CERTS = K3S.config_path
USER = Credentials(username="robot", password="swordfish")
# base64 of robot:swordfish, worked out by hand once: the tests must not compute it the way the code does.
USER_HEADER = "Basic cm9ib3Q6c3dvcmRmaXNo"
EMBEDDED = EmbeddedRegistry(
    address="127.0.0.1:6443", ca_file="/server-ca.crt", cert_file="/client.crt", key_file="/client.key"
)
TOKEN = Credentials(identity_token="a-token")


def pem(name: str) -> str:
    """A test-only certificate or key; it protects nothing."""
    return (DATA / name).read_text()


def endpoint(url: str, **fields: Any) -> ResolvedEndpoint:
    return ResolvedEndpoint(url=url, **fields)


def mirror(registry: str, *endpoints: str | ResolvedEndpoint, **fields: Any) -> ResolvedMirror:
    """A resolved mirror, named after its registry unless told otherwise; ``rewrites`` is a dict."""
    fields.setdefault("name", registry)
    rewrites = fields.pop("rewrites", {})
    return ResolvedMirror(
        registry=registry,
        endpoints=tuple(endpoint(item) if isinstance(item, str) else item for item in endpoints),
        rewrites=tuple(Rewrite(pattern=key, replacement=value) for key, value in rewrites.items()),
        **fields,
    )


def document(registry: Any = "registry.example.com", **spec: Any) -> dict[str, Any]:
    """A RegistryMirror as YAML decodes it."""
    return {"metadata": {"name": "test"}, "spec": {"registry": registry, **spec}}


def parsed(registry: str = "registry.example.com", **spec: Any) -> RegistryMirror:
    return parse.registry_mirror(document(registry, **spec))


def errors(body: Any) -> list[str]:
    """What parsing says about a RegistryMirror document, one line an error; empty if it is valid."""
    try:
        parse.registry_mirror(body)
    except InvalidError as error:
        return [str(item) for item in error.errors]
    return []


def tls(**fields: Any) -> ResolvedTLS:
    return ResolvedTLS(**fields)


def k3s(version: str = "v1.33.4+k3s1", **fields: Any) -> RuntimeFacts:
    return replace(default_facts("k3s", version), **fields)


def by_directory(rendered: Rendered) -> dict[str, str]:
    """The hosts.toml texts of a render by the name of their directory."""
    found = [item for item in rendered.files if item.path.endswith("/hosts.toml")]
    return {posixpath.basename(posixpath.dirname(item.path)): item.content for item in found}


def file(rendered: Rendered, end: str) -> File:
    """The one file whose path ends so."""
    (found,) = [item for item in rendered.files if item.path.endswith(end)]
    return found


def hosts_toml(facts: RuntimeFacts, *mirrors: ResolvedMirror) -> dict[str, str]:
    rendered = render(facts, mirrors)
    assert rendered.problems == ()
    return by_directory(rendered)


def reasons(rendered: Rendered) -> dict[str, str]:
    """The problems of a render: reason by name of the mirror."""
    return {item.mirror: item.reason for item in rendered.problems}
