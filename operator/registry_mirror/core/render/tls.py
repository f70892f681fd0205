"""CA and client files, named by their content: a new CA is a new file, so that no moment exists in which hosts.toml
names a file that holds something else, and what is no longer named is removed last.
"""

from __future__ import annotations

import hashlib

from ..bundle import PUBLIC_MODE, SECRET_MODE, File
from ..resolve import ResolvedTLS
from .hosts import TLSFiles


class TLSStore:
    """Collects the TLS files of one render below one directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[str, File] = {}

    def paths(self, tls: ResolvedTLS | None) -> TLSFiles | None:
        """Give the settings with paths in place of PEM texts, and remember the files."""
        if tls is None:
            return None
        client = name_of(tls.certificate + tls.key)
        return TLSFiles(
            ca=self._add(f"ca-{name_of(tls.ca)}.crt", tls.ca, PUBLIC_MODE),
            certificate=self._add(f"client-{client}.crt", tls.certificate, PUBLIC_MODE),
            key=self._add(f"client-{client}.key", tls.key, SECRET_MODE),
            insecure_skip_verify=tls.insecure_skip_verify,
        )

    def files(self) -> tuple[File, ...]:
        """Everything remembered, by path."""
        return tuple(self._files[path] for path in sorted(self._files))

    def _add(self, name: str, content: str, mode: int) -> str:
        if not content:
            return ""
        path = f"{self._directory}/{name}"
        self._files[path] = File(path=path, content=content, mode=mode)
        return path


def name_of(content: str) -> str:
    """Name content by its digest: a certificate is public, and a private key has too much entropy to guess."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]
