"""TLS as containerd would have it: the endpoint's CA beside the roots of the node, and its client certificate."""

from __future__ import annotations

import os
import posixpath
import ssl
import threading
from pathlib import Path

from ..core.resolve import ResolvedTLS
from ..kube.rest import load_client

# Go's crypto/x509/root_linux.go: the first that is there.
_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_MAX_LINKS = 40
_MAX_CACHED = 32


class Contexts:
    """TLS contexts by their settings. Reading the node's roots takes a while, so they are kept."""

    def __init__(self, host_root: Path) -> None:
        """Take the root of the node's file system."""
        self._root = host_root
        self._lock = threading.Lock()
        self._known: dict[tuple[ResolvedTLS, bool, tuple[str, int]], ssl.SSLContext] = {}

    def get(self, tls: ResolvedTLS, *, system: bool) -> ssl.SSLContext:
        """Give the context for those settings, with the node's roots or without.

        Raises ssl.SSLError or OSError for a client certificate that cannot be used.
        """
        with self._lock:
            roots = self._system() if system and not tls.insecure_skip_verify else None
            key = (tls, system, _identity(roots))
            found = self._known.get(key)
            if found is None:
                if len(self._known) >= _MAX_CACHED:
                    self._known.clear()
                found = self._known[key] = _context(tls, system, roots)
            return found

    def _system(self) -> Path | None:
        for name in _CERTIFICATES:
            path = inside(self._root, name)
            if path is not None and path.is_file():
                return path
        return None


def _identity(path: Path | None) -> tuple[str, int]:
    try:
        return (str(path), path.stat().st_mtime_ns) if path is not None else ("", 0)
    except OSError:
        return "", 0


def _context(tls: ResolvedTLS, system: bool, roots: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # As Go's crypto/tls and crypto/x509: names in subjectAltName only, and any certificate of the pool is a root.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["http/1.1"])
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif system:
        try:
            context.load_verify_locations(cafile=str(roots) if roots is not None else None, capath=None)
        except (OSError, TypeError):  # there is none, or it is damaged: those of the image then
            context.load_default_certs()
    if tls.ca:
        context.load_verify_locations(cadata=tls.ca)
    if tls.certificate:
        load_client(context, tls.certificate, tls.key)
    return context


def inside(root: Path, path: str) -> Path | None:
    """Give where a path leads below a root, links included: on the node, a link to /x means its own /x, not ours."""
    pending = [part for part in path.split("/") if part]
    at, links = "/", 0
    while pending:
        part = pending.pop(0)
        if part in (".", ".."):
            at = posixpath.dirname(at) if part == ".." else at
            continue
        here = posixpath.join(at, part)
        try:
            target = os.readlink(root / here[1:])
        except OSError:  # no link; or nothing is there, which the caller sees
            at = here
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        pending = [item for item in target.split("/") if item] + pending
        at = "/" if target.startswith("/") else at
    return root / at[1:]
