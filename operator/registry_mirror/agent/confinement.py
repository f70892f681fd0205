"""Whether the API server keeps this agent to its own node.

RBAC cannot: all agents share one account. A ValidatingAdmissionPolicy has to (manifests/base/admission-agents.yaml).
Where it is missing, whoever takes over one node can say of every other that all is well there. So the agent tries to
write what it must not, as a dry run that would change nothing, and does not work where it may.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from ..api.errors import FieldError, InvalidError, ProblemError, WaitingError
from ..kube.resources import CONFIGS, Resource

_log = logging.getLogger(__name__)

REASON = "NodeNotConfined"
# A policy that came with the agent's own DaemonSet may be there, and in force, a moment later.
_PATIENCE = 5
_AGAIN = 2.0
_TEXT = (
    "the API server lets the agent of this node write the status of other nodes (tried, as a dry run, with "
    "NodeRegistryConfig {other}): apply the ValidatingAdmissionPolicy and its binding in "
    "manifests/base/admission-agents.yaml, or accept it with --node-confinement=warn"
)


class Api(Protocol):
    """What the check needs of the API server."""

    def list(self, resource: Resource, **query: str) -> dict[str, Any]:
        """Give one page of a collection; raises ApiError."""

    def may_patch_status(self, resource: Resource, name: str) -> bool | None:
        """Tell whether a status could be written, None if the object is not there; raises ApiError."""


class Confinement:
    """Asks until the answer is known; it is not asked for again after that."""

    def __init__(self, api: Api, node_name: str, required: bool) -> None:
        """Take the API server, the name of the node, and whether the agent must not work unconfined."""
        self._api = api
        self._node = node_name
        self._required = required
        self._known = False
        self._refusals = 0

    def problem(self) -> ProblemError | None:
        """Say why the agent must not work; None if it may. Raises ApiError if that cannot be told."""
        if self._known:
            return None
        other = self._another()
        may = self._api.may_patch_status(CONFIGS, other) if other else None
        if may is None:  # there is nobody yet for whom the agent could speak
            return None
        text = _TEXT.format(other=other)
        if may and self._required:
            self._refusals += 1
            if self._refusals <= _PATIENCE:
                return WaitingError(REASON, text, after=_AGAIN)
            return InvalidError("node", (FieldError("", "", text),), REASON)
        if may:
            _log.warning("%s", text)
        self._known = True
        return None

    def _another(self) -> str:
        """The name of the object of another node, empty if there is none."""
        items = self._api.list(CONFIGS, limit="2").get("items") or []
        return next((item["metadata"]["name"] for item in items if item["metadata"]["name"] != self._node), "")
