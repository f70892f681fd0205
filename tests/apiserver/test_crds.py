"""The real API server and the offline parser must give one verdict on every object, and words that help with it.

One table drives both. What the schemas say in CEL cannot be tried without the API server: it compiles the rules, bounds
their cost, and words the messages that users see.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from registry_mirror.api import parse
from registry_mirror.api.errors import InvalidError
from registry_mirror.api.models import API_VERSION
from tests.harness.controlplane import ControlPlane
from tests.harness.kubectl import KubectlError
from tests.harness.pytest_support import require_assets

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

Spec = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the CRDs."""
    with ControlPlane(tmp_path_factory.mktemp("crds"), require_assets(pytestconfig)) as running:
        running.kubectl("apply", f"--kustomize={ROOT / 'crds'}")
        running.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        yield running


def document(spec: Spec, name: str = "tried", kind: str = "RegistryMirror") -> Spec:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def mirror(*endpoints: Any, registry: str = "docker.io", **more: Any) -> Spec:
    """A spec with these endpoints, each an object or just a URL."""
    listed = [{"url": item} if isinstance(item, str) else item for item in endpoints]
    return {"registry": registry, **({"endpoints": listed} if listed else {}), **more}


def endpoint(url: str = "https://mirror.example.com", **more: Any) -> Spec:
    return {"url": url, **more}


def rewrite(pattern: str, replacement: str = "mirror/$0") -> Spec:
    return {"pattern": pattern, "replacement": replacement}


def refusal(cluster: ControlPlane, body: Spec) -> str | None:
    """Give the API server's words if it refuses the object, None if it would take it."""
    try:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(body))
    except KubectlError as error:
        return error.stderr
    return None


def offline_refusal(body: Spec) -> str | None:
    """The same of the parser."""
    try:
        parse.registry_mirror(body)
    except InvalidError as error:
        return str(error)
    return None


REGISTRY = "write host[:port] in lower case, such as docker.io"
DOTLESS = "write the full name with its domain or port"
HUB = "write docker.io: images of Docker Hub are looked up under that name"
URL = "write http:// or https://, a lower-case host[:port] and an optional path"
DOTS = "write the path without . and .. segments"
DURATION = "write a duration such as 500ms, 5s or 1m30s"
PULL = "add Pull: an endpoint without it serves no image"
RE2 = "write a regular expression in RE2 syntax"
CONTROL = "write it without control characters and line separators"
MANY = 'remove it: "*" stands for many registries, which share no password'
LABEL63 = "a" * 63
BIG = 1_000_001

