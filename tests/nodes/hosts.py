"""hosts.toml by hand, for tests of the nodes themselves: the operator's own render is not what they are to rest on."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from tests.harness.node import Node

UPSTREAM = "registry.test"
CONFIG = "/etc/containerd/config.toml"
HOSTS = f"/etc/containerd/certs.d/{UPSTREAM}/hosts.toml"
# As the nodes' own, without config_path: to set it takes the restart that every such node needs once.
WITHOUT_PATH = """\
# kept by the operator of this node
version = 3

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.test/pause:3.10"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
"""


def basic(user: str, password: str) -> dict[str, str]:
    """The header that sends user and password."""
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def use(
    node: Node,
    registry: str,
    *urls: str,
    ca: str = "",
    client: tuple[str, str] | None = None,
    header: Mapping[str, str] | None = None,
) -> None:
    """Have the node ask those URLs for the images of a registry, then the registry itself; from its next pull on.

    ``ca`` and ``client`` are paths in the node; they and ``header`` hold for all URLs.
    """
    lines = [f'server = "https://{registry}"', "[host]"]
    for url in urls:
        lines += [f'[host."{url}"]', '  capabilities = ["pull", "resolve"]']
        if ca:
            lines.append(f'  ca = "{ca}"')
        if client is not None:
            lines.append(f'  client = [["{client[0]}", "{client[1]}"]]')
        if header:
            lines += [f'  [host."{url}".header]', *(f'    {name} = "{value}"' for name, value in header.items())]
    node.write(f"{node.flavour.certs}/{registry}/hosts.toml", "\n".join(lines) + "\n", mode=0o600)
