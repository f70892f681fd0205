"""The command line of `registry-mirror seed`, as its steps take it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..seed.access import Side


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    images: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    from_cluster: bool = False
    manifests: tuple[str, ...] = ()
    to: str = ""
    archive: str | None = None
    files: tuple[str, ...] = ()
    mirrors_from_cluster: bool = False
    platforms: tuple[str, ...] = ()
    jobs: int = 4
    timeout: float = 3600.0
    dry_run: bool = False
    from_authfile: str | None = None
    from_ca: str | None = None
    from_plain_http: bool = False
    from_insecure_skip_verify: bool = False
    to_authfile: str | None = None
    to_ca: str | None = None
    to_plain_http: bool = False
    to_insecure_skip_verify: bool = False
    output: str = "text"
    kubeconfig: str = ""
    context: str = ""

    def side(self, name: str) -> Side:
        """What is said of one side: ``from`` or ``to``."""
        values = {key: getattr(self, f"{name}_{key}") for key in ("authfile", "ca")}
        paths = {key: Path(value).absolute() if value else None for key, value in values.items()}
        plain_http: bool = getattr(self, f"{name}_plain_http")
        skip: bool = getattr(self, f"{name}_insecure_skip_verify")
        return Side(name, **paths, plain_http=plain_http, insecure_skip_verify=skip)