# Each with what the API server's message must contain. None: it refuses in words of its own, which are not compared.
REFUSED_REGISTRIES = {
    "../x": f"found '../x'; {REGISTRY}",
    "../../../../etc/ssh": REGISTRY,
    "..": REGISTRY,
    ".": REGISTRY,
    "/etc": REGISTRY,
    "docker.io/library": f"found 'docker.io/library'; {REGISTRY}",
    "docker.io/": REGISTRY,
    "https://docker.io": REGISTRY,
    "Docker.io": REGISTRY,
    "docker.io ": REGISTRY,
    " docker.io": REGISTRY,
    "docker.io\n": REGISTRY,
    "docker.io\nx": REGISTRY,
    'docker.io"]': REGISTRY,
    "docker.io'": REGISTRY,
    "docker.io\u0000": REGISTRY,
    "dockér.io": REGISTRY,
    "docker_hub.io": REGISTRY,
    "-docker.io": REGISTRY,
    "docker-.io": REGISTRY,
    "docker..io": REGISTRY,
    ".docker.io": REGISTRY,
    "docker.io.": REGISTRY,
    f"{LABEL63}a.io": REGISTRY,
    "*.example.com": REGISTRY,
    "**": REGISTRY,
    "*:5000": REGISTRY,
    "user@example.com": REGISTRY,
    "example.com:": REGISTRY,
    "example.com:0": REGISTRY,
    "example.com:05000": REGISTRY,
    "example.com:65536": REGISTRY,
    "example.com:99999": REGISTRY,
    "example.com:100000": REGISTRY,
    "example.com:\u0665": REGISTRY,
    "example.com:5000:5000": REGISTRY,
    "example.com:-1": REGISTRY,
    "fd00::1": REGISTRY,
    "[FD00::1]:5000": REGISTRY,
    "[fd00::1": REGISTRY,
    "[fd00::1]x": REGISTRY,
    "[fd00::1]:": REGISTRY,
    "[fd00::1]:0": REGISTRY,
    "[fd00::1%eth0]": REGISTRY,
    "[]": REGISTRY,
    "[:]": REGISTRY,
    "[:::]": REGISTRY,
    "[1::2::3]": f"found '[1::2::3]'; {REGISTRY}",
    "[1:2:3:4:5:6:7]": REGISTRY,
    "[1:2:3:4:5:6:7:8:9]": REGISTRY,
    "[1:2:3:4:5:6:7:8::]": REGISTRY,
    "[::1:2:3:4:5:6:7:8]": REGISTRY,
    "[1:2:3:4::5:6:7:8]": REGISTRY,
    "[:1:2:3:4:5:6:7]": REGISTRY,
    "[1:2:3:4:5:6:7:]": REGISTRY,
    "[12345::1]": REGISTRY,
    "[g::1]": REGISTRY,
    "[1.2.3.4]": REGISTRY,
    "[::1.2.3]": REGISTRY,
    "[::1.2.3.4.]": REGISTRY,
    "[::1.2.3.4.5]": REGISTRY,
    "[::1.2.3.256]": REGISTRY,
    "[::1.2.3.04]": REGISTRY,
    "[::1.2.3.4:5]": REGISTRY,
    "[1:2:3:4:5:6:7:1.2.3.4]": REGISTRY,
    "[1:2:3:4:5:6::1.2.3.4]": REGISTRY,
    "[1:2:3:4:5:1.2.3.4]": REGISTRY,
    "myregistry": f"found 'myregistry'; {DOTLESS}",
    "my-registry": DOTLESS,
    "localhost1": DOTLESS,
    "index.docker.io": f"found 'index.docker.io'; {HUB}",
    "index.docker.io:443": HUB,
    "": None,
    "a" * 252 + ".com": None,
}
TAKEN_REGISTRIES = [
    "*",
    "docker.io",
    "registry.example.com:5000",
    "registry-1.docker.io",
    "xn--dckr-bsa.io",
    "localhost",
    "localhost:5000",
    "myregistry:5000",
    "127.0.0.1",
    "127.0.0.1:5000",
    "10.0.0.1:1",
    "example.com:9",
    "example.com:10000",
    "example.com:59999",
    "example.com:64999",
    "example.com:65499",
    "example.com:65529",
    "example.com:65535",
    "index.docker.io:5000",
    f"{LABEL63}.io",
    "a.b",
    "[fd00::1]",
    "[fd00::1]:5000",
    "[::]",
    "[::1]",
    "[1::]",
    "[1:2:3:4:5:6:7:8]",
    "[1:2:3:4:5:6:7::]",
    "[::2:3:4:5:6:7:8]",
    "[1:2:3::5:6:7:8]",
    "[::ffff:10.0.0.1]:5000",
    "[1:2:3:4:5:6:255.249.199.0]",
    "[1:2:3:4:5::1.2.3.4]",
]
REFUSED_URLS = {
    "harbor.example.com": f"found 'harbor.example.com'; {URL}",
    "ftp://example.com": URL,
    "HTTPS://example.com": URL,
    "https:/example.com": URL,
    "https://": URL,
    "https:///v2": URL,
    "https://Example.com": URL,
    "https://user@example.com": URL,
    "https://user:secret@example.com": URL,
    "https://example.com?x=1": URL,
    "https://example.com/v2?x=1": URL,
    "https://example.com/#x": URL,
    "https://example.com/a b": URL,
    "https://example.com/a'b": URL,
    'https://example.com/a"b': URL,
    "https://example.com/a\\b": URL,
    "https://example.com/a\n": URL,
    "https://example.com/[x]": URL,
    "https://example.com/%zz": URL,
    "https://example.com/a%2": URL,
    "https://example.com/a%20b": URL,
    "https://example.com/a%3Fb": URL,
    "https://[FD00::1]/v2": URL,
    "https://example.com/é": URL,
    "https://example.com:0": URL,
    "https://example.com:65536/v2": URL,
    "https://[fd00::1/v2": URL,
    "https://[1::2::3]:5000/v2": URL,
    "https://[::1.2.3.4:5]/v2": URL,
    "https://example.com/..": f"found 'https://example.com/..'; {DOTS}",
    "https://example.com/.": DOTS,
    "https://example.com/v2/../x": DOTS,
    "https://example.com/v2/./x": DOTS,
    "https://example.com/v2/x/..": DOTS,
    "https://example.com/../": DOTS,
    "": None,
    "https://example.com/" + "a" * 1005: None,
}
TAKEN_URLS = [
    "https://example.com",
    "https://example.com/",
    "https://example.com/v2",
    "https://example.com/v2/",
    "https://example.com//",
    "https://example.com:65535/v2/dockerhub",
    "http://localhost:5000",
    "http://10.0.0.1:5000/v2",
    "https://[fd00::1]:5000/v2/a",
    "https://[::ffff:1.2.3.4]/v2",
    "https://mirror",
    "https://example.com/a/..b/...",
    "https://example.com/v2/a-b_c.d~e:f@g!h$i&j(k)l*m+n,o;p=q",
    "https://example.com/" + "a" * 1004,
]
REFUSED: dict[str, tuple[Spec, str | None]] = {
    "no registry": ({}, "spec.registry: Required value"),
    "no url": (mirror({"capabilities": ["Pull"]}), "spec.endpoints[0].url: Required value"),
    "unknown field": (mirror(endpoint(insecure=True)), 'unknown field "spec.endpoints[0].insecure"'),
    "unknown field at the top": (mirror(endpoint=[]), 'unknown field "spec.endpoint"'),
    "registry of another type": ({"registry": 5000}, "spec.registry"),
    "endpoints of another type": ({"registry": "docker.io", "endpoints": "https://example.com"}, "spec.endpoints"),
    "too many endpoints": (mirror(*(f"https://m{n}.example.com" for n in range(17))), "spec.endpoints: Too many: 17"),
    "same endpoint": (mirror("https://a.io/x", "https://b.io", "https://a.io/x"), "the same endpoint more than once"),
    "no path and /": (mirror("https://a.io", "https://a.io/"), "remove all but one (no path, / and /v2 are the same)"),
    "no path and /v2": (mirror("https://a.io", "https://a.io/v2"), "spec.endpoints: Invalid value"),
    "/ and /v2": (mirror("https://a.io/", "https://b.io", "https://a.io/v2"), "the same endpoint more than once"),
    "unknown capability": (mirror(endpoint(capabilities=["Push"])), 'supported values: "Pull", "Resolve"'),
    "no capabilities": (mirror(endpoint(capabilities=[])), "spec.endpoints[0].capabilities"),
    "capability twice": (mirror(endpoint(capabilities=["Pull", "Pull"])), 'Duplicate value: "Pull"'),
    "only Resolve": (mirror(endpoint(capabilities=["Resolve"])), f"found [Resolve]; {PULL}"),
    "CA for http": (
        mirror(endpoint("http://a.io", tls={"caRef": {"name": "ca"}})),
        "spec.endpoints[0].tls: Invalid value: found TLS settings for the http:// endpoint http://a.io; "
        "remove tls, or write https://",
    ),
    "skip verify for http": (mirror(endpoint("http://a.io", tls={"insecureSkipVerify": True})), "remove tls, or write"),
    "certificate for http": (
        mirror(endpoint("http://a.io", tls={"clientCertificateRef": {"name": "c"}})),
        "remove tls, or write https://",
    ),
    "CA without a name": (mirror(endpoint(tls={"caRef": {"kind": "Secret"}})), "caRef.name: Required value"),
    "CA of a wrong kind": (mirror(endpoint(tls={"caRef": {"kind": "Pod", "name": "x"}})), '"Secret", "ConfigMap"'),
    "empty CA key": (mirror(endpoint(tls={"caRef": {"name": "x", "key": ""}})), "caRef.key"),
    "empty credentials": (mirror(endpoint(credentialsRef={})), "credentialsRef.name: Required value"),
    "long credentials": (mirror(endpoint(credentialsRef={"name": "n" * 254})), "credentialsRef.name: Too long"),
    "timeout without a unit": (
        mirror(endpoint(dialTimeout="5")),
        f"spec.endpoints[0].dialTimeout: Invalid value: \"5\": found '5'; {DURATION}",
    ),
    "timeout with a space": (mirror(endpoint(dialTimeout="5 s")), DURATION),
    "timeout with a fraction": (mirror(endpoint(dialTimeout="1.5s")), DURATION),
    "negative timeout": (mirror(endpoint(dialTimeout="-5s")), DURATION),
    "timeout in days": (mirror(endpoint(dialTimeout="1d")), DURATION),
    "timeout with a newline": (mirror(endpoint(dialTimeout="5s\n")), DURATION),
    "huge timeout": (mirror(endpoint(dialTimeout="1234567s")), DURATION),
    "empty timeout": (mirror(endpoint(dialTimeout="")), "dialTimeout"),
    "long timeout": (mirror(endpoint(dialTimeout="1s" * 17)), "dialTimeout: Too long"),
    "too many hours": (mirror(endpoint(dialTimeout="10000h")), DURATION),
    "numeric timeout": (mirror(endpoint(dialTimeout=5)), "dialTimeout"),
    "pattern twice": (mirror(rewrites=[rewrite("a"), rewrite("b"), rewrite("a")]), "the same pattern more than once"),
    "open group": (mirror(rewrites=[rewrite("a(b")]), "spec.rewrites[0].pattern: Invalid value"),
    "open group, remedy": (mirror(rewrites=[rewrite("a(b")]), RE2),
    "look-ahead": (mirror(rewrites=[rewrite("a(?=b)")]), RE2),
    "back-reference": (mirror(rewrites=[rewrite(r"(a)\1")]), RE2),
    "repeat of nothing": (mirror(rewrites=[rewrite("*")]), RE2),
    "big repeat": (mirror(rewrites=[rewrite("a{1001}")]), RE2),
    "empty pattern": (mirror(rewrites=[rewrite("")]), "spec.rewrites[0].pattern"),
    "long pattern": (mirror(rewrites=[rewrite("a" * 257)]), "pattern: Too long"),
    "line break in a pattern": (mirror(rewrites=[rewrite("a\n")]), CONTROL),
    "C1 in a pattern": (mirror(rewrites=[rewrite("a\x85")]), CONTROL),
    "line separator in a replacement": (mirror(rewrites=[{"pattern": "a", "replacement": "b\u2028"}]), CONTROL),
    "NUL in a replacement": (mirror(rewrites=[{"pattern": "a", "replacement": "\0"}]), CONTROL),
    "any byte": (mirror(rewrites=[rewrite(r"a\C")]), RE2),
    "no replacement": (mirror(rewrites=[{"pattern": "a"}]), "replacement: Required value"),
    "too many rewrites": (mirror(rewrites=[rewrite(f"a{n}") for n in range(33)]), "spec.rewrites: Too many: 33"),
    "* with credentials": (mirror(registry="*", upstream={"credentialsRef": {"name": "c"}}), MANY),
    "wrong fallback": (mirror(upstream={"fallback": "Never"}), 'supported values: "Allow", "Deny"'),
    "too high": (mirror(priority=BIG), "spec.priority"),
    "too low": (mirror(priority=-BIG), "spec.priority"),
    "not a number": (mirror(priority="high"), "spec.priority"),
    "wrong operator": (
        mirror(nodeSelector={"matchExpressions": [{"key": "zone", "operator": "Is"}]}),
        '"In", "NotIn", "Exists"',
    ),
    "In without values": (
        mirror(nodeSelector={"matchExpressions": [{"key": "zone", "operator": "In"}]}),
        "spec.nodeSelector.matchExpressions[0].values: Invalid value: found no value; write at least one",
    ),
    "NotIn without values": (
        mirror(endpoint(nodeSelector={"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": []}]})),
        "spec.endpoints[0].nodeSelector.matchExpressions[0].values: Invalid value: found no value",
    ),
    "Exists with values": (
        mirror(nodeSelector={"matchExpressions": [{"key": "zone", "operator": "Exists", "values": ["a"]}]}),
        "found values; remove them",
    ),
    "no key": (mirror(nodeSelector={"matchExpressions": [{"operator": "Exists"}]}), "key: Required value"),
    "long label": (mirror(nodeSelector={"matchLabels": {"zone": "a" * 64}}), "matchLabels"),
    "many labels": (mirror(nodeSelector={"matchLabels": {f"l{n}": "" for n in range(65)}}), "Too many: 65"),
    **{f"registry {name[:30]!r}": (mirror(registry=name), words) for name, words in REFUSED_REGISTRIES.items()},
    **{f"url {url[:40]!r}": (mirror(url), words) for url, words in REFUSED_URLS.items()},
}
TAKEN: dict[str, Spec] = {
    "no endpoints": mirror(),
    "empty endpoints": {"registry": "docker.io", "endpoints": [], "rewrites": [], "upstream": {}},
    "most endpoints": mirror(*(f"https://m{n}.example.com/{'a' * 900}" for n in range(16))),
    "only Pull": mirror(endpoint(capabilities=["Pull"])),
    "other order": mirror(endpoint(capabilities=["Resolve", "Pull"])),
    "http without TLS": mirror(endpoint("http://a.io", tls={})),
    "http with the default": mirror(endpoint("http://a.io", tls={"insecureSkipVerify": False})),
    "http and https": mirror("https://a.io", "http://a.io"),
    "ports differ": mirror("https://a.io", "https://a.io:443"),
    "paths differ": mirror(
        "https://a.io/v2", "https://a.io/v2/", "https://a.io/a/v2", "https://a.io/a", "https://a.io//"
    ),
    "CA with defaults": mirror(endpoint(tls={"caRef": {"name": "ca"}})),
    "upstream": mirror(
        upstream={"fallback": "Deny", "tls": {"caRef": {"name": "ca"}}, "credentialsRef": {"name": "hub"}}
    ),
    "* with TLS": mirror(registry="*", upstream={"tls": {"caRef": {"name": "ca"}, "insecureSkipVerify": True}}),
    "* denied": mirror("https://a.io", registry="*", upstream={"fallback": "Deny"}),
    "timeouts": mirror(*(endpoint(f"https://{n}.io", dialTimeout=n) for n in ("5s", "500ms", "1m30s", "2h", "0s"))),
    "rewrites": mirror(rewrites=[rewrite("^rancher/(.*)", "x/$1"), rewrite("(?P<a>b)", "${a}$$"), rewrite("[(]", "")]),
    "most rewrites": mirror(rewrites=[rewrite(f"{n:02}{'a' * 254}", "b" * 256) for n in range(32)]),
    "classes": mirror(rewrites=[rewrite(r"^\pL[[:alpha:]]\d{2,1000}?(?i:x)$")]),
    "selectors": mirror(
        endpoint(nodeSelector={"matchLabels": {"topology.kubernetes.io/zone": "a"}}),
        nodeSelector={"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]},
    ),
    "selects all": mirror(nodeSelector={}),
    "no values": {
        "registry": "docker.io",
        "endpoints": None,
        "rewrites": None,
        "upstream": None,
        "nodeSelector": {"matchLabels": None},
        "priority": None,
    },
    "highest": mirror(priority=BIG - 1),
    "lowest": mirror(priority=1 - BIG),
    "everything": mirror(
        endpoint(
            "https://harbor.example.com/v2/dockerhub",
            capabilities=["Pull"],
            tls={"caRef": {"kind": "ConfigMap", "name": "a", "key": "b"}, "clientCertificateRef": {"name": "c"}},
            credentialsRef={"name": "d"},
            dialTimeout="5s",
            nodeSelector={"matchLabels": {"zone": "a"}},
        ),
        rewrites=[rewrite("^library/(.*)", "$1")],
        upstream={"fallback": "Deny"},
        nodeSelector={"matchLabels": {"kubernetes.io/os": "linux"}},
        priority=7,
    ),
    **{f"registry {name!r}": mirror(registry=name) for name in TAKEN_REGISTRIES},
    **{f"url {url[:40]!r}": mirror(url) for url in TAKEN_URLS},
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_object_is_refused_by_both_with_words_that_help(cluster: ControlPlane, case: str) -> None:
    spec, words = REFUSED[case]
    body = document(spec)
    said = refusal(cluster, body)
    assert said is not None, "the API server takes it"
    assert words is None or words in said
    assert offline_refusal(body) is not None, f"the parser takes it; the API server: {said}"


@pytest.mark.parametrize("case", TAKEN)
def test_a_good_object_is_taken_by_both(cluster: ControlPlane, case: str) -> None:
    body = document(TAKEN[case])
    assert offline_refusal(body) is None
    assert refusal(cluster, body) is None


@pytest.mark.parametrize("case", TAKEN)
def test_defaults_are_those_of_the_models(cluster: ControlPlane, case: str) -> None:
    body = document(TAKEN[case])
    created = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(body))
    stored = json.loads(created)
    assert parse.registry_mirror(stored).spec == parse.registry_mirror(body).spec
    spec = stored["spec"]
    assert spec["priority"] == (body["spec"].get("priority") or 0)
    assert spec["upstream"]["fallback"] == (body["spec"].get("upstream") or {}).get("fallback", "Allow")
    for item in spec.get("endpoints", []):
        assert item["capabilities"]
        assert item.get("tls", {"insecureSkipVerify": False})["insecureSkipVerify"] is False
        assert item.get("tls", {}).get("caRef", {"kind": "Secret", "key": "ca.crt"}).keys() >= {"kind", "key"}


def test_a_replacement_is_checked_by_the_parser_only(cluster: ControlPlane) -> None:
    # CEL cannot count the groups of a pattern. The one known difference: the controller says it in a condition.
    body = document(mirror(rewrites=[rewrite("^a/(.*)", "b/$2")]))
    assert refusal(cluster, body) is None
    assert "write ${1}" in (offline_refusal(body) or "")


def test_everything_wrong_is_told_at_once(cluster: ControlPlane) -> None:
    said = refusal(cluster, document(mirror(endpoint("x"), endpoint(capabilities=["Resolve"]), registry="../x"))) or ""
    assert 'The RegistryMirror "tried" is invalid' in said
    for line in (f"spec.registry: Invalid value: \"../x\": found '../x'; {REGISTRY}", f"found 'x'; {URL}", PULL):
        assert line in said


def test_the_registry_of_an_object_cannot_be_changed(cluster: ControlPlane) -> None:
    body = document(mirror("https://a.io", registry="docker.io"), name="fixed")
    cluster.kubectl("apply", "-f", "-", input=json.dumps(body))
    changed = copy.deepcopy(body)
    changed["spec"]["registry"] = "ghcr.io"
    with pytest.raises(KubectlError) as raised:
        cluster.kubectl("apply", "-f", "-", input=json.dumps(changed))
    assert "found 'ghcr.io', was 'docker.io': registry cannot be changed; create another object" in raised.value.stderr
    changed["spec"] = {**body["spec"], "priority": 5}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(changed))


