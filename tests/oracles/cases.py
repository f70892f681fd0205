"""Objects to try: a table of what is known to be delicate, and seeded random ones of everything the grammar allows."""

from __future__ import annotations

import random
from typing import Any

from .model import DIAL_TIMEOUTS, Document, document, endpoint
from .sources import CAS, CLIENT, USERS

MIRROR = "https://mirror.example.com"
FULL_TLS = {"caRef": {"name": "ca-one"}, "clientCertificateRef": {"name": CLIENT}}
SKIP = {"insecureSkipVerify": True}
DENY = {"fallback": "Deny"}
UNLISTED = ("unlisted.example.net", "unlisted.example.net:5000", "localhost:5999", "docker.io")
REGISTRIES = (
    "docker.io",
    "quay.io",
    "registry.example.com:5000",
    "10.0.0.1:5000",
    "[fd00::1]:5000",
    "[fd00::2]",
    "localhost",
    "localhost:443",
    "localhost:80",
    "localhost:5000",
    "127.0.0.1:5000",
    "[::1]:5000",
    "*",
)


def user(number: int = 0) -> dict[str, str]:
    return {"name": f"user-{number}"}


TABLE: dict[str, list[Document]] = {
    "order": [document("docker.io", *(f"https://{name}.example" for name in "zyxabc"))],
    "only the registry": [document("quay.io", upstream={"tls": SKIP, "credentialsRef": user()})],
    "everything": [
        document(
            "quay.io",
            endpoint(
                MIRROR, tls={**FULL_TLS, **SKIP}, credentialsRef=user(1), dialTimeout="500ms", capabilities=["Pull"]
            ),
            endpoint("http://10.0.0.1:5000", credentialsRef=user(2)),
            upstream={"tls": FULL_TLS, "credentialsRef": user(3)},
        )
    ],
    "deny": [
        document("docker.io", MIRROR, endpoint(f"{MIRROR}/x", tls=SKIP, credentialsRef=user()), upstream=DENY),
        document("quay.io", MIRROR, upstream=DENY),
    ],
    "deny for every registry": [document("*", MIRROR, upstream=DENY), document("quay.io", f"{MIRROR}/quay")],
    "every registry": [document("*", f"{MIRROR}/all"), document("docker.io", f"{MIRROR}/hub")],
    "every registry but one": [document("*", f"{MIRROR}/all"), document("quay.io")],
    "paths": [
        document(
            "docker.io",
            *(MIRROR + path for path in ("/", "/v2/hub", "/hub/v2", "/v2/", "/a//b", "/x~y:@!$&()*+,;=-", "/hub/")),
        )
    ],
    "IPv6 registries": [document("[fd00::1]:5000", MIRROR), document("[fd00::2]", MIRROR)],
    "localhost": [document(name, MIRROR) for name in REGISTRIES if name.startswith(("local", "127", "[::1"))],
    "localhost, settings": [
        document("localhost:5000", MIRROR, upstream={"credentialsRef": user()}),
        document("localhost:5001", MIRROR, upstream={"tls": {"caRef": {"name": "ca-two"}}}),
    ],
    "port beside none": [document("quay.io", f"{MIRROR}/a"), document("quay.io:443", f"{MIRROR}/b")],
    "passwords": [
        document("docker.io", *(endpoint(f"https://m{n}.example", credentialsRef=user(n)) for n in range(len(USERS))))
    ],
    "dial timeouts": [
        document("docker.io", *(endpoint(f"{MIRROR}/{item}", dialTimeout=item) for item in DIAL_TIMEOUTS))
    ],
}
PREFIXES = {
    "prefix": [
        document("docker.io", MIRROR, f"{MIRROR}/x", rewrites=[{"pattern": "^(.*)$", "replacement": "hub/$1"}]),
        document("quay.io", MIRROR, rewrites=[{"pattern": "(.*)", "replacement": "a/b/${1}"}], upstream=DENY),
        document("ghcr.io", MIRROR, rewrites=[{"pattern": "^", "replacement": "ghcr/"}]),
    ]
}
REWRITES = (
    ("^rancher/(.*)", "mirror/rancher-$1"),
    (r"^(\w+\.\d+)/[^/]+$", "x-${1}\\"),
    ("it's#a=b", "' # = .x"),
    ("^(?P<first>[a-z]]?)ä☃", "${first}\U0001f600"),
    ("^(.*)$", "hub/$1"),
    (": {},&*|-<>!%@`", "null"),
)


def random_node(seed: int, *, k3s: bool) -> list[Document]:
    """One to four objects. K3s has one TLS and credentials entry a host, so there they depend on the host."""
    chance = random.Random(seed)
    return [_object(chance, name, k3s=k3s) for name in chance.sample(REGISTRIES, chance.randint(1, 4))]


def _object(chance: random.Random, registry: str, *, k3s: bool) -> Document:
    urls = sorted({_url(chance) for _ in range(chance.randint(0, 4))})
    chance.shuffle(urls)
    unique = {url.removesuffix("/").removesuffix("/v2"): url for url in urls}
    endpoints = [_endpoint(chance, url, k3s=k3s) for url in unique.values()]
    upstream: dict[str, Any] = {}
    if endpoints and chance.random() < 0.2:
        upstream = dict(DENY)
    elif registry != "*":
        upstream = _settings(chance, tls=not registry.startswith(("localhost", "127", "[::1")))
    spec: dict[str, Any] = {"upstream": upstream}
    if k3s and chance.random() < 0.4:
        pairs = chance.sample(REWRITES, chance.randint(1, 3))
        spec["rewrites"] = [{"pattern": pattern, "replacement": replacement} for pattern, replacement in pairs]
    elif not k3s and chance.random() < 0.2:
        spec["rewrites"] = [{"pattern": "^(.*)$", "replacement": f"p{chance.randint(0, 9)}/$1"}]
    return document(registry, *endpoints, **spec)


def _url(chance: random.Random) -> str:
    host = chance.choice(("m.example", "mirror-2.example.com", "harbor", "192.0.2.7", "[fd00::7]", "127.0.0.2"))
    port = chance.choice(("", "", ":80", ":443", ":5000", ":8443"))
    # One scheme a host and port, as K3s needs it.
    scheme = "http" if port in (":80", ":5000") else "https"
    path = chance.choice(("", "/", "/v2", "/hub", "/v2/hub", "/hub/v2", "/a.b_c/d", "/x/"))
    return f"{scheme}://{host}{port}{path}"


def _endpoint(chance: random.Random, url: str, *, k3s: bool) -> dict[str, Any]:
    origin = url.partition("://")[2].partition("/")[0]
    settings = _settings(random.Random(origin) if k3s else chance, tls=url.startswith("https://"))
    found = endpoint(url, **settings)
    if chance.random() < 0.3:
        found["dialTimeout"] = chance.choice(DIAL_TIMEOUTS)
    if not k3s and chance.random() < 0.2:
        found["capabilities"] = chance.choice((["Pull"], ["Resolve", "Pull"]))
    return found


def _settings(chance: random.Random, *, tls: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if chance.random() < 0.4:
        found["credentialsRef"] = user(chance.randrange(len(USERS)))
    if tls and chance.random() < 0.5:
        choices: list[dict[str, Any]] = [
            {"caRef": {"name": chance.choice(sorted(CAS))}},
            {"clientCertificateRef": {"name": CLIENT}},
            SKIP,
        ]
        found["tls"] = {
            key: value for item in chance.sample(choices, chance.randint(1, 3)) for key, value in item.items()
        }
    return found
