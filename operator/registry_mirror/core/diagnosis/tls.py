"""Certificates and keys that the runtime's files name: there, readable, valid, and belonging together.

containerd fails a whole pull, the fallback included, on a CA or client file that it cannot read (runtimes.md, trap 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from ..certificates import Certificate, certificates, day
from ..finding import Finding
from ..material import checked_pem
from .evidence import File, Node
from .text import finding

SOON = 14 * 86400.0


class Named(Struct, frozen=True, kw_only=True):
    """A file that a setting names: a CA, or a certificate with its key; ``where`` is the file and line that does."""

    where: str
    cas: tuple[str, ...] = ()
    clients: tuple[tuple[str, str], ...] = ()


def check(node: Node, named: Iterable[Named]) -> Iterator[Finding]:
    """Say what is wrong with the files, each once, for the first setting that names it."""
    seen: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    for item in named:
        for path in item.cas:
            if path not in seen:
                yield from _file(node, path, item.where, "CERTIFICATE")
            seen.add(path)
        for certificate, key in item.clients:
            if certificate not in seen:
                yield from _file(node, certificate, item.where, "CERTIFICATE")
            if key not in seen or key == certificate:
                yield from _key(node, key, item.where)
            seen |= {certificate, key}
            if (certificate, key) in node.mismatched and (certificate, key) not in pairs:
                evidence = f"it is not the key of {certificate}, which {item.where} names with it"
                remedy = "write the key that was made with the certificate: every pull fails until then"
                yield finding("error", "ClientKeyMismatch", key, evidence, remedy)
            pairs.add((certificate, key))


def _file(node: Node, path: str, where: str, label: str) -> Iterator[Finding]:
    """Say whether a file is there and can be parsed, and when its certificates are valid."""
    file = node.tls.get(path, File(path=path))
    if file.unseen:
        return
    if file.text is None:
        what = f"cannot be read ({file.problem})" if file.problem else "is not there"
        remedy = f"write the file, or take it out of {where.partition(':')[0]}: every pull fails until then"
        yield finding("error", "CertificateFileMissing", path, f"{where} names it, and it {what}", remedy)
        return
    try:
        checked_pem(file.text.encode(), label)
    except ValueError as error:
        remedy = "write PEM as openssl does: every pull fails until then"
        if label == "CERTIFICATE" and "has no block" in str(error):
            remedy = "write the certificate in PEM (for DER: openssl x509 -inform der): it is not trusted until then"
        yield finding("error", "CertificateFileInvalid", path, f"{where} names it: {error}", remedy)
        return
    if label == "CERTIFICATE":
        yield from _times(node.now, path, where, certificates(file.text))


def _times(now: float, path: str, where: str, found: tuple[Certificate, ...]) -> Iterator[Finding]:
    """A bundle may hold old ones beside those that count: it is wrong when none is valid."""
    if not found or any(item.begins <= now and item.ends > now + SOON for item in found):
        return
    valid = [item for item in found if item.begins <= now < item.ends]
    if valid:
        evidence = f"{where} names it: it is valid until {day(max(item.ends for item in valid))}"
        yield finding("warning", "CertificateFileExpiring", path, evidence, "renew it before that day")
    elif all(item.begins > now for item in found):
        evidence = f"{where} names it: it is valid from {day(min(item.begins for item in found))} on"
        remedy = "correct the node's clock if that is wrong, or use a certificate that is valid now"
        yield finding("error", "CertificateFileNotYetValid", path, evidence, remedy)
    else:
        evidence = f"{where} names it: it was valid until {day(max(item.ends for item in found))}"
        yield finding("error", "CertificateFileExpired", path, evidence, "renew it, and write it to that path")


def _key(node: Node, path: str, where: str) -> Iterator[Finding]:
    yield from _file(node, path, where, "PRIVATE KEY")
    file = node.tls.get(path)
    if file is not None and file.text is not None and file.exposed:
        evidence = "it is a private key, and everybody on the node can read it"
        yield finding("warning", "SecretReadable", path, evidence, f"chmod 600 {path}")
