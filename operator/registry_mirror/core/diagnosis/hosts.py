"""A hosts.toml as containerd takes it (core/remotes/docker/config/hosts.go of 2.4 and 1.7), and what is wrong with it.

What it takes and what it refuses was seen with containerd's own reader (tests/oracles, tests/pure/test_diagnosis.py):
it ignores a file that it cannot read, whole, with no more than a line in its log, and then asks the registry itself.
"""

from __future__ import annotations

import base64
import posixpath
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from ...api import grammar
from .. import versions
from ..finding import Finding
from ..material import Credentials
from .evidence import File
from .hosts_form import WORDS, RefusedError, entries, has_dial_timeout, problems
from .text import NotReadableError, at, finding, line_of, listed, masked, shown, table, toml

_SETTINGS = ("capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout")
_TLS = ("ca", "client", "skip_verify")
_MISTYPED = "containerd ignores the whole file and asks the registry itself"


class Host(Struct, frozen=True, kw_only=True):
    """An endpoint of a file: the URL under which its API is asked, its TLS files, and the credentials of its header."""

    url: str
    cas: tuple[str, ...] = ()
    clients: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False
    credentials: Credentials | None = None
    line: int = 0


class Hosts(Struct, frozen=True, kw_only=True):
    """What containerd makes of a file: its endpoints in their order, and what is wrong. ``server``: the last one is the
    root's, in place of the registry itself.
    """

    hosts: tuple[Host, ...] = ()
    server: bool = False
    findings: tuple[Finding, ...] = ()


def read(file: File, registry: str, version: str, *, fork: bool) -> Hosts:
    """Read the hosts.toml of a registry. Takes containerd's version, and whether it is the fork of K3s and RKE2."""
    text = file.text or ""
    try:
        document = toml(text)
        for path, entry in entries(document):
            for problem in problems(text, path, entry, version):
                raise RefusedError(problem)
    except (NotReadableError, RefusedError) as error:
        remedy = f"correct it: until then {_MISTYPED}"
        return Hosts(findings=(finding("error", "HostsFileInvalid", file.path, str(error), remedy),))
    reader = _Reader(file, text, document, version, fork)
    refused = tuple(reader.refused())
    if refused:
        return Hosts(findings=refused)
    hosts = tuple(reader.hosts())
    server = tuple(reader.server(registry))
    findings = (*reader.ignored(), *reader.findings)
    return Hosts(hosts=(*hosts, *server), server=bool(server), findings=findings)


