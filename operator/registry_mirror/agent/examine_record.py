"""The agent's record of a node, for ``doctor``: what it says and what is on the disk, compared and left alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

from ..api.errors import InvalidError, ProblemError
from ..core.bundle import Bundle, File as Wanted
from ..core.diagnosis.evidence import Node, Record as Record
from ..core.layout import MARK, layout
from . import edits, state as memory
from .absence_script import FOLDER, SCRIPT, VOLUME
from .apply import runtime_started, waiting_for_restart
from .examine_files import Files
from .host import Host, HostError
from .provisioned import heed
from .restart import failed, in_flight
from .state import State

_OLD = 60.0  # what an agent has left for so many seconds, it has not been writing


def load(host: Host) -> tuple[State, tuple[str, str] | None]:
    """Give the record, empty if it cannot be read: then with the reason and the message."""
    try:
        return memory.load(host), None
    except HostError as error:
        return State(), (error.reason, error.message)


def read(host: Host, files: Files, state: State, node: Node, problem: tuple[str, str] | None) -> Record:
    """Give what is to be told of the record of a node that was looked at."""
    state = runtime_started(state, node.runs.started or None)
    at_work = in_flight(state)
    # Between two files of one change nothing is wrong yet; a change that nobody carries on is told by its own name.
    settled = not at_work and not state.writing
    folders = [memory.DIRECTORY, *(certs.path for certs in node.certs)]
    return Record(
        ours=tuple(state.originals),
        waiting=waiting_for_restart(state) if state.revision and not at_work else (),
        failed=state.attempt.message if state.attempt is not None and failed(state.attempt) else "",
        gone=tuple(_gone(host, state)) if settled else (),
        foreign=tuple(_foreign(host, state, node)) if settled else (),
        unfinished=bool(state.writing) and not at_work,
        left=tuple(files.temporary(folders, node.now - _OLD)),
        provisioner=_provisioner(host, node),
        agent_gone=_agent_gone(files),
        problem=problem,
    )


def _gone(host: Host, state: State) -> Iterator[str]:
    for path in state.originals:
        with contextlib.suppress(HostError):
            if host.read(path) is None:
                yield path


def _foreign(host: Host, state: State, node: Node) -> Iterator[str]:
    """Give the files of ours that do not begin as ours do, and those of the node that have lost our settings."""
    assert node.facts is not None
    for path, edit in state.edits.items():
        with contextlib.suppress(ProblemError):
            if host.read(path) is not None and any(edits.changes(host, (edit,), {})):
                yield path
    for path in state.originals:
        marked = path in layout(node.facts).files or (path.endswith("/hosts.toml") and node.name not in ("k3s", "rke2"))
        if path in state.edits or not marked:
            continue
        with contextlib.suppress(HostError):
            found = host.read(path)
            if found is not None and not found.content.startswith(MARK.encode()):
                yield path


def _provisioner(host: Host, node: Node) -> str:
    """Say which other tool writes the runtime's files, with the file that says so."""
    if node.facts is None or not node.facts.registries_file:
        return ""
    file = Wanted(path=node.facts.registries_file, content="", mode=0o600)
    asked = Bundle(revision="doctor", runtime=node.facts.name, files=(file,))
    try:
        heed(host, State(), asked, node.facts, look=True)
    except InvalidError as error:
        return error.errors[0].found if error.reason == "ProvisionedElsewhere" else ""
    except ProblemError:
        return ""
    return ""


def _agent_gone(files: Files) -> str:
    """Say since when no agent was seen, where the host knows how to put itself back without one.

    The host has noted where the kubelet has the directories of Pods (absence_script, agent); where that cannot be seen,
    as from a Pod, nothing is said.
    """
    pods = (files.read(f"{FOLDER}/kubelet").text or "").strip()
    if files.read(SCRIPT).text is None or not pods.startswith("/") or not files.seen(pods):
        return ""
    names = files.names(pods)
    if not names or any(VOLUME in files.names(f"{pods}/{name}/volumes/kubernetes.io~empty-dir") for name in names):
        return ""
    words = (files.read(f"{FOLDER}/seen").text or "").split()
    if not words or not words[0].isdecimal():
        return "none is there now"
    return f"the last one was seen at {datetime.fromtimestamp(int(words[0]), UTC):%Y-%m-%d %H:%M} UTC"
