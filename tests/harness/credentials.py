"""Keys and client configurations for a control plane, from the standard library alone.

Neither openssl nor a cryptography package has to be on the machine: an EC private key is nothing
but a random number in a fixed wrapping.
"""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

# The order of the group of NIST P-256.
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# RFC 5915: SEQUENCE { INTEGER 1, OCTET STRING (32 bytes, the key), [0] { OID prime256v1 } }. The
# public key is optional and left out: who reads the key computes it.
_BEFORE_KEY = bytes.fromhex("30310201010420")
_AFTER_KEY = bytes.fromhex("a00a06082a8648ce3d030107")


def new_signing_key() -> str:
    """Give a new P-256 private key as PEM, fit for signing service account tokens."""
    number = 1 + secrets.randbelow(_P256_ORDER - 1)
    der = _BEFORE_KEY + number.to_bytes(32, "big") + _AFTER_KEY
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{body}-----END EC PRIVATE KEY-----\n"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, replacing an old one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)


def write_kubeconfig(path: Path, url: str, ca_pem: str, user: str, token: str) -> None:
    """Write a kubeconfig with everything inside it, so that it can be moved. Raises OSError.

    It is JSON, which is YAML too, so that no YAML package is needed.
    """
    authority = base64.b64encode(ca_pem.encode()).decode()
    name = "registry-mirror-operator-test"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url, "certificate-authority-data": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
    }
    write_private(path, json.dumps(content, indent=2) + "\n")
