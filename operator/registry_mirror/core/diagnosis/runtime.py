"""The runtime itself and the record of the agent: what runs, what it has not read yet, and what was left behind."""

from __future__ import annotations

from collections.abc import Iterator

from ..finding import Finding
from .evidence import File, Node
from .text import finding, listed

_STATE = "/var/lib/registry-mirror"


def check(node: Node) -> Iterator[Finding]:
    """Say what is wrong with what runs."""
    runs = node.runs
    subject = runs.unit or runs.socket or "the container runtime"
    log = f"journalctl -u {runs.unit}" if runs.unit else "its log"
    if runs.state in ("Dead", "Missing"):
        evidence = f"nothing listens on {runs.socket}" if runs.socket else "no container runtime runs on this node"
        remedy = f"look at {log}, correct what it says, and start it"
        yield finding("error", "RuntimeNotRunning", subject, evidence, remedy)
    elif runs.state == "Hung":
        evidence = f"{runs.socket} accepts no connections: its queue is full"
        yield finding("error", "RuntimeNotAnswering", subject, evidence, f"look at {log}, and restart it")
    elif runs.refused:
        remedy = f"look at {log}, and restart it"
        if "unknown service runtime" in runs.refused:
            remedy = f"its CRI plugin did not start: {log} has the reason, which is mostly in config.toml"
        evidence = f"it does not answer the calls of the kubelet: {runs.refused}"
        yield finding("error", "RuntimeNotAnswering", subject, evidence, remedy)
    elif not runs.ready:
        evidence = f"it says that it is not ready: {runs.message or 'no reason given'}"
        yield finding("error", "RuntimeNotReady", subject, evidence, f"look at {log}")


def restart(node: Node) -> Iterator[Finding]:
    """Say which files are newer than the start of the runtime, so that it cannot have read them."""
    if not node.runs.started:
        return
    newer = [file.path for file in _at_start(node) if file.modified > node.runs.started]
    if newer:
        subject = node.runs.unit or node.runs.socket
        evidence = f"{listed(newer)} changed after it had started"
        yield finding("warning", "RestartNeeded", subject, evidence, "restart it, so that it reads what is there")


def _at_start(node: Node) -> Iterator[File]:
    """Give the files that are read at a start alone. The agent's record says it for those that it has written, and k0s
    restarts its containerd by itself.
    """
    if node.name == "containerd":
        files = [node.config, *node.drop_ins]
    elif node.name in ("k3s", "rke2", "microk8s"):
        files = [file for path, file in node.others.items() if not path.endswith("hosts.toml")]
    else:
        files = []
    for file in files:
        if file is not None and file.text is not None and file.path not in node.record.ours:
            yield file


def record(node: Node) -> Iterator[Finding]:
    """Say what is wrong with what is ours on the node."""
    found = node.record
    if found.problem is not None:
        reason, message = found.problem
        yield finding("error", reason, _STATE, message, "see docs/conditions.md for this reason")
    if found.waiting and node.runs.started:  # one that does not run reads all when it starts
        subject = node.runs.unit or node.runs.socket or "the container runtime"
        evidence = f"it has not read yet what was written for: {listed(found.waiting)}"
        remedy = "the agent restarts it when the rollout comes to this node; without a cluster, restart it by hand"
        yield finding("warning", "RestartWaiting", subject, evidence, remedy)
    if found.failed:
        remedy = "change the RegistryMirror that the message is about, and apply it again"
        yield finding("error", "RestartFailed", _STATE, found.failed, remedy)
    for path in found.gone:
        evidence = "registry-mirror wrote this file, and it is not there any more"
        yield finding("warning", "FileGone", path, evidence, _OTHER)
    for path in found.foreign:
        evidence = "registry-mirror wrote this file, and somebody else has written it since"
        yield finding("warning", "FileForeign", path, evidence, _OTHER)
    if found.unfinished:
        evidence = "a change of the node's files was begun and not ended"
        remedy = "start the agent, or run `registry-mirror apply --local` or `restore --local` again"
        yield finding("warning", "ChangeUnfinished", _STATE, evidence, remedy)
    for path in found.left:
        evidence = "it is a temporary file of registry-mirror, left by a process that was killed"
        yield finding("warning", "TemporaryFileLeft", path, evidence, "remove it, if no agent is at work")
    if found.provisioner:
        remedy = "keep the node's registries there, and exclude the node from RegistryMirrors by nodeSelector"
        file, _, text = found.provisioner.partition(": ")
        yield finding("warning", "ProvisionedElsewhere", file, text.partition(": nothing was touched")[0], remedy)
    if found.agent_gone:
        evidence = f"files of registry-mirror are on the node, and no Pod of its agent ({found.agent_gone})"
        remedy = "install the operator again, or put the node back by `registry-mirror restore --local`"
        yield finding("warning", "AgentGone", _STATE, evidence, remedy)


_OTHER = "find out who does that: an agent writes it anew, and two programs that overwrite each other help nobody"


def unsafe(node: Node) -> Iterator[Finding]:
    """Say which of the runtime's files the agent would refuse to write."""
    places = {file.path: file.unsafe for file in (node.config, *node.others.values()) if file is not None}
    for certs in node.certs:
        places[certs.path] = certs.unsafe
        places.update((folder.hosts.path, folder.hosts.unsafe) for folder in certs.folders if folder.hosts is not None)
    said: set[str] = set()
    for path, problem in places.items():
        if problem and problem not in said:
            said.add(problem)
            remedy = "the runtime reads it all the same, but the operator writes nothing there: make it plain"
            yield finding("warning", "UnsafePath", path, problem, remedy)


def problem(node: Node, others: tuple[Finding, ...]) -> Iterator[Finding]:
    """Say why the agent makes nothing of the node, unless another finding says the same of the same file."""
    if node.problem is None:
        return
    reason, message = node.problem
    if reason in ("RuntimeConfigInvalid", "UnsafePath", "ReadFailed", "AccessDenied") and any(
        item.subject in message or message.partition(":")[0] in item.subject for item in others
    ):
        return
    subject = f"the {node.name} of this node" if node.name else "this node"
    remedy = "do what the message says; docs/conditions.md has the reason"
    yield finding("error", reason, subject, message, remedy)
