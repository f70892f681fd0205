"""``registry-mirror doctor``: what is wrong on a node or in a cluster, what shows it, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ..api.errors import ProblemError
from ..api.models import RuntimeName
from ..core.finding import Examined, Finding
from ..core.words import counted, some
from .local import show
from .options import cluster_options, output_option, with_options
from .screen import paragraph, safe, terminal_width
from .which_node import node_options, this_node

EXIT_CODES = (
    "Exit codes: 0 nothing is wrong, 1 the work failed, 2 the command line is wrong, 3 there are warnings only, 4 "
    "there are errors: somebody has to do something."
)
_CODES = {"warning": 3, "error": 4}
_COLOURS = {"warning": "yellow", "error": "red"}
_NAMES = 3  # of nodes, in the first line


@click.command("doctor", epilog=EXIT_CODES)
@with_options(*node_options)
@output_option()
@with_options(*cluster_options)
def command(
    local: bool, node: str, root: Path | None, runtime: str | None, output: str, kubeconfig: str, context: str
) -> None:
    """Say what is wrong, what shows it, and what to do: of this node, of a node of a cluster, or of a whole cluster.

    It only looks. Of this node, it reads what the container runtime reads, and asks the runtime and the endpoints of
    its mirrors as the runtime would.

    \b
    Example: registry-mirror doctor --local
    Example: registry-mirror doctor --node worker-1
    """
    here = this_node(local, root, runtime, node, kubeconfig, context)
    if here is not None:
        found = _local(*here)
    else:
        from .doctor_cluster import cluster

        found = cluster(node, kubeconfig, context)
    show(found, list(lines(found, terminal_width())), output)
    sys.exit(max((_CODES[item.severity] for item in found.findings), default=0))


def _local(root: Path, runtime: RuntimeName | None) -> Examined:
    from ..agent.examine import Examiner
    from ..core.diagnosis.whole import examined

    if root == Path("/") and os.geteuid() != 0:
        raise ProblemError("", "what the runtime reads, and its socket, are root's alone: run it as root (sudo)")
    return examined(Examiner(root, runtime))


def lines(found: Examined, width: int = 0) -> Iterator[str]:
    """Give what a person is shown: what was looked at, what could not be, and each finding with its remedy.

    ``width`` is that of the terminal; 0 for lines of any length.
    """
    yield safe(_looked_at(found))
    for note in found.notes:
        yield from paragraph(f"note: {note}", width)
    if not found.findings:
        yield "nothing is wrong"
        return
    errors = sum(item.severity == "error" for item in found.findings)
    kinds = [counted(errors, "error"), counted(len(found.findings) - errors, "warning")]
    yield ", ".join(kind for kind in kinds if not kind.startswith("0 "))
    for item in found.findings:
        yield ""
        yield _head(item)
        yield from paragraph(item.evidence, width)
        yield from paragraph(f"-> {item.remedy}", width)


def _looked_at(found: Examined) -> str:
    who = f"{some(found.nodes, most=_NAMES)}: " if found.nodes else ""
    asked = f"{counted(len(found.endpoints), 'endpoint')} asked" if found.endpoints else "no endpoint asked"
    read = f"{counted(len(found.files), 'file')} read, " if found.files else ""
    return f"{who}{', '.join(found.runtimes) or 'no runtime found'}; {read}{asked}"


def _head(item: Finding) -> str:
    kind = click.style(item.severity, fg=_COLOURS[item.severity], bold=True)
    where = f"{item.node}: {item.subject}" if item.node else item.subject
    return f"{kind} {safe(item.reason)} {safe(where)}"
