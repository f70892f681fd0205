"""Which container runtime a node has and how it is configured, read from what runs and from the runtime's files.

Whatever is contradictory or unknown is an error with what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from ..api.models import RuntimeFacts, RuntimeName
from ..core.layout import K0S_DROP_IN, K0S_DROP_INS, default_facts
from . import arguments
from .detect_choice import choose
from .detect_containerd import PLUGIN_NOW, PLUGINS, config_path, containerd, one_directory, plugin_of
from .detect_files import table, toml
from .detect_microk8s import detect as microk8s
from .detect_rancher import rancher
from .environment import Started
from .host import Host
from .live import Live
from .state import State

_K0S_MARK = b"# k0s_managed=true"
_NO_STATE = State()
# The services that the runtimes' own installers make, for a runtime that does not run now.
_UNITS: Mapping[RuntimeName, tuple[str, ...]] = {
    "k3s": ("k3s.service", "k3s-agent.service"),
    "rke2": ("rke2-server.service", "rke2-agent.service"),
    "containerd": ("containerd.service",),
}


def detect(host: Host, wanted: RuntimeName | None, state: State = _NO_STATE) -> RuntimeFacts:
    """Give the facts of the node's runtime by its files alone. As ``find``, for where nothing tells what runs."""
    return find(host, (), wanted, state)[0]


def find(
    host: Host,
    live: tuple[Live, ...],
    wanted: RuntimeName | None,
    state: State = _NO_STATE,
    service: Callable[[str], Started | None] = lambda _: None,
    earlier: RuntimeFacts | None = None,
) -> tuple[RuntimeFacts, Live | None]:
    """Give the facts of the node's runtime as it would be without us, and its socket if there is one.

    ``live`` is what runs (``live.inspect``), ``wanted`` the runtime that the agent was told to look after (None: the
    one that the kubelet uses), ``state`` says what is ours. ``service`` gives a service of the host by its name: how it
    is started tells the settings of K3s and RKE2 that are in no file, and where the file is of what does not run.
    ``earlier`` is what was found before: it holds while the runtime is down, so that its start finds what it had.
    Raises InvalidError (RuntimeNotFound, RuntimeAmbiguous, RuntimeMismatch, RuntimeNotSupported, RuntimeConfigInvalid),
    HostError, and what ``service`` raises.
    """
    name, chosen = choose(host, live, wanted, earlier.name if earlier is not None else None)
    if earlier is not None and earlier.name == name and chosen is not None and chosen.state in ("Dead", "Hung"):
        return earlier, chosen
    if name in ("k3s", "rke2"):
        data_dir = chosen.data_dir if chosen is not None else ""
        return rancher(host, name, data_dir, _started(name, chosen, service)), chosen
    if name == "containerd":
        file = chosen.config_file if chosen is not None else ""
        if not file and (started := _started(name, chosen, service)) is not None:
            file = arguments.last(started.exec_start, "config", "c")
        return containerd(host, state, file), chosen
    return {"microk8s": microk8s, "k0s": _k0s, "crio": _crio}[name](host), chosen


def _started(name: RuntimeName, chosen: Live | None, service: Callable[[str], Started | None]) -> Started | None:
    """Give the service of a runtime: the one that it runs in, or else the usual one."""
    units = (chosen.unit,) if chosen is not None and chosen.unit else _UNITS[name]
    return next((found for found in map(service, units) if found is not None), None)


def _containerd_settings(host: Host, file: str) -> tuple[int, str]:
    """Give the schema of a configuration of containerd (0: it is not said) and its config_path (empty: not set)."""
    found = host.read(file)
    document = toml(file, found.content) if found is not None else {}
    schema = document.get("version", 0)
    path = one_directory(file, config_path(file, document, plugin_of(document)))
    return schema if isinstance(schema, int) else 0, path


def _k0s(host: Host) -> RuntimeFacts:
    """k0s writes containerd.toml itself as long as it begins with its mark, and only then reads drop-ins.

    k0s 1.36 pkg/component/worker/containerd/component.go, isK0sManagedConfig: a file that is not there is its own.
    """
    facts = default_facts("k0s")
    found = host.read(facts.config_file)
    schema, path = _containerd_settings(host, facts.config_file)
    managed = found is None or found.content.split(b"\n", 1)[0].rstrip(b"\r") == _K0S_MARK
    facts = replace(facts, config_schema=schema, config_managed=managed, config_path="" if managed else path)
    if not managed:
        return facts
    plugins = (PLUGINS[2],) if schema == 2 else (PLUGIN_NOW,) if schema else (PLUGINS[2], PLUGIN_NOW)
    for file in (f"{K0S_DROP_INS}/{name}" for name in host.names(K0S_DROP_INS) if name.endswith(".toml")):
        drop_in = None if file == K0S_DROP_IN or host.is_directory(file) else host.read(file)
        document = toml(file, drop_in.content) if drop_in is not None else {}
        for plugin in plugins:  # in order: a later file wins
            path = one_directory(file, config_path(file, document, plugin))
            facts = replace(facts, config_path=path or facts.config_path)
    return facts


def _crio(host: Host) -> RuntimeFacts:
    """Whether CRI-O watches registries.conf.d (since 1.30, crio.conf(5)); a later file wins, as CRI-O reads them."""
    reloads = False
    names = [f"/etc/crio/crio.conf.d/{name}" for name in host.names("/etc/crio/crio.conf.d")]
    for file in ("/etc/crio/crio.conf", *(name for name in names if not host.is_directory(name))):
        found = host.read(file)
        document = toml(file, found.content) if found is not None else {}
        value = table(table(document, "crio"), "image").get("auto_reload_registries")
        reloads = value if isinstance(value, bool) else reloads
    return replace(default_facts("crio"), reloads_registries=reloads)
