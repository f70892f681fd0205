"""Running a command of this program on a node of a cluster: in the Pod of the agent there, by ``pods/exec``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..api.errors import ProblemError
from ..core.words import some
from ..kube.client import Api
from ..kube.errors import ApiError
from ..kube.exec import Answer as Answer, run
from ..kube.resources import AGENT, NODES, PODS, SYSTEM_NAMESPACE

AGENTS = "app.kubernetes.io/name=registry-mirror-operator,app.kubernetes.io/component=agent"
_CONTAINER = "agent"
_ROOT, _RUNTIME = "--host-root", "--runtime"
_DEFAULTS = {_ROOT: "/host", _RUNTIME: "auto"}  # those of the agent's own options
_USAGE = 2

Json = Mapping[str, Any]


async def on_node(api: Api, node: str, argv: Sequence[str], timeout: float) -> Answer:
    """Run ``registry-mirror ARGV… --root R --runtime R`` on a node, for so many seconds at most.

    Takes the node's name and the command's own arguments, such as ``["doctor", "--local", "-o", "json"]``; where the
    node's file system is, and what runs there, the agent's own arguments say. Gives the exit code and what was written.
    Raises ProblemError, which says what to do, if it cannot be run there.
    """
    pod = await _agent(api, node)
    container = _container(pod)
    given = _arguments(container)
    program = (container.get("command") or ["registry-mirror"])[0]
    command = [program, *argv, "--root", given[_ROOT], "--runtime", given[_RUNTIME]]
    name = pod["metadata"]["name"]
    try:
        answer = await run(api, name, SYSTEM_NAMESPACE, _CONTAINER, command, timeout)
    except ApiError as error:
        raise _explained(error) from None
    if answer.code == _USAGE and "No such command" in answer.stderr:
        image = container.get("image", "")
        remedy = f"update the operator there, or use the command of its version (the image is {image})"
        raise ProblemError("TooOld", f"the agent on {node} does not know the command {argv[0]}: {remedy}")
    return answer


async def _agent(api: Api, node: str) -> Json:
    """Give the agent's Pod on that node that is Ready. Raises ProblemError."""
    try:
        pods, _ = await api.list(PODS, SYSTEM_NAMESPACE, labelSelector=AGENTS, fieldSelector=f"spec.nodeName={node}")
    except ApiError as error:
        raise _explained(error) from None
    # While one is replaced, there are two.
    ready = [pod for pod in pods if is_ready(pod)]
    if ready:
        return ready[0]
    if pods:
        name = pods[0]["metadata"]["name"]
        look = f"kubectl -n {SYSTEM_NAMESPACE} describe pod {name}"
        raise ProblemError("AgentNotReady", f"the agent's Pod on {node} is not ready: {told(pods[0])}; see {look}")
    raise ProblemError("NoAgent", await _nobody(api, node))


async def _nobody(api: Api, node: str) -> str:
    """Say why there is no Pod: there is no such node, or none for it."""
    try:
        names = sorted(item["metadata"]["name"] for item in (await api.list(NODES, metadata_only=True))[0])
    except ApiError:
        names = []  # who may not read them is told of the Pod
    if names and node not in names:
        return f"no node {node}: there are {some(names, most=10)}"
    look = f"kubectl -n {SYSTEM_NAMESPACE} describe daemonset {AGENT}"
    return f"no agent runs on {node}: the command runs in its Pod; see {look}"


def is_ready(pod: Json) -> bool:
    """Whether a Pod is Ready, and not about to go."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    ready = any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def told(pod: Json) -> str:
    """Say what keeps a Pod from being Ready, as far as its status tells."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return "it is being deleted"
    for item in status.get("containerStatuses") or ():
        for state in (item.get("state") or {}, item.get("lastState") or {}):
            found = state.get("waiting") or state.get("terminated")
            if found:
                text = f": {found['message']}" if found.get("message") else ""
                code = f" with exit code {found['exitCode']}" if "exitCode" in found else ""
                return f"{found.get('reason') or 'it ended'}{code}{text}"
    for item in status.get("conditions") or ():
        if item.get("status") == "False" and item.get("message"):
            return str(item["message"])
    return str(status.get("reason") or status.get("phase") or "Unknown")


def _container(pod: Json) -> Json:
    found: list[Json] = [item for item in pod["spec"]["containers"] if item["name"] == _CONTAINER]
    return found[0] if found else pod["spec"]["containers"][0]


def _arguments(container: Json) -> dict[str, str]:
    """Read the agent's own arguments: ``--name=value`` or ``--name value``; the last one counts."""
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    found = dict(_DEFAULTS)
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in found and (equals or index + 1 < len(words)):
            found[name] = value if equals else words[index + 1]
    return found


def _explained(error: ApiError) -> ProblemError:
    """Give the error with what to do about it, where that is known."""
    what = {
        401: "the credentials of the kubeconfig are not accepted: log in again",
        403: f"ask for the right to list pods, and to get and create pods/exec, in namespace {SYSTEM_NAMESPACE}; or "
        "run the command on the node itself, with --local",
        404: "the Pod has gone meanwhile: try again",
        500: "the API server cannot reach the kubelet of that node: look at the node, and at port 10250 between them",
        502: "the API server cannot reach the kubelet of that node: look at the node, and at port 10250 between them",
    }.get(error.status)
    return ProblemError(error.reason, f"{error.message}\n{what}") if what else error
