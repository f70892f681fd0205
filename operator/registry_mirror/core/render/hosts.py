"""hosts.toml as a model, its text and what that text must read back as; shared by every runtime with a certs.d."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..bundle import PUBLIC_MODE, SECRET_MODE, File
from . import quoting


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """TLS settings as hosts.toml has them: paths, not content."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    insecure_skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """One ``[host."URL"]`` table, or the root of the file (then ``url`` is ``server``: None leaves it out).

    ``capabilities`` are containerd's words (pull, resolve, push); none means that the key is not written.
    """

    url: str | None
    capabilities: tuple[str, ...] = ()
    tls: TLSFiles | None = None
    authorization: str = ""
    override_path: bool = False
    dial_timeout: str | None = None
    rewrites: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Host({self.url})"

    def settings(self) -> dict[str, Any]:
        """What the table must read back as, keys in the order in which the template writes them."""
        result: dict[str, Any] = {}
        if self.capabilities:
            result["capabilities"] = list(self.capabilities)
        if self.tls is not None:
            if self.tls.ca:
                result["ca"] = [self.tls.ca]
            if self.tls.certificate:
                result["client"] = [[self.tls.certificate, self.tls.key]]
            if self.tls.insecure_skip_verify:
                result["skip_verify"] = True
        if self.override_path:
            result["override_path"] = True
        if self.dial_timeout is not None:
            result["dial_timeout"] = self.dial_timeout
        if self.authorization:
            result["header"] = {"Authorization": self.authorization}
        if self.rewrites:
            result["rewrite"] = dict(self.rewrites)
        return result


@dataclass(frozen=True, slots=True)
class HostsFile:
    """A whole hosts.toml: a first comment line, the registry itself (the root) and the hosts in order."""

    comment: str
    root: Host
    hosts: tuple[Host, ...] = ()

    def expected(self) -> dict[str, Any]:
        """What the text must read back as."""
        server = {} if self.root.url is None else {"server": self.root.url}
        return {**server, **self.root.settings(), "host": {str(host.url): host.settings() for host in self.hosts}}

    def file(self, certs: str, directory: str) -> File:
        """Render it to ``certs/directory/hosts.toml``, readable by root only if it holds a credential."""
        secret = any(host.authorization for host in (self.root, *self.hosts))
        return File(
            path=f"{certs}/{directory}/hosts.toml",
            content=quoting.toml_file("hosts.toml.j2", self.expected(), file=self),
            mode=SECRET_MODE if secret else PUBLIC_MODE,
        )
