"""A private certificate authority, password hashes and signed tokens: what registries ask for, made by openssl."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TIMEOUT = 20.0
_DAYS = "30"

# All extensions here: what the machine's own openssl.cnf would add is not known.
_CONFIG = """\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = {name}
{group}
[extensions]
{extensions}
"""


@dataclass(frozen=True)
class KeyPair:
    """Paths of a certificate and its key, PEM."""

    certificate: Path
    key: Path


class Authority:
    """An authority that keeps everything in one directory. Raises CalledProcessError where openssl fails."""

    def __init__(self, directory: Path, name: str = "Test authority") -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        extensions = "basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, digitalSignature"
        self._own = self._make("ca", name, extensions, issuer=None)

    @property
    def certificate(self) -> Path:
        """Its certificate, which clients are to trust."""
        return self._own.certificate

    def issue(self, name: str, *addresses: str, group: str = "") -> KeyPair:
        """A certificate for a server at those addresses, or for a client where there is none.

        ``group`` is the subject's organisation, which Kubernetes takes for a user's group.
        """
        extensions = "basicConstraints = CA:FALSE\nkeyUsage = digitalSignature\nextendedKeyUsage = "
        if addresses:
            extensions += f"serverAuth\nsubjectAltName = DNS:{name}," + ",".join(f"IP:{item}" for item in addresses)
        else:
            extensions += "clientAuth"
        return self._make(name, name, extensions, issuer=self._own, group=group)

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A JSON web token by the authority itself, which it names by its certificate (RFC 7515, x5c; RS256)."""
        der = base64.b64encode(_openssl("x509", "-in", str(self.certificate), "-outform", "DER")).decode()
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        content = b".".join(_encode(json.dumps(part).encode()) for part in (head, dict(claims)))
        signature = _openssl("dgst", "-sha256", "-sign", str(self._own.key), input=content)
        return (content + b"." + _encode(signature)).decode()

    def _make(self, file: str, name: str, extensions: str, issuer: KeyPair | None, group: str = "") -> KeyPair:
        pair = KeyPair(self._directory / f"{file}.crt", self._directory / f"{file}.key")
        config = self._directory / f"{file}.cnf"
        config.write_text(_CONFIG.format(name=name, group=f"O = {group}" if group else "", extensions=extensions))
        argv = ["req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", _DAYS, "-config", str(config)]
        if issuer is not None:
            argv += ["-CA", str(issuer.certificate), "-CAkey", str(issuer.key)]
        _openssl(*argv, "-keyout", str(pair.key), "-out", str(pair.certificate))
        return pair


def bcrypt(program: Path, password: str) -> str:
    """The hash of a password as htpasswd files have it. Takes the harness's bcrypt program."""
    answer = subprocess.run([program], input=password, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    return answer.stdout.strip()


def _openssl(*args: str, input: bytes | None = None) -> bytes:
    answer = subprocess.run(["openssl", *args], input=input, capture_output=True, timeout=_TIMEOUT, check=True)
    return answer.stdout


def _encode(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")