POLICIES_REFUSED: dict[str, tuple[str, Spec, str]] = {
    "name": ("other", {}, "metadata.name: found 'other'; write default: the cluster has one policy, of that name"),
    "nobody": ("default", {"rollout": {"maxUnavailable": 0}}, "found '0'; write a number from 1, or a share from"),
    "negative": ("default", {"rollout": {"maxUnavailable": -1}}, "write a number from 1"),
    "0%": ("default", {"rollout": {"maxUnavailable": "0%"}}, "found '0%'; write a number from 1"),
    "101%": ("default", {"rollout": {"maxUnavailable": "101%"}}, "write a number from 1"),
    "word": ("default", {"rollout": {"maxUnavailable": "half"}}, "write a number from 1"),
    "digits": ("default", {"rollout": {"maxUnavailable": "5"}}, "write a number from 1"),
    "deadline": ("default", {"rollout": {"deadline": "120"}}, "found '120'; write a duration"),
    "soak": ("default", {"rollout": {"canary": {"soak": "soon"}}}, DURATION),
    "interval": ("default", {"probe": {"interval": "1d"}}, DURATION),
    **{
        f"image {image}": ("default", {"probe": {"image": image}}, "write registry/repository:tag")
        for image in ("", "busybox:1", "library/busybox", "docker.io/", "docker.io/A", "docker.io/a:", "docker.io/a b")
    },
    "window": ("default", {"rollout": {"windows": [{"schedule": "0 2 * * 6", "duration": "2"}]}}, DURATION),
    "no duration": ("default", {"rollout": {"windows": [{"schedule": "0 2 * * 6"}]}}, "duration: Required value"),
    "drift": ("default", {"drift": "Ignore"}, 'supported values: "Repair", "Report"'),
    "unknown": ("default", {"rollout": {"pause": True}}, 'unknown field "spec.rollout.pause"'),
}


