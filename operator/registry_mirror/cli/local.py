"""What `apply --local` and `restore --local` share: this node, opened for one command, and how results are shown."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import click
import msgspec

from ..api import grammar
from ..api.models import RuntimeName
from .options import output_option, with_options

if TYPE_CHECKING:
    from ..agent.local import LocalNode

_DEADLINE = "120s"


def seconds(ctx: click.Context, parameter: click.Parameter, value: str) -> float:
    """Take a duration as an option's value. Raises BadParameter."""
    problem = grammar.duration_problem(value)
    if problem:
        raise click.BadParameter(f"{value!r}: {problem}")
    return grammar.duration_seconds(value)


_OPTIONS = (
    click.option(
        "--local",
        is_flag=True,
        required=True,
        help="On this node, as root. The only way there is: with a cluster, kubectl applies the objects.",
    ),
    click.option(
        "--root",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        default=Path("/"),
        show_default=True,
        metavar="DIR",
        help="Where the node's file system is mounted. Its runtime is asked, and restarted, by the sockets in it.",
    ),
    click.option(
        "--runtime",
        type=click.Choice(["auto", *get_args(RuntimeName)]),
        default="auto",
        show_default=True,
        help="The node's container runtime; auto finds it, and does nothing if there are several.",
    ),
    click.option(
        "--restart",
        type=click.Choice(["auto", "never"]),
        default="auto",
        show_default=True,
        help="Whether to restart the runtime where a change takes that. If it does not return, the change is undone.",
    ),
    click.option(
        "--deadline",
        default=_DEADLINE,
        show_default=True,
        metavar="DURATION",
        callback=seconds,
        help="How long the runtime has to return after a restart.",
    ),
    click.option("--dry-run", is_flag=True, help="Print what would change, and whether it takes a restart."),
    output_option(),
)


local_options = with_options(*_OPTIONS)


@contextlib.contextmanager
def open_node(root: Path, runtime: str, *, dry_run: bool = False) -> Iterator[LocalNode]:
    """Give this node, with the lock that keeps an agent away meanwhile; a dry run needs none. Raises ProblemError."""
    from ..agent.build import local_node
    from ..agent.host import Host
    from ..agent.state import LOCK

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    host = Host(root)
    node = local_node(host, root, None if runtime == "auto" else cast(RuntimeName, runtime))
    if dry_run:
        yield node
        return
    with host.alone(LOCK, lambda: click.echo("an agent works on this node: waiting for it to end", err=True)):
        yield node


def progress() -> Callable[[str], None]:
    """Give what tells a person what is waited for, each thing once."""
    last = ""

    def report(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            click.echo(text, err=True)

    return report


def show(found: object, lines: list[str], output: str) -> None:
    """Print a result: as lines for a person (``text``), or as an object for programs (``json``, ``yaml``)."""
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(msgspec.to_builtins(found), sort_keys=False, allow_unicode=True), nl=False)
    else:
        for line in lines:
            click.echo(line)