class _Reader:
    """One file that can be decoded."""

    def __init__(self, file: File, text: str, document: dict[str, Any], version: str, fork: bool) -> None:
        self.file, self.text, self.document = file, text, document
        self.version, self.fork = version, fork
        self.old = versions.known_below(version, 2, 0)
        self.tables: dict[str, dict[str, Any]] = table(document, "host")
        self.findings: list[Finding] = []

    def refused(self) -> Iterator[Finding]:
        """Say what only one of the two lines of containerd refuses."""
        if not self.old:
            return
        bracket = next((url for url in self.tables if "[" in url), "")
        if bracket:
            what = at(line_of(self.text, "[", bracket), f"{shown(bracket)} has brackets")
            evidence = f"{what}, which containerd {self.version} cannot read: it ignores the whole file"
            yield self._error("IPv6Unreadable", evidence, "use a host name instead of the address, or containerd 2")
        elif "host" not in self.document and "server" in self.document:
            evidence = f"there is no [host], without which containerd {self.version} ignores the whole file"
            yield self._error("HostTableMissing", evidence, "add a line [host] after server")

    def hosts(self) -> Iterator[Host]:
        """Give the endpoints that are asked."""
        for url, entry in self.tables.items():
            line = line_of(self.text, "[", url)
            if not self.old and not self._has_header(url):
                evidence = at(line_of(self.text, url), f'host {shown(url)} is not written as a table [host."URL"]')
                remedy = (
                    f'write [host."{masked(url)}"] on a line of its own, its settings below: containerd 2 skips others'
                )
                self.findings.append(self._error("HostTableIgnored", evidence, remedy))
                continue
            found = self._host(url, entry, line)
            if found is None:
                continue
            if "pull" in self._words(entry):
                yield found
            else:
                evidence = at(
                    line_of(self.text, "capabilities", after=line), f"{shown(url)} has not the capability pull"
                )
                remedy = 'add "pull" to its capabilities, or remove it: nothing is pulled from it'
                self.findings.append(self._warning("CapabilityMissing", evidence, remedy))

    def server(self, registry: str) -> Iterator[Host]:
        """Give the endpoint that stands in place of the registry itself, if one does."""
        server = self.document.get("server", "")
        if not server:
            return
        found = self._host(server, self.document, line_of(self.text, "server"))
        own = {registry, {"docker.io": "registry-1.docker.io"}.get(registry, registry)}
        if registry == "docker.io":
            own.add("index.docker.io")
        if found is not None and urlsplit(found.url).netloc not in own and registry != "_default":
            yield found

    def ignored(self) -> Iterator[Finding]:
        """Say what containerd reads over."""
        known = (*_SETTINGS, *(("rewrite",) if self.fork else ()))
        extra = [key for key in self.document if key not in ("server", "host", *known)]
        places = [at(line_of(self.text, key), key) for key in extra]
        for url, entry in self.tables.items():
            line = line_of(self.text, "[", url)
            places += [at(line_of(self.text, key, after=line - 1), key) for key in entry if key not in known]
            if "rewrite" in entry and not self.fork:
                evidence = at(line, f"{shown(url)} has rewrite, which only the containerd of K3s and RKE2 knows")
                remedy = (
                    "names are asked for as they are: use an override_path with a path, or a mirror that needs none"
                )
                yield self._error("RewriteIgnored", evidence, remedy)
            if "dial_timeout" in entry and not has_dial_timeout(self.version):
                evidence = at(
                    line_of(self.text, "dial_timeout", after=line), "dial_timeout is of containerd 2.0.7 and 2.1"
                )
                remedy = f"containerd {self.version} ignores it: remove it, or upgrade"
                yield self._warning("SettingTooNew", evidence, remedy)
        places = [place for place in places if not place.endswith("rewrite")]
        if places:
            remedy = f"containerd ignores what it does not know; it knows server, host, {', '.join(_SETTINGS)}"
            yield self._warning("HostsKeyUnknown", listed(places), remedy)
        if self.file.exposed and any(table(entry, "header") for entry in (*self.tables.values(), self.document)):
            evidence = "it holds a header, which may be a password, and everybody on the node can read it"
            yield self._warning("SecretReadable", evidence, f"chmod 600 {self.file.path}")

    # ---- one endpoint ------------------------------------------------------------------------------------------

    def _host(self, url: str, entry: dict[str, Any], line: int) -> Host | None:
        """Give an endpoint; None if containerd drops it."""
        full = url if url.startswith("http") else f"https://{url}"
        scheme, separator, rest = full.partition("://")
        authority, _, path = rest.partition("/")
        _, at_sign, authority = authority.rpartition("@")
        if not separator or scheme not in ("http", "https") or "//" in path or grammar.host_port_problem(authority):
            evidence = at(line, f"{shown(url)} is no URL with http:// or https:// and a host")
            self.findings.append(
                self._error("EndpointInvalid", evidence, "write it as https://HOST[:PORT]: as it is, nobody is asked")
            )
            return None
        if full != url:
            remedy = f"write {masked(full)}, or http:// if it speaks no TLS"
            evidence = at(line, f"{shown(url)} is read as {masked(full)}")
            self.findings.append(self._warning("SchemeMissing", evidence, remedy))
        if at_sign:
            evidence = at(line, f"{shown(url)} has a user name or a password, which is not sent")
            remedy = "take it out of the URL, and write a header Authorization, or give Pods imagePullSecrets"
            self.findings.append(self._warning("CredentialsInURL", evidence, remedy))
            full = f"{scheme}://{authority}/{path}"
        api = self._api(full, entry, line)
        if scheme == "http" and any(key in entry for key in _TLS) and urlsplit(full).port not in (None, 80):
            evidence = at(line, f"{shown(url)} is plain HTTP and has TLS settings, so containerd tries HTTPS first")
            remedy = "remove ca, client and skip_verify from it, or write https://"
            self.findings.append(self._warning("TLSOnPlainHTTP", evidence, remedy))
        return Host(
            url=api,
            cas=_texts(entry.get("ca")),
            clients=tuple(_pairs(entry.get("client"))),
            skip_verify=entry.get("skip_verify") is True,
            credentials=_credentials(entry),
            line=line,
        )

    def _api(self, url: str, entry: dict[str, Any], line: int) -> str:
        """Give the URL that requests begin with (hosts.go, parseHostConfig): it ends in /v2 unless the path is taken as
        it is.
        """
        parts = urlsplit(url)
        verbatim = entry.get("override_path") is True
        path = posixpath.normpath(f"/{parts.path}").rstrip("/.").replace("//", "/") if parts.path else ""
        api = path if verbatim or path.endswith("/v2") else f"{path}/v2"
        if verbatim and "/v2" not in f"{api}/":
            evidence = at(line, f"{shown(url)} has override_path, and no /v2 in its path")
            remedy = "no registry answers there: write the path with /v2, or remove override_path"
        elif not verbatim and "/v2/" in path and not path.endswith("/v2"):
            evidence = at(
                line, f"{shown(url)} is asked at {parts.scheme}://{parts.netloc}{api}: /v2 is added to its path"
            )
            remedy = "add override_path = true to it, so that its path is taken as it is"
        else:
            return f"{parts.scheme}://{parts.netloc}{api}"
        self.findings.append(self._error("EndpointPathWrong", evidence, remedy))
        return f"{parts.scheme}://{parts.netloc}{api}"

    def _words(self, entry: dict[str, Any]) -> tuple[str, ...]:
        """Give the capabilities of an endpoint; none are all of them."""
        return tuple(word.lower() for word in entry.get("capabilities", ())) or WORDS

    def _has_header(self, url: str) -> bool:
        """Tell whether the table of a host has a header of its own: containerd 2 takes the order from those lines."""
        form = re.compile(rf"\s*\[\s*host\s*\.\s*(?:\"{re.escape(url)}\"|'{re.escape(url)}')\s*\]")
        return any(form.match(line) for line in self.text.splitlines())

    def _error(self, reason: str, evidence: str, remedy: str) -> Finding:
        return finding("error", reason, self.file.path, evidence, remedy)

    def _warning(self, reason: str, evidence: str, remedy: str) -> Finding:
        return finding("warning", reason, self.file.path, evidence, remedy)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else (str(value),) if value else ()


def _pairs(value: object) -> Iterator[tuple[str, str]]:
    """Give certificates and keys; one path alone is a file that holds both."""
    for item in value if isinstance(value, list) else [value] if value else []:
        parts = [str(part) for part in item] if isinstance(item, list) else [str(item)]
        yield parts[0], (parts[1] if len(parts) > 1 and parts[1] else parts[0])


def _credentials(entry: dict[str, Any]) -> Credentials | None:
    """Read a Basic header; any other is not ours to take apart."""
    for name, value in table(entry, "header").items():
        scheme, _, code = (_texts(value) or ("",))[0].partition(" ")
        if name.lower() == "authorization" and scheme.lower() == "basic":
            try:
                user, colon, password = base64.b64decode(code.strip(), validate=True).decode().partition(":")
            except ValueError:
                return None
            return Credentials(username=user, password=password) if colon else None
    return None
