"""What kstatus computes for a custom resource, which Flux and `kubectl apply`'s successors wait by.

After its documented rules (sigs.k8s.io/cli-utils v0.37.2, pkg/kstatus/README.md; checkGenericProperties and
checkReadyCondition there): deletion, then the generation if a status tells one, then the first of Reconciling and
Stalled that is True in the order of the list, then Ready. Without any of these a resource is Current.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def compute(body: Mapping[str, Any]) -> str:
    """One of Terminating, InProgress, Failed and Current."""
    metadata, status = body["metadata"], body.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if "observedGeneration" in status and status["observedGeneration"] != metadata["generation"]:
        return "InProgress"
    conditions = status.get("conditions") or ()
    for item in conditions:
        if item["status"] == "True" and item["type"] in ("Reconciling", "Stalled"):
            return "InProgress" if item["type"] == "Reconciling" else "Failed"
    ready = next((item["status"] for item in conditions if item["type"] == "Ready"), "True")
    return "Current" if ready == "True" else "InProgress"
