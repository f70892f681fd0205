"""How K3s and RKE2 are configured: by flags, by files, and by variables of their service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from ..api.models import EmbeddedRegistry, RuntimeFacts, RuntimeName
from ..core.layout import DROP_IN, default_facts
from . import arguments
from .detect_files import absolute, invalid, toml, yaml
from .environment import Started, variables
from .host import Host

_EMBEDDED_PORT = {"k3s": 6443, "rke2": 9345}


class _Settings:
    """What is set, and where: a flag counts more than the files, and these more than a variable.

    K3s puts the settings of its files before the flags of the command line, of which the last one counts (k3s
    pkg/configfilearg/parser.go, Parse), and a variable is but the default of its flag (github.com/urfave/cli).
    """

    def __init__(self, host: Host, name: RuntimeName, started: Started | None) -> None:
        """Take the service (None: only the files are known). Raises InvalidError and HostError."""
        self._name = name
        self._argv = started.exec_start if started is not None else ()
        self._variables = variables(started, host) if started is not None else {}
        self.file = self._main()
        self._files = _read(host, self.file)

    def _main(self) -> str:
        """Give the main configuration file; here the variable counts more than the flag (findConfigFileFlag)."""
        usual = f"/etc/rancher/{self._name}/config.yaml"
        file = self._variable("CONFIG_FILE") or arguments.last(self._argv, "config", "c") or usual
        if file.startswith(("http://", "https://")):
            raise invalid(usual, "another one is read from a URL, which the agent does not do: put it into a file")
        return absolute(f"the configuration file of {self._name}", file)

    def _variable(self, name: str) -> str:
        return self._variables.get(f"{self._name.upper()}_{name}", "")

    def text(self, key: str, short: str = "", variable: str = "") -> tuple[str, str]:
        """Give where a setting is and its value, both empty if it is nowhere."""
        names = [name for name in (key, short) if name]
        if value := arguments.last(self._argv, *names):
            return f"--{key}", value
        for name in names:
            if value := _last(self._files, name):
                return self.file, value
        value = self._variable(variable) if variable else ""
        return (f"{self._name.upper()}_{variable}", value) if value else ("", "")

    def switch(self, key: str) -> tuple[str, bool]:
        """Give where a setting is that is on or off, and which.

        K3s passes the settings of its files on as text, so that "true" in quotes is true as well.
        """
        value = arguments.switch(self._argv, key)
        return (self.file, arguments.is_true(_last(self._files, key))) if value is None else (f"--{key}", value)


def rancher(host: Host, name: RuntimeName, data_dir: str, started: Started | None) -> RuntimeFacts:
    """Give the facts of K3s or RKE2.

    Takes the directory that the running one has its data in (empty if that is not known), and its service. Raises
    InvalidError (RuntimeConfigInvalid) and HostError.
    """
    settings = _Settings(host, name, started)
    endpoint, value = settings.text("container-runtime-endpoint")
    docker, on = settings.switch("docker")
    for file, key, is_set in ((endpoint, "container-runtime-endpoint", value != ""), (docker, "docker", on)):
        if is_set:
            raise invalid(file, f"{key} is set: then {name} configures no containerd")
    facts = default_facts(name)
    if settings.file != f"/etc/rancher/{name}/config.yaml":
        facts = replace(facts, config_file=settings.file)
    file, data = settings.text("data-dir", "d", "DATA_DIR")
    if data_dir or data:
        path = f"{data_dir or data}/agent/etc/containerd/certs.d"
        facts = replace(facts, config_path=absolute("the arguments of containerd" if data_dir else file, path))
    file, registries = settings.text("private-registry")
    if registries:
        facts = replace(facts, registries_file=absolute(file, registries))
    _, disabled = settings.switch("disable-default-registry-endpoint")
    return replace(facts, disable_default_endpoint=disabled, embedded_registry=_embedded(host, facts))


def _read(host: Host, main: str) -> dict[str, list[Any]]:
    """Every setting with its values as they are handed to flags, of which the last one counts.

    The files of the directory beside the main one are read after it, in order (docs.k3s.io, Configuration); a key that
    ends in + adds to what earlier files say (k3s pkg/configfilearg/parser.go, readConfigFile).
    """
    names = [name for name in host.names(f"{main}.d") if name.lower().endswith((".yaml", ".yml")) and name != DROP_IN]
    settings: dict[str, list[Any]] = {}
    for path in (main, *(f"{main}.d/{name}" for name in names if not host.is_directory(f"{main}.d/{name}"))):
        found = host.read(path)
        for key, value in yaml(path, found.content if found is not None else b"").items():
            values = value if isinstance(value, list) else [value]
            name = str(key).removesuffix("+")
            settings[name] = [*settings.get(name, ()), *values] if str(key).endswith("+") else values
    return settings


def _last(settings: Mapping[str, list[Any]], key: str) -> str:
    values = settings.get(key) or [None]
    return "" if values[-1] is None else str(values[-1])


def _embedded(host: Host, facts: RuntimeFacts) -> EmbeddedRegistry | None:
    """Spegel inside K3s/RKE2 is on when its own hosts.toml is there; its TLS files stand in it (runtimes.md)."""
    address = f"127.0.0.1:{_EMBEDDED_PORT[facts.name]}"
    path = f"{facts.config_path}/{address}/hosts.toml"
    found = host.read(path)
    if found is None:
        return None
    document = toml(path, found.content)
    client = _first(document.get("client"))
    pair = client if isinstance(client, list) and len(client) == 2 else ["", ""]
    return EmbeddedRegistry(
        address=address, ca_file=str(_first(document.get("ca")) or ""), cert_file=str(pair[0]), key_file=str(pair[1])
    )


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value
