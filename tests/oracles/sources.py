"""The Secrets that the objects of these tests refer to, and what a pull must show of each."""

from __future__ import annotations

import base64
from typing import Any

from registry_mirror.core.resolve import Sources, source
from tests.pure.builders import pem

# What a rendered file could stumble over: quotes, backslashes, line separators, YAML's and TOML's own characters.
PASSWORDS = (
    "swordfish",
    "qu\"ote's",
    "back\\slash\\n\\u0041",
    " leading: #and {{ jinja }} 'yaml' & *x !tag ",
    "päss wörd ☃ \U0001f600",
    "nel\u0085ls\u2028ps\u2029bom\ufeff\ufffe\uffff",
    "null",
    "0o17",
    "1e3",
    "~",
)
USERS = {f"user-{number}": (f"robot${number}", password) for number, password in enumerate(PASSWORDS)}
CAS = {"ca-one": "test CA one", "ca-two": "test CA two"}
CLIENT = "client"
CLIENT_NAME = "test client"


def authorization(secret: str) -> str:
    """The header that says user name and password of a Secret (RFC 7617)."""
    return "Basic " + base64.b64encode(":".join(USERS[secret]).encode()).decode()


def sources() -> Sources:
    bodies = [_secret(name, {"username": user, "password": password}) for name, (user, password) in USERS.items()]
    bodies += [_secret(name, {"ca.crt": pem(f"{name}.crt")}) for name in CAS]
    bodies.append(_secret(CLIENT, {"tls.crt": pem("client.crt"), "tls.key": pem("client.key")}))
    found = [source(body) for body in bodies]
    return {(item.kind, item.name): item for item in found}


def _secret(name: str, data: dict[str, str]) -> dict[str, Any]:
    return {"kind": "Secret", "metadata": {"name": name}, "stringData": data}
