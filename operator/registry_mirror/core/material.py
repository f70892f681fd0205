"""What Secrets and ConfigMaps hold: credentials in three forms, and PEM as Go reads it. No error shows a value."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Mapping
from functools import lru_cache

import msgspec
from msgspec import Struct

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s+[A-Za-z0-9+/=\s]+-----END \1-----", re.ASCII)
# What Go's crypto/x509 and crypto/tls read; it skips TRUSTED CERTIFICATE and fails on an encrypted key.
_LABELS = {
    "CERTIFICATE": ("CERTIFICATE",),
    "PRIVATE KEY": ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"),
}
_DOCKER_HUB = {"docker.io", "index.docker.io", "registry-1.docker.io"}
# Around the host in a key of auths: the scheme before, and what Kubernetes ignores after it.
_SERVER = re.compile(r"^https?://|/(?:v[12]/?)?$")
_MAX_PEM = 256 * 1024
_CREDENTIALS_FORM = (
    "write a Secret of type kubernetes.io/basic-auth (username, password), kubernetes.io/dockerconfigjson, or one with "
    "the key token"
)


class Credentials(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a registry asks for: user name and password, or an identity token. Never shown by repr."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        return "Credentials(***)"

    def basic(self) -> str:
        """Give the value of an Authorization header for user name and password (RFC 7617, UTF-8)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def credentials(data: Mapping[str, bytes], host: str) -> Credentials:
    """Read the data of a credentials Secret for one host.

    Raises ValueError with what to write instead, never with the content.
    """
    if ".dockerconfigjson" in data:
        return _docker_config(data[".dockerconfigjson"], host)
    if "username" in data and "password" in data:
        return _user(data["username"], data["password"])
    if "token" in data:
        return Credentials(identity_token=_text(data["token"], "token"))
    raise ValueError(_CREDENTIALS_FORM)


def _user(username: bytes, password: bytes) -> Credentials:
    name = _text(username, "username")
    if ":" in name:
        raise ValueError("the user name has a colon, which Basic authentication cannot carry")
    return Credentials(username=name, password=_text(password, "password"))


def _text(value: bytes, key: str) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the key {key} is not UTF-8 text") from None
    if not text:
        raise ValueError(f"the key {key} is empty")
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
        raise ValueError(
            f"the key {key} holds a line break or another control character; create it with --from-literal, or with "
            "printf instead of echo"
        )
    return text


def _docker_config(raw: bytes, host: str) -> Credentials:
    try:
        auths = msgspec.json.decode(raw)["auths"]
        entries = {key: value for key, value in auths.items() if isinstance(value, dict)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        raise ValueError("the key .dockerconfigjson is not JSON with an object auths") from None
    names = _DOCKER_HUB if host in _DOCKER_HUB else {host}
    for key, entry in entries.items():
        if _SERVER.sub("", key) in names:
            return _docker_entry(entry)
    raise ValueError(f"auths has no entry for {host}")


def _docker_entry(entry: Mapping[str, object]) -> Credentials:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credentials(identity_token=_text(token.encode(), "identitytoken"))
    username, password = entry.get("username"), entry.get("password")
    if isinstance(username, str) and isinstance(password, str) and username:
        return _user(username.encode(), password.encode())
    try:
        decoded = base64.b64decode(str(entry.get("auth", "")), validate=True)
    except ValueError:
        raise ValueError("auth is not base64 of user:password") from None
    user, colon, secret = decoded.partition(b":")
    if not colon:
        raise ValueError("auth is not base64 of user:password")
    return _user(user, secret)


@lru_cache(maxsize=256)
def checked_pem(raw: bytes, label: str) -> str:
    """Give the PEM blocks of that label, one after the other; raises ValueError if there is none or one is broken."""
    if len(raw) > _MAX_PEM:
        raise ValueError(f"it is larger than {_MAX_PEM // 1024} KiB")
    # Bundles carry comments between the blocks, in any encoding; the blocks themselves are ASCII.
    text = raw.decode("latin-1")
    found = [(match[1], _tidy(match[0])) for match in _PEM.finditer(text)]
    if len(found) != text.count("-----BEGIN "):
        raise ValueError("a block in it is cut off, damaged or encrypted")
    blocks = [block for name, block in found if name in _LABELS[label]]
    if not blocks:
        raise ValueError(f"it has no block BEGIN {label}")
    if label == "CERTIFICATE":
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="\n".join(blocks))
        except (ssl.SSLError, ValueError):
            raise ValueError("a certificate in it cannot be parsed") from None
    elif not all(map(_is_der, blocks)):
        raise ValueError("a key in it cannot be parsed")
    return "\n".join(blocks) + "\n"


def _tidy(block: str) -> str:
    """Without carriage returns and indentation: Go wants END at the start of a line."""
    return "\n".join(line.strip() for line in block.splitlines() if line.strip())


def _is_der(block: str) -> bool:
    """Tell whether a block holds one ASN.1 sequence as long as it says: that it is whole, not what it means."""
    try:
        raw = base64.b64decode("".join(block.split("\n")[1:-1]), validate=True)
    except ValueError:
        return False
    if len(raw) < 2 or raw[0] != 0x30:
        return False
    if raw[1] < 0x80:
        return len(raw) == 2 + raw[1]
    size = raw[1] & 0x7F
    return len(raw) == 2 + size + int.from_bytes(raw[2 : 2 + size], "big")