@pytest.mark.parametrize("case", POLICIES_REFUSED)
def test_a_bad_policy_is_refused(cluster: ControlPlane, case: str) -> None:
    name, spec, words = POLICIES_REFUSED[case]
    assert words in (refusal(cluster, document(spec, name, "RegistryMirrorPolicy")) or "it was taken")


@pytest.mark.parametrize("unavailable", [1, 5, "1%", "10%", "99%", "100%"])
def test_a_policy_gets_the_defaults_of_the_model(cluster: ControlPlane, unavailable: int | str) -> None:
    window = {"schedule": "0 2 * * 6", "duration": "2h"}
    spec = {"rollout": {"maxUnavailable": unavailable, "windows": [window]}}
    body = document(spec, "default", "RegistryMirrorPolicy")
    for given in (body, {key: value for key, value in body.items() if key != "spec"}):
        created = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(given))
        stored = json.loads(created)
        assert parse.policy(stored).spec == parse.policy(given).spec
        assert stored["spec"]["rollout"]["canary"] == {"nodes": 1, "soak": "30s"}
        assert stored["spec"]["probe"] == {"mode": "Report", "interval": "60s"}


CONDITION = {"type": "Ready", "status": "True", "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}
NODE_STATUS: Spec = {
    "observedGeneration": 1,
    "appliedRevision": "abc122",
    "runtime": {
        "name": "k3s",
        "version": "v1.36.3+k3s1",
        "embeddedRegistry": {"address": "127.0.0.1:6443"},
    },
    "fileCount": 1,
    "endpoints": [
        {"url": "https://a.io", "reachable": True, "reason": "Reachable", "latency": "42ms"},
        {"url": "https://b.io", "reachable": False, "reason": "TimedOut", "message": "it hangs"},
    ],
    "conditions": [
        {**CONDITION, "type": "Applied", "status": "False", "reason": "WriteFailed", "message": "no space is left"},
        {**CONDITION, "type": "RestartRequired", "reason": "Credentials", "message": ""},
    ],
}
MIRROR_STATUS = {
    "observedGeneration": 1,
    "nodes": {"selected": 31, "applied": 27, "pending": 3, "failed": 1, "drifted": 0},
    "conditions": [{**CONDITION, "status": "False", "reason": "NodesFailed", "message": "1 of 31 nodes failed"}],
    "failures": [{"node": "n1", "reason": "WriteFailed"}],
    "endpoints": [{"url": "https://a.io", "reachable": 1}],
}


def put_status(cluster: ControlPlane, resource: str, name: str, status: Spec) -> Spec:
    patch = json.dumps({"status": status})
    answer = cluster.kubectl(
        "patch", resource, name, "--subresource=status", "--type=merge", f"--patch={patch}", "--output=json"
    )
    stored: Spec = json.loads(answer)
    return stored


def columns(table: str) -> list[dict[str, str]]:
    """Read what kubectl prints: cells begin where the titles do."""
    title, *rows = table.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", title)]
    ends = [*starts[1:], None]
    return [{title[a:b].strip(): row[a:b].strip() for a, b in zip(starts, ends, strict=True)} for row in rows]


def test_columns_of_a_mirror(cluster: ControlPlane) -> None:
    body = document(mirror("https://a.io", registry="quay.io", priority=7), name="columns")
    cluster.kubectl("apply", "-f", "-", input=json.dumps(body))
    stored = put_status(cluster, "registrymirrors", "columns", MIRROR_STATUS)
    assert stored["status"] == MIRROR_STATUS
    assert parse.registry_mirror(stored).status.nodes is not None
    (row,) = columns(cluster.kubectl("get", "rmir", "columns"))
    assert [*row] == ["NAME", "REGISTRY", "READY", "REASON", "SELECTED", "APPLIED", "FAILED", "AGE"]
    assert [*row.values()][:-1] == ["columns", "quay.io", "False", "NodesFailed", "31", "27", "1"]
    (row,) = columns(cluster.kubectl("get", "rmir", "columns", "-o", "wide"))
    assert (row["PENDING"], row["PRIORITY"], row["MESSAGE"]) == ("3", "7", "1 of 31 nodes failed")
    assert "registrymirror.registrymirror.io/columns" in cluster.kubectl("get", "registry-mirror", "-o", "name")


def test_columns_of_a_node(cluster: ControlPlane) -> None:
    probe = {"mode": "Demote", "interval": "60s", "image": "docker.io/library/busybox:1"}
    spec = {"revision": "abc123", "bundle": {"name": "rev-abc123"}, "probe": probe}
    body = document(spec, "n1", "NodeRegistryConfig")
    cluster.kubectl("apply", "-f", "-", input=json.dumps(body))
    stored = put_status(cluster, "nrc", "n1", NODE_STATUS)
    assert stored["status"] == NODE_STATUS
    assert stored["spec"] == body["spec"]
    parsed = parse.node_registry_config(stored)
    assert parsed.status.runtime is not None
    assert msgspec.to_builtins(parsed.spec) == spec
    assert [*msgspec.to_builtins(parsed.status.endpoints)] == NODE_STATUS["endpoints"]
    (row,) = columns(cluster.kubectl("get", "nrc"))
    assert [*row] == ["NAME", "RUNTIME", "REVISION", "APPLIED", "RESTART-REQUIRED", "AGE"]
    assert [*row.values()][:-1] == ["n1", "k3s", "abc123", "False", "True"]
    (row,) = columns(cluster.kubectl("get", "nrc", "-o", "wide"))
    assert (row["APPLIED-REVISION"], row["MESSAGE"]) == ("abc122", "no space is left")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"endpoints": [{"url": "https://a.io", "reachable": True}]}, "reason: Required value"),
        ({"endpoints": [{"url": "https://a.io", "reason": "TimedOut"}]}, "reachable: Required value"),
        ({"endpoints": [{**NODE_STATUS["endpoints"][1], "message": "m" * 257}]}, "message: Too long"),
        ({"endpoints": [{**NODE_STATUS["endpoints"][0], "url": f"https://{i}.io"} for i in range(257)]}, "Too many"),
    ],
)
def test_a_bad_report_on_endpoints_is_refused(cluster: ControlPlane, status: Spec, words: str) -> None:
    body = document({"revision": "abc123"}, "n2", "NodeRegistryConfig")
    cluster.kubectl("apply", "-f", "-", input=json.dumps(body))
    with pytest.raises(KubectlError) as raised:
        put_status(cluster, "nrc", "n2", status)
    assert words in raised.value.stderr


