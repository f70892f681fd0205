"""Kubernetes Events, for what a person reading ``kubectl describe`` wants to hear of."""

from __future__ import annotations

import uuid

from ..core.status import Transition
from .client import Api
from .resources import CONTROLLER, EVENTS, Resource

# Where Events of cluster-scoped objects live (client-go tools/record).
NAMESPACE = "default"
_MAX_NOTE = 1024


async def emit(api: Api, resource: Resource, name: str, uid: str, transition: Transition, now: str) -> None:
    """Write one Event about a cluster-scoped object. Raises ApiError."""
    suffix = uuid.uuid4().hex[:16]
    body = {
        "metadata": {"name": f"{name[:230]}.{suffix}", "namespace": NAMESPACE},
        "involvedObject": {"apiVersion": resource.api_version, "kind": resource.kind, "name": name, "uid": uid},
        "type": transition.type,
        "reason": transition.reason,
        "message": transition.message[:_MAX_NOTE],
        "source": {"component": CONTROLLER},
        "reportingComponent": CONTROLLER,
        "reportingInstance": CONTROLLER,
        "action": transition.reason,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "eventTime": None,
        "count": 1,
    }
    await api.create(EVENTS, body, NAMESPACE)
