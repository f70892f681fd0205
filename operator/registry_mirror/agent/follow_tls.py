"""CA and client files of the hosts that a runtime would ask: read as it reads them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from msgspec.structs import replace

from ..api.errors import ProblemError
from ..core.material import checked_pem
from ..core.resolve import ResolvedTLS
from ..core.route import Host, Route
from .follow_files import Files
from .roots import Contexts


class _Fails(Exception):
    """What keeps containerd from asking anybody."""


def read_tls(route: Route, registry: str, files: Files, contexts: Contexts) -> tuple[Mapping[str, ResolvedTLS], Route]:
    """Give the TLS settings by the URL of each host, and the route.

    A file that is missing or damaged fails every pull of the registry, whatever other hosts there are (containerd
    hosts.go, updateTLSConfigFromHost): that is the failure of the route then. What is missing only here is a warning.
    """
    found: dict[str, ResolvedTLS] = {}
    reader = _Reader(files, contexts)
    for host in route.hosts:
        try:
            tls = reader.read(host)
        except _Fails as error:
            text = f"{error}: every pull of {registry} fails, from whatever host ({host.origin})"
            return found, replace(route, failure=text)
        if tls is not None:
            found[host.url] = tls
            found[replace(host, scheme="http").url] = tls
    return found, replace(route, warnings=(*route.warnings, *reader.warnings))


class _Reader:
    def __init__(self, files: Files, contexts: Contexts) -> None:
        self._files = files
        self._contexts = contexts
        self.warnings: list[str] = []

    def read(self, host: Host) -> ResolvedTLS | None:
        if not (host.ca or host.client or host.skip_verify):
            return None
        authorities = [self._pem(path, "CERTIFICATE") for path in host.ca]
        certificate = self._pem(host.client[0][0], "CERTIFICATE") if host.client else ""
        key = self._pem(host.client[0][1], "PRIVATE KEY") if certificate else ""
        tls = ResolvedTLS(
            ca="".join(authorities),
            certificate=certificate if key else "",
            key=key,
            insecure_skip_verify=bool(host.skip_verify),
        )
        try:
            self._contexts.get(tls, system=False)
        except (ssl.SSLError, OSError, ValueError):
            raise _Fails(f"{host.client[0][0]}: certificate and key do not belong together") from None
        return tls

    def _pem(self, path: str, label: str) -> str:
        """Give the PEM blocks of a file, or nothing with a warning where it cannot be seen from here. Raises _Fails."""
        try:
            text = self._files.text(path)
            if text is not None:
                return checked_pem(text.encode(), label)
        except ProblemError as error:
            raise _Fails(error.message) from None
        except ValueError as error:
            raise _Fails(f"{path}: {error}") from None
        if self._files.seen(path):
            raise _Fails(f"{path}: there is no such file")
        self.warnings.append(f"{path}: the agent's Pod does not see it, so that its host is asked without it")
        return ""