@pytest.mark.parametrize(
    "image",
    ["docker.io/library/busybox:1.37", "registry.example.com:5000/a/b-c", f"[fd00::1]:5000/a@sha256:{'0' * 64}"],
)
def test_a_policy_takes_an_image(cluster: ControlPlane, image: str) -> None:
    body = document({"probe": {"image": image}}, "default", "RegistryMirrorPolicy")
    created = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(body))
    assert parse.policy(json.loads(created)).spec.probe.image == image


def test_columns_of_the_policy(cluster: ControlPlane) -> None:
    body = document({"rollout": {"paused": True, "maxUnavailable": "10%"}}, "default", "RegistryMirrorPolicy")
    cluster.kubectl("apply", "-f", "-", input=json.dumps(body))
    (row,) = columns(cluster.kubectl("get", "rmpol"))
    assert [*row] == ["NAME", "PAUSED", "RESTART", "MAX-UNAVAILABLE", "AGE"]
    assert [*row.values()][:-1] == ["default", "true", "WhenRequired", "10%"]


def test_status_is_written_through_its_subresource_only(cluster: ControlPlane) -> None:
    body = {**document(mirror(), name="no-status"), "status": MIRROR_STATUS}
    created = cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(body))
    assert "status" not in json.loads(created)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reason": "not one word"}, "reason"),
        ({"status": "Maybe"}, 'supported values: "True", "False", "Unknown"'),
        ({"lastTransitionTime": "yesterday"}, "lastTransitionTime"),
        ({"message": "m" * 4097}, "message: Too long"),
        ({"message": None}, "message: Required value"),
    ],
)
def test_a_bad_condition_is_refused(cluster: ControlPlane, change: Spec, words: str) -> None:
    cluster.kubectl("apply", "-f", "-", input=json.dumps(document(mirror(), name="conditions")))
    condition = {**CONDITION, "reason": "Applied", "message": "", **change}
    with pytest.raises(KubectlError) as raised:
        put_status(cluster, "registrymirrors", "conditions", {"conditions": [condition]})
    assert words in raised.value.stderr


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("registrymirrors", "Tells the nodes from where to pull"),
        ("rmir.spec.registry", "Cannot be changed: create another object."),
        ("rmir.spec.endpoints.url", "https://harbor.example.com/v2/dockerhub"),
        ("rmir.spec.endpoints.tls.caRef.kind", "Default Secret."),
        ("rmpol.spec.rollout.paused", "If true"),
        ("rmpol.spec.rollout.windows", "none listed means at any time"),
        ("rmpol.spec.startupTaint", "Have new nodes register with it"),
        ("rmpol.spec.probe.mode", "it is put behind those that do"),
        ("nrc.spec.probe.interval", "at least 5s"),
        ("nrc.status.endpoints.reason", "TimedOut"),
        ("nrc.status.fileCount", "the node is as it was found"),
    ],
)
def test_kubectl_explain_helps(cluster: ControlPlane, path: str, words: str) -> None:
    said = " ".join(cluster.kubectl("explain", path).split())
    assert words in said


