"""Whose a certificate is and for how long it holds: the little of X.509 (RFC 5280) that a diagnosis needs.

Whether it verifies anything is for OpenSSL and the runtime to say; nothing here is trusted for that.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from msgspec import Struct

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----", re.ASCII)
_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17
_NAMES = (b"\x55\x04\x03", b"\x55\x04\x0b", b"\x55\x04\x0a")  # commonName, organizationalUnitName, organizationName


class Certificate(Struct, frozen=True, kw_only=True):
    """One certificate: the common name of its subject (else its unit or organisation; may be empty), and from when to
    when it holds (seconds since 1970).
    """

    name: str
    begins: float
    ends: float


def certificates(pem: str) -> tuple[Certificate, ...]:
    """Read all certificates of a PEM text; what cannot be read is left out."""
    found = []
    for block in _BLOCK.findall(pem):
        try:
            found.append(_certificate(base64.b64decode("".join(block.split()), validate=True)))
        except (ValueError, IndexError, StopIteration):
            continue
    return tuple(found)


def day(at: float) -> str:
    """Give a time (seconds since 1970) as a date, as people read it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _certificate(der: bytes) -> Certificate:
    signed = next(_items(_content(der, _SEQUENCE)))[1]
    fields = [item for item in _items(signed) if item[0] != _VERSION]
    # serialNumber, signature, issuer, validity, subject
    validity, subject = fields[3][1], fields[4][1]
    begins, ends = (_time(*item) for item in _items(validity))
    return Certificate(name=_name(subject), begins=begins, ends=ends)


def _content(der: bytes, tag: int) -> bytes:
    found, content = next(_items(der))
    if found != tag:
        raise ValueError("not a certificate")
    return content


def _items(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Give tag and content of each item (X.690: definite lengths, tags of one byte). Raises ValueError, IndexError."""
    at = 0
    while at < len(der):
        tag, size, at = der[at], der[at + 1], at + 2
        if size >= 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(der[at : at + count], "big"), at + count
        if at + size > len(der):
            raise ValueError("cut off")
        yield tag, der[at : at + size]
        at += size


def _time(tag: int, raw: bytes) -> float:
    """Read UTCTime (years 1950 to 2049) or GeneralizedTime, both in seconds and Z (RFC 5280, 4.1.2.5)."""
    text = raw.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _name(subject: bytes) -> str:
    found: dict[bytes, str] = {}
    for _, names in _items(subject):
        for _, pair in _items(names):
            (_, kind), (_, value) = list(_items(pair))[:2]
            found[kind] = value.decode("utf-8", "replace")
    return next((found[kind] for kind in _NAMES if kind in found), "")
