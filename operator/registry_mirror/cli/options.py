"""Options that commands share; what uses them is imported only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

cluster_options = (
    click.option(
        "--kubeconfig",
        type=click.Path(dir_okay=False),
        default="",
        metavar="FILE",
        help="Where the cluster is; without it, $KUBECONFIG, ~/.kube/config, or the Pod that this runs in.",
    ),
    click.option("--context", default="", metavar="NAME", help="The context of the kubeconfig."),
)


def complete_mirror(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Complete the name of a RegistryMirror: the ``shell_complete`` of an argument or option."""
    from .completion import named

    return named("registrymirrors", context, incomplete)


def complete_node(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Complete the name of a node: the ``shell_complete`` of an argument or option."""
    from .completion import named

    return named("noderegistryconfigs", context, incomplete)


def output_option(text: str = "For people, or for programs.") -> Callable[[Any], Any]:
    """Give the option that chooses between text, JSON and YAML. Takes what its help says."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json", "yaml"]),
        default="text",
        show_default=True,
        help=text,
    )


def with_options(*options: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add several options to a command, in that order."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add
