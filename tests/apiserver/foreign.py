"""Kinds of others that the manifests have objects of: any object is taken, only what is done with them is tested."""

from __future__ import annotations

from typing import Any

FOREIGN = {
    "PodMonitor": ("podmonitors", "monitoring.coreos.com", "v1"),
    "PrometheusRule": ("prometheusrules", "monitoring.coreos.com", "v1"),
    "Application": ("applications", "argoproj.io", "v1alpha1"),
}


def crd(kind: str) -> dict[str, Any]:
    """The definition of one of the kinds, without its schema."""
    plural, group, version = FOREIGN[kind]
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }
