"""``registry.configs`` of containerd's own configuration: one entry a host, so that mirrors get in each other's way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..bundle import MirrorProblem, StartSetting
from ..edits import HostConfig
from ..resolve import Credentials


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a mirror wants for a host; ``way`` is how an endpoint is spoken to: over plain HTTP or not, verified or not.

    None for the registry itself, which is what its endpoints stand for.
    """

    host: str
    way: tuple[bool, bool] | None
    config: HostConfig


class HostConfigs:
    """The entries of all mirrors taken so far; whoever comes first takes precedence."""

    def __init__(self, file: str) -> None:
        """Take the name of the file, for messages."""
        self._file = file
        self.entries: dict[str, HostConfig] = {}
        self._owners: dict[str, str] = {}
        self._ways: dict[str, dict[tuple[bool, bool], str]] = {}
        self._users: dict[str, set[str]] = {}

    def take(self, mirror: str, wanted: Iterable[Wanted]) -> MirrorProblem | None:
        """Add what a mirror wants, or nothing of it: then give the problem."""
        items = tuple(wanted)
        trial = HostConfigs(self._file)
        trial.entries, trial._owners = dict(self.entries), dict(self._owners)
        trial._ways = {host: dict(ways) for host, ways in self._ways.items()}
        for item in items:
            owner = trial._add(mirror, item)
            if owner is not None:
                return self._conflict(mirror, item.host, owner)
        self.entries, self._owners, self._ways = trial.entries, trial._owners, trial._ways
        for item in items:
            self._users.setdefault(item.host, set()).add(mirror)
        return None

    def start_settings(self) -> dict[str, StartSetting]:
        """Name what only the next start brings into force."""
        settings = {}
        for host, item in sorted(self.entries.items()):
            for name, section in (("TLS settings", item.tls), ("credentials", item.auth)):
                if section:
                    value = repr(sorted(section.items()))
                    settings[f"{name} for {host}"] = StartSetting(value, frozenset(self._users[host]))
        return settings

    def _add(self, mirror: str, item: Wanted) -> str | None:
        """Add one; gives the name of the mirror with which it cannot be had."""
        ways = self._ways.setdefault(item.host, {})
        if item.way is not None:
            ways.setdefault(item.way, mirror)
        present = self.entries.get(item.host, HostConfig())
        other = next((owner for way, owner in ways.items() if item.way not in (None, way)), None)
        if other is not None and (item.config != HostConfig() or present != HostConfig()):
            # Else what is meant for one would silently hold for the other: no verification, or a password over HTTP.
            return other
        if _differ(present.tls, item.config.tls) or _differ(present.auth, item.config.auth):
            return self._owners[item.host]
        if item.config != HostConfig():
            self._owners.setdefault(item.host, mirror)
            self.entries[item.host] = HostConfig(
                tls=present.tls or item.config.tls, auth=present.auth or item.config.auth
            )
        return None

    def _conflict(self, mirror: str, host: str, owner: str) -> MirrorProblem:
        other = "another endpoint of this object" if owner == mirror else f"RegistryMirror {owner}"
        text = (
            f"{self._file} has one TLS and credentials entry for {host}, and {other} wants different ones: use the "
            "same scheme, Secret and CA in both, or give the endpoints different host names"
        )
        return MirrorProblem(mirror, "EndpointConfigConflict", text)


def auth(credentials: Credentials | None) -> dict[str, str]:
    """Give credentials as containerd spells them (ParseAuth: user name, else identity token); empty for none."""
    if credentials is None:
        return {}
    if credentials.identity_token:
        return {"identitytoken": credentials.identity_token}
    return {"username": credentials.username, "password": credentials.password}


def _differ(present: dict[str, str] | dict[str, str | bool], wanted: dict[str, str] | dict[str, str | bool]) -> bool:
    return bool(present) and bool(wanted) and present != wanted
