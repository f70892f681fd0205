"""``registry-mirror probe``: one image followed from host to host, as the runtime of a node would ask for it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..api.errors import ProblemError
from ..api.models import RuntimeName
from .local import seconds, show
from .options import cluster_options, output_option, with_options
from .screen import paragraph, safe, table, terminal_width
from .which_node import node_options, this_node

if TYPE_CHECKING:
    from ..core.following import Asked, Followed, Walk
    from .remote import Answer

EXIT_CODES = (
    "Exit codes: 0 a mirror or the registry serves the image, 1 the work failed, 2 the command line is wrong, 4 nobody "
    "serves it: somebody has to do something."
)
_NOBODY = 4
_TIMEOUT = "60s"
_GRACE = 30.0  # for the command to start in the Pod, and to end
_COLOURS = {"200 Served": "green"}


@click.command("probe", epilog=EXIT_CODES)
@click.argument("image")
@with_options(*node_options)
@click.option("--all", "everyone", is_flag=True, help="Ask the hosts behind the one that serves it too.")
@click.option("--pull", is_flag=True, help="Have the runtime really pull the image.")
@click.option(
    "--timeout",
    default=_TIMEOUT,
    show_default=True,
    metavar="DURATION",
    callback=seconds,
    help="How long it may all take; a host has 10s.",
)
@output_option()
@with_options(*cluster_options)
def command(
    image: str,
    local: bool,
    node: str,
    root: Path | None,
    runtime: str | None,
    everyone: bool,
    pull: bool,
    timeout: float,
    output: str,
    kubeconfig: str,
    context: str,
) -> None:
    """Follow IMAGE the way the container runtime of a node would: which hosts, in which order, with each answer.

    It reads the files that are on the node now, and asks with the credentials in them; not with those of Pods. Nothing
    is changed, but that the image is there after --pull.

    \b
    Example: registry-mirror probe docker.io/library/busybox:1.37 --node worker-1
    Example: registry-mirror probe registry.example.com/team/app:2 --local --all
    """
    here = this_node(local, root, runtime, node, kubeconfig, context)
    if not (here or node):
        raise click.UsageError(_which_node())
    if here is not None:
        found = _local(image, *here, everyone, pull, timeout)
    else:
        words = [*(["--all"] if everyone else []), *(["--pull"] if pull else [])]
        found = asyncio.run(_remote(image, node, words, timeout, kubeconfig, context))
    show(found, list(lines(found, terminal_width())), output)
    sys.exit(code(found))


def code(found: Followed) -> int:
    """Give the exit code: a pull that was made counts more than what hosts answer."""
    served = found.pull.done if found.pull is not None else bool(found.walk.served_by)
    return 0 if served else _NOBODY


def _which_node() -> str:
    from ..agent.live import SOCKETS

    if any(os.path.exists(path) for path in SOCKETS.values()):
        return "say --local for the runtime of this machine, or --node NODE for a node of the cluster"
    return "say which node: --node NODE (kubectl get nodes names them); on the node itself, --local"


def _local(image: str, root: Path, runtime: RuntimeName | None, everyone: bool, pull: bool, timeout: float) -> Followed:
    from ..agent.follow import Follower
    from ..core.route import IMAGE_FORM, image_of

    wanted = image_of(image)
    if wanted is None:
        raise click.BadParameter(f"{image!r}: {IMAGE_FORM}", param_hint="IMAGE")
    follower = Follower(root, runtime, wanted, timeout)
    return follower.follow(everyone=everyone, pull=pull)


async def _remote(image: str, node: str, words: list[str], timeout: float, kubeconfig: str, context: str) -> Followed:
    """Have it done on a node. Raises ProblemError."""
    from ..core.route import IMAGE_FORM, image_of
    from .cluster import connect
    from .remote import on_node

    if image_of(image) is None:
        raise click.BadParameter(f"{image!r}: {IMAGE_FORM}", param_hint="IMAGE")
    argv = ["probe", image, "--local", "-o", "json", "--timeout", f"{round(timeout * 1000)}ms", *words]
    async with await connect(kubeconfig, context) as api:
        answer = await on_node(api, node, argv, timeout + _GRACE)
    return told_by(answer, node)


def told_by(answer: Answer, node: str) -> Followed:
    """Read what the command said on a node. Raises ProblemError."""
    import msgspec
    from msgspec.structs import replace

    from ..core.following import Followed

    if answer.code not in (0, _NOBODY):
        told = "\n".join(line.removeprefix("error: ") for line in answer.stderr.splitlines() if line.strip())
        raise ProblemError("", f"on {node}: {told or f'the command ended with exit code {answer.code}'}")
    try:
        return replace(msgspec.json.decode(answer.stdout, type=Followed), node=node)
    except msgspec.MsgspecError:
        raise ProblemError("", f"on {node}: what the command says there is not understood: update the agent") from None


# ---- text ----------------------------------------------------------------------------------------------------------


def lines(found: Followed, width: int = 0) -> Iterator[str]:
    """Give what a person is shown; ``width`` is that of the terminal, 0 for lines of any length."""
    where = f" on {found.node}" if found.node else ""
    yield safe(f"{found.image}{where} ({found.runtime})")
    for file in found.files:
        yield from paragraph(f"read {file}", width)
    for warning in found.warnings:
        yield from paragraph(f"warning: {warning}", width)
    rows = [row for row in found.walk.asked if _shown(row, found.walk)]
    if rows:
        yield ""
        header = ("ORDER", "ASKED FOR", "FROM", "ANSWER", "LATENCY", "DIGEST")
        yield from table(header, (_row(row) for row in rows), _COLOURS)
        for row in rows:
            if row.answer is not None and row.answer.message:
                yield from paragraph(f"{row.order}: {row.answer.message}", width)
    yield ""
    yield from _end(found, width)


def _shown(row: Asked, walk: Walk) -> bool:
    """Leave out where a host that has not the tag has not its digest either."""
    if row.purpose == "resolve" or row.serves:
        return True
    return all(item.answer is None for item in walk.asked if item.order == row.order and item.purpose == "resolve")


def _row(row: Asked) -> tuple[str, ...]:
    from ..core.following import short

    answer = row.answer
    if answer is None:
        told = "never asked" if row.state == "Skipped" else "not asked"
        return (str(row.order), _url(row), _origin(row.origin), f"{told}: {row.note}" if row.note else told, "", "")
    told = f"{answer.status} {answer.reason}" if answer.status else answer.reason
    if row.purpose == "fetch":
        told += " (by digest)"
    elif row.state == "Later":
        told += " (by --all)"
    return (str(row.order), _url(row), _origin(row.origin), told, _time(answer.latency), short(answer.digest))


def _url(row: Asked) -> str:
    return row.url.partition("/manifests/")[0]


def _origin(origin: str) -> str:
    """Give the place in a file; its path is told above."""
    file, colon, place = origin.partition(": ")
    if not colon or place.startswith("the registry itself"):
        return "the registry itself"
    return f"{file.rpartition('/')[2]} {'[host]' if place.startswith('[host') else place}"


def _time(latency: float) -> str:
    if not latency:
        return ""
    return f"{max(1, round(latency * 1000))}ms" if latency < 1 else f"{latency:.1f}s"


def _end(found: Followed, width: int) -> Iterator[str]:
    walk = found.walk
    if walk.served_by:
        resolved = f"resolved by {walk.resolved_by}, " if walk.resolved_by != walk.served_by else ""
        yield click.style(safe(f"{resolved}served by {walk.served_by}"), bold=True)
    else:
        yield click.style("served by nobody", bold=True)
        yield from paragraph(found.failure, width)
    if found.pull is None:
        return
    pull = found.pull
    if not pull.done:
        yield f"not pulled, after {pull.seconds:.1f}s"
    else:
        yield safe(f"pulled in {pull.seconds:.1f}s{f' from {pull.served_by}' if pull.served_by else ''}")
    yield from paragraph(pull.message, width)
