"""``registry-mirror diff``: what an apply would change on which nodes, before anybody applies it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ..api.errors import InvalidError, ProblemError
from ..api.models import API_VERSION, RegistryMirror
from ..core.forecast import Change, Forecast, forecast
from ..core.resolve import ResolvedMirror, Source, SourceKind, references, resolve
from ..core.words import counted, some
from ..kube.clock import now
from ..kube.resources import CONFIG_MAPS, MIRRORS, SECRETS, SYSTEM_NAMESPACE, Resource
from .changes import MEANING
from .documents import Loaded, files_option, load
from .local import show
from .options import cluster_options, output_option, with_options
from .screen import safe
from .unread import stand_in

if TYPE_CHECKING:
    from ..controller.store import Store
    from ..kube.client import Api

EXIT_CODES = (
    "Exit codes: 0 nothing changes, 1 the input is wrong or the work failed, 2 the command line is wrong, 3 something "
    "changes, 4 something changes that takes a restart."
)
_RESOURCES: dict[SourceKind, Resource] = {"Secret": SECRETS, "ConfigMap": CONFIG_MAPS}
_AT_ONCE = 10
_NEWEST = str(2**62)  # a resourceVersion, so that what is given replaces what was read


@click.command("diff", epilog=EXIT_CODES)
@files_option
@click.option(
    "-n",
    "--namespace",
    default=SYSTEM_NAMESPACE,
    show_default=True,
    help="The namespace of the Secrets and ConfigMaps: that of the operator.",
)
@output_option()
@with_options(*cluster_options)
def command(files: tuple[str, ...], namespace: str, output: str, kubeconfig: str, context: str) -> None:
    """Show what `kubectl apply` of these documents would change on which nodes, and whether that takes a restart.

    Nothing is written. Nodes that change alike are shown once, with the files before and after, without what is secret
    in them. It needs the right to list registrymirrors, noderegistryconfigs and nodes; Secrets and ConfigMaps that may
    not be read count as unchanged.

    \b
    Example: registry-mirror diff -f mirrors.yaml
    """
    found = asyncio.run(_look(load(files), namespace, kubeconfig, context))
    show(found, list(lines(found)), output)
    for note in found.notes:
        click.echo(f"note: {safe(note)}", err=True)
    sys.exit((4 if found.restarts else 3) if found.changes else 0)


async def _look(loaded: Loaded, namespace: str, kubeconfig: str, context: str) -> Forecast:
    from .cluster import connect, read

    async with await connect(kubeconfig, context) as api:
        store, notes = await read(api)
        if not store.nodes and notes:
            raise ProblemError("", f"{notes[0]}\nwhich objects are for which node goes by the labels of the nodes")
        notes += await _sources(api, store, loaded, namespace)
    return compared(store, loaded, notes)


async def _sources(api: Api, store: Store, loaded: Loaded, namespace: str) -> list[str]:
    """Read what the mirrors of the cluster and of the documents refer to; gives what could not be read."""
    from ..kube.errors import ApiError

    mirrors = [info.mirror for info in store.mirrors.values() if info.mirror is not None]
    mirrors += loaded.mirrors.values()
    wanted = sorted({item for mirror in mirrors for item in references(mirror)})
    slots = asyncio.Semaphore(_AT_ONCE)
    notes: list[str] = []

    async def one(kind: SourceKind, name: str) -> None:
        try:
            async with slots:
                body = await api.get(_RESOURCES[kind], name, namespace)
        except ApiError as error:
            if error.status != 403:
                raise
            given = (kind, name) in loaded.sources
            told = "what is given for it counts as a change" if given else "it counts as unchanged"
            notes.append(f"{kind} {namespace}/{name} may not be read: {told}")
            body = _body(stand_in(kind, name, mirrors))
        if body is not None:
            store.put(_RESOURCES[kind], body)

    await asyncio.gather(*(one(kind, name) for kind, name in wanted))
    return sorted(notes)


def compared(store: Store, loaded: Loaded, notes: list[str]) -> Forecast:
    """Work out what the documents change.

    Takes what the cluster has, with all that its mirrors and those of the documents refer to; it has the documents in
    it afterwards. What becomes of an object that could not be in force goes into the notes.
    """
    from ..controller.plans import Plans
    from ..core.bundle import Bundle

    key = secrets.token_bytes(32)
    plans = Plans(store, key)
    before = plans.views()
    broken, good = plans.errors, tuple(_good(store))
    for name, mirror in loaded.mirrors.items():
        store.put(MIRRORS, _applied(store, name, mirror))
    for item in loaded.sources.values():
        store.put(_RESOURCES[item.kind], _body(item))
    plans = Plans(store, key)
    # As the controller does: an object that is broken from now on stays in force as it was.
    plans.learn(Bundle(revision="", runtime="containerd", files=(), sources=good))
    after = plans.views()
    notes = list(notes)
    for name in loaded.mirrors:
        if name in plans.errors:
            error = plans.errors[name]
            notes.append(f"RegistryMirror {name} would not be in force ({error.reason}): {error.detail}")
        elif name in broken:
            notes.append(
                f"RegistryMirror {name} is not in order now ({broken[name].reason}), so what nodes have of it is not "
                "known, and it is compared with nothing"
            )
    found = forecast(before, after, loaded.mirrors, notes)
    if found.restarts and plans.policy().rollout.restart == "Never":
        yours = "RegistryMirrorPolicy default has rollout.restart: Never, so the restarts are yours"
        found = replace(found, notes=(*found.notes, yours))
    return found


def _good(store: Store) -> Iterator[ResolvedMirror]:
    sources = store.sources()
    for info in store.mirrors.values():
        if info.mirror is not None:
            with contextlib.suppress(InvalidError):
                yield resolve(info.mirror, sources)


def _applied(store: Store, name: str, mirror: RegistryMirror) -> dict[str, Any]:
    """Give the object as it would be in the cluster: as old as the present one, if there is one."""
    known = store.mirrors.get(name)
    old = known.metadata if known is not None else None
    metadata = {
        "name": name,
        "uid": old.uid if old is not None else f"new-{name}",
        "generation": old.generation + 1 if old is not None else 1,
        "creationTimestamp": old.creation_timestamp if old is not None else now(),
        "resourceVersion": _NEWEST,
    }
    spec = msgspec.to_builtins(mirror.spec)
    return {"apiVersion": API_VERSION, "kind": "RegistryMirror", "metadata": metadata, "spec": spec}


def _body(item: Source) -> dict[str, Any]:
    """Give a Secret or ConfigMap as the API server would."""
    data = {key: base64.b64encode(value).decode() for key, value in item.data.items()}
    section = "data" if item.kind == "Secret" else "binaryData"
    return {"kind": item.kind, "metadata": {"name": item.name, "resourceVersion": _NEWEST}, section: data}


# ---- showing -----------------------------------------------------------------------------------------------------


def lines(found: Forecast) -> Iterator[str]:
    """Give what a person reads."""
    for change in found.changes:
        yield from _change(change)
        yield ""
    if found.unknown:
        names = some(found.unknown)
        yield f"not known on {counted(len(found.unknown))}, whose agents have not reported yet: {names}"
    if found.same or not found.changes:
        yield f"nothing changes on {counted(found.same)}"


def _change(change: Change) -> Iterator[str]:
    names = some(change.nodes)
    yield f"{counted(len(change.nodes))} with {change.runtime} ({names}): {_verdict(change)}"
    for left in change.left:
        yield f"  RegistryMirror {left.mirror} would not be in force ({left.reason}): {safe(left.message)}"
    for item in change.differences:
        yield f"  {item.change:<8} {safe(item.path)}  ({MEANING[item.effect]})"
    yield from map(_line, change.diff)


def _line(line: str) -> str:
    """A line of a diff, indented, in the usual colours, and without what a terminal would act on."""
    plain = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
    return f"  {click.style(plain, fg=colour) if colour else plain}"


def _verdict(change: Change) -> str:
    if change.waiting:
        return f"a restart of the runtime is needed for: {', '.join(change.waiting)}"
    return "no restart is needed" if change.differences else "no file changes"
