"""Options that say how a node of K3s or RKE2 was started, shared by the commands that have no node to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from msgspec.structs import replace

from ..api import grammar
from ..api.models import EmbeddedRegistry, RuntimeFacts


def _address(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    problem = grammar.host_port_problem(value) if value else None
    if problem or (value and ":" not in value.rpartition("]")[2]):
        raise click.BadParameter(f"{value!r}: {problem or 'the port is missing'}")
    return value


_STARTED = (
    click.option(
        "--disable-default-registry-endpoint",
        "disable_default",
        is_flag=True,
        help="The node is started with this option of K3s and RKE2.",
    ),
    click.option(
        "--embedded-registry",
        "embedded",
        default="",
        metavar="HOST:PORT",
        callback=_address,
        help="The embedded registry of K3s (127.0.0.1:6443) or RKE2 (127.0.0.1:9345), if it is on.",
    ),
)
_FILES = tuple(
    click.option(f"--embedded-{name}", default=default, show_default=True, metavar="FILE", help=text)
    for name, default, text in (
        ("ca", "server-ca", "The CA of the embedded registry, on the node."),
        ("cert", "client-cert", "The certificate that the node shows it."),
        ("key", "client-key", "The key of that certificate."),
    )
)


def started_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --disable-default-registry-endpoint and --embedded-registry."""
    for option in reversed(_STARTED):
        function = option(function)
    return function


def file_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the files of the embedded registry."""
    for option in reversed(_FILES):
        function = option(function)
    return function


def started_facts(
    facts: RuntimeFacts, disable_default: bool, embedded: str, files: tuple[str, str, str]
) -> RuntimeFacts:
    """Give the facts with what the options say; raises UsageError for a runtime that has no such options."""
    if not disable_default and not embedded:
        return facts
    if facts.name not in ("k3s", "rke2"):
        raise click.UsageError("--disable-default-registry-endpoint and --embedded-registry are for k3s and rke2")
    ca, certificate, key = files
    registry = EmbeddedRegistry(address=embedded, ca_file=ca, cert_file=certificate, key_file=key)
    return replace(facts, disable_default_endpoint=disable_default, embedded_registry=registry if embedded else None)
