"""daemon.json of Docker: mirrors of Docker Hub, and registries whose certificate is not verified."""

from __future__ import annotations

from ...api import grammar
from .draft import TLS, Draft, Drafts, Endpoint, HostConfig, checked_url
from .reading import read_json


def daemon_json(subject: str, text: str) -> Drafts:
    """Give drafts for a daemon.json; raises InvalidError. Its settings about other things are no concern here."""
    root = read_json(subject, text)
    result = Drafts()
    draft = Draft("docker.io", f"{subject}: registry-mirrors")
    for index, value in enumerate(root.texts("registry-mirrors")):
        url = checked_url(subject, f"registry-mirrors[{index}]", value)
        if all(grammar.normal_url(item.url) != grammar.normal_url(url) for item in draft.endpoints):
            draft.endpoints.append(Endpoint(url.rstrip("/")))
    if draft.endpoints:
        result.items.append(draft)
    plain = {item.url.partition("://")[2] for item in draft.endpoints if item.url.startswith("http://")}
    for index, host in enumerate(root.texts("insecure-registries")):
        where = f"insecure-registries[{index}]"
        if "/" in host:
            result.notes.append(f"{where}: {host} left out, an object stands for one registry, not for a network")
        elif host not in plain:
            result.notes.append(
                f"{where}: {host} is read as https without verification; if it speaks plain HTTP, write it as an "
                "endpoint with http:// instead"
            )
            result.hosts[host] = HostConfig(TLS(skip_verify=True))
    return result
