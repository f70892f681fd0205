"""What the commands that look at a cluster share: a connection by the user's own kubeconfig, and what was read."""

from __future__ import annotations

import os
from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from ..api.errors import FieldError, InvalidError, ProblemError
from ..controller.store import Store
from ..kube.client import Api, load_configuration
from ..kube.errors import ApiError
from ..kube.resources import CONFIGS, MIRRORS, NODES, POLICIES, Resource

_KUBECONFIG = "~/.kube/config"
_INSTALL = "install the operator there first: kubectl apply -k manifests/overlays/…"


async def connect(kubeconfig: str, context: str) -> Api:
    """Give a client for the cluster of a person: any kubeconfig will do, one with an exec plugin too.

    Raises ProblemError.
    """
    given = kubeconfig or context or os.environ.get("KUBECONFIG") or Path(_KUBECONFIG).expanduser().exists()
    if not given:
        return Api(await load_configuration())
    configuration = Configuration()
    where = kubeconfig or os.environ.get("KUBECONFIG") or _KUBECONFIG
    missing = [path for path in where.split(os.pathsep) if path and Path(path).expanduser().exists()] == []
    if missing:
        raise _no_cluster(where, "there is no such file", "name a kubeconfig file by --kubeconfig or $KUBECONFIG")
    try:
        await config.load_kube_config(
            config_file=where, context=context or None, client_configuration=configuration, persist_config=False
        )
        return Api(configuration)
    except Exception as error:  # whatever is in the file: the library looks at nothing before it uses it
        text = " ".join(str(error).split()) or type(error).__name__
        raise _no_cluster(where, text, "mend it, or choose another by --kubeconfig and --context") from None


def _no_cluster(where: str, found: str, expected: str) -> InvalidError:
    return InvalidError(f"kubeconfig {where}", (FieldError("", found, expected),), "NoCluster")


async def read(api: Api, *, nodes: bool = True) -> tuple[Store, list[str]]:
    """Read the operator's objects, and with ``nodes`` the Nodes; gives them, and what could not be read, and why.

    Raises ProblemError where nothing can be said without: no API server, no such kinds, no right to read them.
    """
    store, notes = Store(), []
    for resource in (MIRRORS, CONFIGS):
        try:
            await _take(api, store, resource)
        except ApiError as error:
            raise explained(error, resource) from None
    for resource in (POLICIES, *((NODES,) if nodes else ())):
        try:
            await _take(api, store, resource)
        except ApiError as error:
            if error.status != 403:
                raise explained(error, resource) from None
            notes.append(f"{resource.plural} cannot be read: {error.message}")
    return store, notes


async def _take(api: Api, store: Store, resource: Resource) -> None:
    items, version = await api.list(resource)
    store.replace(resource, items, version)


def explained(error: ApiError, resource: Resource) -> ProblemError:
    """Give the error with what to do about it, where that is known."""
    what = {
        401: "the credentials of the kubeconfig are not accepted: log in again",
        403: f"you may not read {resource.plural}: ask for the right to get and list them",
        404: f"the cluster has no {resource.plural}: {_INSTALL}",
    }.get(error.status)
    return ProblemError(error.reason, f"{error.message}\n{what}") if what else error
