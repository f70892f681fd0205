"""``registry-mirror status``: what is in force, what goes on and what is wrong, on one screen."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec.structs import replace

from ..api.errors import ProblemError
from ..core.overview import Leader, Overview, Seen, overview
from ..core.select import matches
from ..core.times import seconds
from ..core.words import some
from .options import cluster_options, complete_mirror, output_option, with_options
from .screen import safe, terminal_width
from .status_view import one, whole

if TYPE_CHECKING:
    from ..controller.store import Store
    from ..kube.client import Api

EXIT_CODES = (
    "Exit codes: 0 everything is in force, 1 the work failed, 2 the command line is wrong, 3 something is not in force "
    "yet, 4 somebody has to do something. Endpoints that do not answer count in neither."
)
_CODES = {"Ready": 0, "Reconciling": 3, "Stalled": 4}
_INTERVAL = 2.0
_SHARE = 10.0  # of the time, one part in so many is spent on reading: thousands of nodes are read less often
_NODES_INTERVAL = 60.0  # versions and labels of nodes change rarely, and a Node is large
_LEASE_SLACK = 30.0  # between the clocks of this machine and of the cluster


@click.command("status", epilog=EXIT_CODES)
@click.argument("name", default="", required=False, shell_complete=complete_mirror)
@click.option(
    "-w",
    "--watch",
    is_flag=True,
    help="Look again every two seconds (less often if there is much), and show what changes.",
)
@output_option("For people, or for programs; one line or document a change with --watch.")
@with_options(*cluster_options)
def command(name: str, watch: bool, output: str, kubeconfig: str, context: str) -> None:
    """Show mirrors, nodes, rollout and endpoints of a cluster, or of the RegistryMirror NAME alone.

    Nodes are grouped by runtime, version, state and reason. It needs the right to list registrymirrors and
    noderegistryconfigs; nodes, the policy and the controller's Lease are shown as far as they may be read.

    \b
    Example: registry-mirror status docker-hub --watch
    """
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_watch(name, output, kubeconfig, context))
        return
    found = asyncio.run(_once(name, kubeconfig, context))
    click.echo(_text(found, name, output, time.time(), terminal_width()), nl=False)
    sys.exit(_CODES[found.state])


async def _once(name: str, kubeconfig: str, context: str) -> Overview:
    from .cluster import connect

    async with await connect(kubeconfig, context) as api:
        return await _Reader(api, name).look()


async def _watch(name: str, output: str, kubeconfig: str, context: str) -> None:
    """Show each change until it is interrupted; what could be read once is tried again when it cannot be."""
    from .cluster import connect

    last: Overview | None = None
    terminal = output == "text" and sys.stdout.isatty()
    while True:
        try:
            async with await connect(kubeconfig, context) as api:
                reader = _Reader(api, name)
                while True:
                    started = time.monotonic()
                    found = await reader.look()
                    took = time.monotonic() - started
                    if terminal:
                        _redraw(_text(found, name, output, time.time(), terminal_width()))
                    elif found != last:
                        click.echo(_document(found, output, last) or _text(found, name, output, time.time(), 0))
                    last = found
                    await asyncio.sleep(max(_INTERVAL, _SHARE * took))
        except ProblemError as error:
            if last is None:
                raise
            click.echo(f"error: {safe(error.message)}", err=True)
            await asyncio.sleep(_INTERVAL)


def _document(found: Overview, output: str, last: Overview | None) -> str:
    """Give one of many documents in one stream; empty for text."""
    if output == "json":
        return msgspec.json.encode(found).decode()
    return f"---\n{_yaml(found)}".rstrip("\n") if output == "yaml" else ""


def _redraw(text: str) -> None:
    """Write over the screen, line by line, so that it does not flicker."""
    lines = text.splitlines()[: max(shutil.get_terminal_size().lines - 1, 1)]
    click.echo("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J", nl=False)


# ---- reading -----------------------------------------------------------------------------------------------------


class _Reader:
    """Reads the cluster, again and again; Nodes only now and then."""

    def __init__(self, api: Api, name: str) -> None:
        self._api = api
        self._name = name
        self._nodes: Store | None = None
        self._notes: list[str] = []
        self._due = 0.0

    async def look(self) -> Overview:
        """Give what there is. Raises ProblemError."""
        from .cluster import read

        all_of_it = time.monotonic() >= self._due
        store, notes = await read(self._api, nodes=all_of_it)
        if all_of_it:
            self._nodes, self._notes = store, notes
            self._due = time.monotonic() + _NODES_INTERVAL
        nodes = self._nodes if self._nodes is not None else store
        leader = await self._leader(notes)
        return summary(store, nodes, self._name, leader, self._notes)

    async def _leader(self, notes: list[str]) -> Leader | None:
        from ..kube.errors import ApiError
        from ..kube.resources import CONTROLLER, LEASES, SYSTEM_NAMESPACE

        try:
            body = await self._api.get(LEASES, CONTROLLER, SYSTEM_NAMESPACE)
        except ApiError as error:
            if error.status != 403:
                raise
            notes.append("who leads the controllers cannot be read")
            return None
        return leader_of(body, time.time())


def leader_of(lease: Mapping[str, Any] | None, now: float) -> Leader:
    """Read the Lease (None: there is none), at that time (seconds since 1970)."""
    spec = (lease or {}).get("spec") or {}
    holder, renewed = str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or "")
    lasts = spec.get("leaseDurationSeconds")
    until = seconds(renewed) + (lasts if isinstance(lasts, int) else 0) + _LEASE_SLACK
    alive = bool(holder) and now < until
    # As long as it goes on, the time is nothing to tell: each renewal would be a change to whoever watches.
    return Leader(holder=holder, renewed="" if alive else renewed, alive=alive)


def summary(store: Store, known: Store, name: str, leader: Leader | None, notes: list[str]) -> Overview:
    """Sum up all objects, or those of the mirror of that name.

    Takes the picture of the cluster, another one for its Nodes, the name (empty for all), who leads, and what could not
    be read. Raises ProblemError if there is no such mirror.
    """
    mirrors, nodes = store.mirrors, known.nodes
    if name and name not in mirrors:
        there = sorted(mirrors)
        text = f"there are {some(there, most=10)}" if there else "there is none at all"
        raise ProblemError("", f"no RegistryMirror {name}: {text}")
    found = [
        Seen(
            name=item.metadata.name,
            registry=item.mirror.spec.registry if item.mirror is not None else "",
            generation=item.metadata.generation,
            endpoints=tuple(endpoint.url for endpoint in item.mirror.spec.endpoints) if item.mirror is not None else (),
            status=item.status,
        )
        for key, item in mirrors.items()
        if name in ("", key)
    ]
    chosen: set[str] | None = set(nodes) if nodes else None
    if name and chosen is not None:
        mirror = mirrors[name].mirror
        selector = mirror.spec.node_selector if mirror is not None else None
        chosen = {key for key in chosen if matches(selector, nodes[key].labels)}
    configs = []
    for config in store.configs.values():
        node, facts = nodes.get(config.metadata.name), config.status.runtime
        if node is not None and facts is not None:
            config = replace(config, status=replace(config.status, runtime=node.complete(facts)))
        configs.append(config)
    rules = store.policy.status.conditions if store.policy is not None else ()
    return overview(found, configs, chosen, leader, rules, notes)


def _text(found: Overview, name: str, output: str, now: float, width: int) -> str:
    if output == "json":
        return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"
    if output == "yaml":
        return _yaml(found)
    lines = one(found, now, width) if name else whole(found, now, width)
    return "\n".join(lines) + "\n"


def _yaml(found: Overview) -> str:
    import yaml

    text: str = yaml.safe_dump(msgspec.to_builtins(found), sort_keys=False, allow_unicode=True)
    return text
