"""What ``registry-mirror doctor`` finds: one thing that is wrong, with what shows it, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Severity = Literal["error", "warning"]
_ORDER: dict[str, int] = {"error": 0, "warning": 1}


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong.

    ``reason`` is a stable CamelCase name; an ``error`` is something that does not work now, a ``warning`` something
    that will not at the next start, renewal or change; ``subject`` is the file, endpoint or object that it is in;
    ``evidence`` is what was seen there, in one line, without secrets; ``remedy`` is what to do, as an instruction;
    ``node`` is the node's name where there are several.
    """

    reason: str
    severity: Severity
    subject: str
    evidence: str
    remedy: str
    node: str = ""


class Examined(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was looked at, and what is wrong with it.

    ``nodes`` are the names of the nodes (without a cluster: the host name, where it is known); ``runtimes`` what runs
    there, as it is shown (``K3s v1.33.1+k3s1 (containerd 2.0.5)``), each once; ``files`` were read, ``endpoints`` asked
    (their URLs); ``notes`` say what could not be looked at, and why; ``findings`` are ordered.
    """

    nodes: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Give each finding once: errors first, then by reason, subject and node."""
    return tuple(
        sorted(
            set(findings),
            key=lambda item: (_ORDER[item.severity], item.reason, item.subject, item.node, item.evidence),
        )
    )
