"""registries.yaml of K3s and RKE2, their containerd templates, and the flags that change what both mean.

How the file is read was seen with wharfie, which K3s reads it by (tests/oracles): it ignores keys that it does not
know, takes one of two equal keys, and refuses what has another type; then K3s never starts (runtimes.md, K3s and RKE2).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

from msgspec import Struct

from ...api import grammar
from ...api.errors import InvalidError
from .. import upstream, versions
from ..finding import Finding
from ..importing.k3s import auth_of
from ..importing.reading import Table, read_yaml
from ..material import Credentials
from ..render.k3s_hosts import normalise
from .certs import DEFAULT
from .evidence import File, Node
from .text import at, finding, line_of, line_of_key, listed, masked, shown
from .tls import Named

_MIRROR = ("endpoint", "rewrite")
_CONFIG = ("auth", "tls")
_AUTH = ("username", "password", "auth", "identity_token", "identitytoken")
_TLS = ("ca_file", "cert_file", "key_file", "insecure_skip_verify")
_NEVER = "K3s and RKE2 do not start with it, this one included when it starts next"
_DEFAULT_FLAG = "disable-default-registry-endpoint"


class Endpoint(Struct, frozen=True, kw_only=True):
    """An endpoint of an entry, as K3s asks it."""

    registry: str
    url: str
    place: str
    named: Named
    skip_verify: bool = False
    credentials: Credentials | None = None


class Registries(Struct, frozen=True, kw_only=True):
    """What a file says: its names of registries, its endpoints, what names TLS files, and what is wrong."""

    names: frozenset[str] = frozenset()
    endpoints: tuple[Endpoint, ...] = ()
    credentials: Mapping[str, Credentials] = {}
    named: tuple[Named, ...] = ()
    findings: tuple[Finding, ...] = ()


class _Mistyped(Exception):
    """Why K3s refuses the file."""


def read(node: Node) -> Registries:
    """Read the registries.yaml of the node, if it has one."""
    path = node.facts.registries_file if node.facts is not None else ""
    file = node.others.get(path)
    if node.name not in ("k3s", "rke2") or file is None:
        return Registries()
    if file.text is None:
        if not file.problem:
            return Registries(findings=tuple(_embedded(node, path, frozenset())))
        remedy = "make it a regular file that root can read"
        return Registries(findings=(finding("error", "FileNotReadable", path, file.problem, remedy),))
    reader = _Reader(node, file)
    try:
        root = read_yaml(path, file.text)
        reader.read(root)
    except _Mistyped as error:
        found = finding("error", "RegistriesInvalid", path, str(error), f"correct it: {_NEVER}")
        return Registries(findings=(found,))
    except InvalidError as error:
        return Registries(findings=(_refused(path, error),))
    return reader.result()


def _refused(path: str, error: InvalidError) -> Finding:
    found = error.errors[0]
    if found.found == "the key twice":
        remedy = "write it once, with all its endpoints: only one of the two is read"
        return finding("error", "RegistriesKeyTwice", path, f"{found.field} is there twice", remedy)
    where = f"{found.field}: " if found.field else ""
    evidence = f"{where}{found.found or 'it is not YAML (a tab, or a wrong indentation, is the usual cause)'}"
    return finding("error", "RegistriesInvalid", path, evidence, f"correct it: {_NEVER}")


class _Reader:
    """One file that is YAML."""

    def __init__(self, node: Node, file: File) -> None:
        self.node, self.file = node, file
        self.path, self.text = file.path, file.text or ""
        self.findings: list[Finding] = []
        self.unknown: list[str] = []
        self.names: set[str] = set()
        self.endpoints: list[Endpoint] = []
        self.named: list[Named] = []
        self.credentials: dict[str, Credentials] = {}

    def result(self) -> Registries:
        if self.unknown:
            remedy = "K3s ignores what it does not know; it knows mirrors (endpoint, rewrite) and configs (auth, tls)"
            self._add("warning", "RegistriesKeyUnknown", listed(self.unknown), remedy)
        if self.file.exposed and self.credentials:
            evidence = "it holds credentials, and everybody on the node can read it"
            self._add("warning", "SecretReadable", evidence, f"chmod 600 {self.path}")
        return Registries(
            names=frozenset(self.names),
            endpoints=tuple(self.endpoints),
            credentials=self.credentials,
            named=tuple(self.named),
            findings=tuple(self.findings),
        )

    def read(self, root: Table) -> None:
        self._known(root, ("mirrors", "configs", "auths"))
        if "auths" in root:
            self.unknown.append(at(line_of_key(self.text, "auths"), "auths"))
        mirrors, configs = self._map(root, "mirrors"), self._map(root, "configs")
        for host in configs:
            self._config(host, self._map(configs, host))
        for name in mirrors:
            self._mirror(name, self._map(mirrors, name), configs)
        self.findings += _embedded(self.node, self.path, frozenset(mirrors))
        # A directory is also made for what is only in configs.
        self.names |= {*mirrors, *configs}
        self._default_kept(mirrors, configs)

    def _config(self, host: str, entry: Table) -> None:
        line = line_of_key(self.text, host)
        self._known(entry, _CONFIG)
        auth, tls = self._map(entry, "auth"), self._map(entry, "tls")
        self._known(auth, _AUTH)
        self._known(tls, _TLS)
        if "://" in host or "/" in host:
            evidence = at(line, f"configs has {shown(host)}, and goes by host[:port] alone")
            self._add("error", "ConfigNeverRead", evidence, "write the host with its port, without https:// and path")
            return
        credentials = auth_of(auth, [])
        if credentials is not None and host == "*":
            self._add("error", "ConfigNeverRead", at(line, 'configs."*".auth has no effect'), "write one for each host")
        elif credentials is not None:
            self.credentials[host] = credentials
        certificate, key = self._text(tls, "cert_file"), self._text(tls, "key_file")
        if bool(certificate) != bool(key):
            evidence = at(line, f"configs.{host} has only one of cert_file and key_file")
            self._add("error", "ClientKeyMissing", evidence, "write both: the one alone is an error to containerd")
        ca = self._text(tls, "ca_file")
        pairs = ((certificate, key),) if certificate and key else ()
        if ca or pairs:
            named = Named(where=f"{self.path}: configs.{host}", cas=(ca,) if ca else (), clients=pairs)
            self.named.append(named)

    def _mirror(self, name: str, entry: Table, configs: Table) -> None:
        line = line_of_key(self.text, name)
        self._known(entry, _MIRROR)
        self._map(entry, "rewrite")
        problem = grammar.registry_problem(name)
        if name != "*" and grammar.host_port_problem(name):
            evidence = at(line, f"mirrors has {shown(name)}, which is no host[:port]")
            remedy = "correct it before K3s starts next: it removes the directory of that name as root, wherever it is"
            self._add("error", "RegistryNameUnsafe", evidence, remedy)
            return
        if problem is not None or name == "registry-1.docker.io":
            evidence = at(line, f"no image is looked up under {shown(name)}: {problem or 'write docker.io'}")
            self._add("error", "RegistryNeverRead", evidence, "write the registry as it stands in the names of images")
        value = entry.raw("endpoint")
        if value is not None and not isinstance(value, list):
            raise _Mistyped(at(line_of_key(self.text, "endpoint", after=line - 1), "endpoint is not a list"))
        for item in value or ():
            if not isinstance(item, str):
                raise _Mistyped(
                    at(line_of_key(self.text, "endpoint", after=line - 1), "endpoint is not a list of texts")
                )
            self._endpoint(name, item, line_of(self.text, item, after=line - 1), configs)

    def _endpoint(self, registry: str, value: str, line: int, configs: Table) -> None:
        embedded = self.node.facts.embedded_registry if self.node.facts is not None else None
        host, url, _ = normalise(value, embedded.address if embedded is not None else "")
        scheme = url.partition("://")[0]
        if grammar.url_problem(url) and (scheme not in ("http", "https") or "//" in url.partition("://")[2]):
            evidence = at(line, f"endpoint {shown(value)} of {registry} is no URL with http:// or https:// and a host")
            self._add("error", "EndpointInvalid", evidence, "write it as https://HOST[:PORT][/PATH]")
            return
        if "://" not in value:
            remedy = f"write {masked(url).removesuffix('/v2')}, or http:// if it speaks no TLS"
            evidence = at(line, f"endpoint {shown(value)} of {registry} is read as {masked(url)}")
            self._add("warning", "SchemeMissing", evidence, remedy)
        if "@" in host:
            evidence = at(
                line, f"endpoint {shown(value)} of {registry} has a user name or a password, which is not sent"
            )
            remedy = "take it out of the URL, and write it in configs, as the auth of the host"
            self._add("warning", "CredentialsInURL", evidence, remedy)
            host, url = host.rpartition("@")[2], f"{scheme}://{url.rpartition('@')[2]}"
        key = next((key for key in (upstream.default_host(host), host) if key in configs), "")
        tls = self._map(self._map(configs, key), "tls") if key else Table(self.path, "", None)
        named = next((item for item in self.named if item.where.endswith(f": configs.{key}")), Named(where=""))
        self.endpoints.append(
            Endpoint(
                registry=registry,
                url=url,
                place=at(line, f"mirrors.{registry}"),
                named=named,
                skip_verify=tls.flag("insecure_skip_verify"),
                credentials=self.credentials.get(key),
            )
        )

    def _default_kept(self, mirrors: Table, configs: Table) -> None:
        """The flag drops the registry itself only where there is no entry of configs for it (K3s getHostConfigs)."""
        if self.node.facts is None or not self.node.facts.disable_default_endpoint:
            return
        for name in (name for name in mirrors if name in configs and mirrors.table(name).raw("endpoint")):
            evidence = at(
                line_of_key(self.text, name), f"{_DEFAULT_FLAG} is set, and configs has an entry for {name}: "
            )
            evidence += "the registry itself is still asked last"
            remedy = f"remove configs.{name} if it is not to be asked, or take back the flag"
            self._add("warning", "DefaultEndpointKept", evidence, remedy)

    # ---- types -------------------------------------------------------------------------------------------------

    def _map(self, table: Table, key: str) -> Table:
        value = table.raw(key)
        if value is not None and not isinstance(value, dict):
            raise _Mistyped(at(line_of_key(self.text, key), f"{table.where(key)} has no keys and values below it"))
        return table.table(key)

    def _text(self, table: Table, key: str) -> str:
        value = table.raw(key)
        if value is not None and not isinstance(value, str):
            raise _Mistyped(at(line_of_key(self.text, key), f"{table.where(key)} is no text"))
        return value or ""

    def _known(self, table: Table, known: tuple[str, ...]) -> None:
        self.unknown += [at(line_of_key(self.text, key), table.where(key)) for key in table if key not in known]

    def _add(self, severity: str, reason: str, evidence: str, remedy: str) -> None:
        self.findings.append(
            finding("error" if severity == "error" else "warning", reason, self.path, evidence, remedy)
        )


def _embedded(node: Node, path: str, names: frozenset[str]) -> Iterator[Finding]:
    if node.facts is not None and node.facts.embedded_registry is not None and not names:
        evidence = "the embedded registry is on, and mirrors has no entry: images of no registry are shared"
        yield finding("warning", "EmbeddedRegistryUnused", path, evidence, 'add an entry to mirrors, such as "*": {}')


def templates(node: Node) -> Iterator[Finding]:
    """Say whether the template from which containerd's configuration is rendered has what mirrors need.

    k3s pkg/agent/containerd/config.go, templateGenerations: with containerd 2 the one of version 3 comes first, and the
    other one is not read beside it; with containerd 1 there is only the latter.
    """
    if node.name not in ("k3s", "rke2") or node.facts is None:
        return
    folder = posixpath.dirname(node.facts.config_path)
    new, old = (node.others.get(f"{folder}/{name}") for name in ("config-v3.toml.tmpl", "config.toml.tmpl"))
    new, old = (file if file is not None and file.text is not None else None for file in (new, old))
    before = versions.known_below(node.containerd_version, 2, 0)
    unread, used = (new, old) if before else (old if new is not None else None, new or old)
    if unread is not None:
        why = f"containerd {node.containerd_version} has no version 3" if before else "config-v3.toml.tmpl is beside it"
        remedy = "move what it says to the other one, and remove it"
        yield finding("warning", "TemplateIgnored", unread.path, f"it is not read: {why}", remedy)
    text = used.text or "" if used is not None else ""
    if used is not None and 'template "base"' not in text and "config_path" not in text:
        evidence = 'it has no config_path and does not begin with {{ template "base" . }}: no hosts.toml is read'
        remedy = 'begin it with {{ template "base" . }}, keep below that what is yours, and restart'
        yield finding("error", "TemplateWithoutConfigPath", used.path, evidence, remedy)


def _is_default(item: Endpoint) -> bool:
    return item.registry != "*" and item.url == upstream.default_url(item.registry)


def not_rendered(node: Node, found: Registries) -> Iterator[Finding]:
    """Say which entries have no directory yet: K3s writes those when it starts."""
    there = {folder.name for certs in node.certs for folder in certs.folders if folder.hosts is not None}
    missing = [
        name
        for name in dict.fromkeys(item.registry for item in found.endpoints if not _is_default(item))
        if (DEFAULT if name == "*" else name) not in there
    ]
    if missing and node.runs.started and node.facts is not None:
        evidence = f"the endpoints of {listed(missing)} are in none of the files that containerd reads"
        remedy = "restart the service: K3s and RKE2 render the file when they start"
        yield finding("error", "NotRendered", node.facts.registries_file, evidence, remedy)