def test_fields_without_effect_yet_say_so_and_no_others(cluster: ControlPlane) -> None:
    said = cluster.kubectl("explain", "rmpol.spec", "--recursive=false")
    fields = [" ".join(item.split()) for item in re.split(r"\n  (?=\w+\t)", said)[1:]]
    assert [item.split()[0] for item in fields if "carried out by this version yet" in item] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_taken(cluster: ControlPlane, path: Path) -> None:
    cluster.kubectl("create", "namespace", "registry-mirror-system", check=False)
    cluster.kubectl("apply", "-f", str(path))
    kinds: dict[str, int] = {}
    for body in yaml.safe_load_all(path.read_text()):
        kinds[body["kind"]] = kinds.get(body["kind"], 0) + 1
        if body["kind"] == "RegistryMirror":
            assert parse.registry_mirror(body).metadata.name
        else:
            assert body["metadata"]["namespace"] == "registry-mirror-system"
    assert kinds["RegistryMirror"] >= 1
    cluster.kubectl("delete", "-f", str(path))


def test_what_the_examples_name_is_in_them() -> None:
    assert len(EXAMPLES) >= 3
    for path in EXAMPLES:
        bodies = list(yaml.safe_load_all(path.read_text()))
        held = {(body["kind"], body["metadata"]["name"]): body.get("data", body.get("stringData")) for body in bodies}
        for body in bodies:
            for item in body["spec"].get("endpoints", []) if body["kind"] == "RegistryMirror" else []:
                if "credentialsRef" in item:
                    assert held["Secret", item["credentialsRef"]["name"]].keys() == {"username", "password"}
                if "tls" in item:
                    ref = item["tls"]["caRef"]
                    assert "BEGIN CERTIFICATE" in held[ref["kind"], ref["name"]][ref["key"]]
