"""Follows one image the way the node's runtime would, from the files that are on the node now; changes nothing."""

from __future__ import annotations

import contextlib
import posixpath
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ..api.errors import ProblemError
from ..api.images import Image
from ..api.models import RuntimeFacts, RuntimeName
from ..core import route_crio, versions
from ..core.diagnosis.evidence import SHOWN_NAMES
from ..core.following import Followed, Walk, concluded, failure_of, walk, warnings
from ..core.layout import K0S_DROP_IN, default_facts, layout
from ..core.resolve import ResolvedTLS
from ..core.route import Host as RegistryHost, Route, Rules, directories, itself, name_of, plain_with_tls
from ..core.route_hosts import certificates, hosts_toml
from ..core.route_mirrors import credentials_of, mirrors
from .cri import Runtime, RuntimeAnswerError
from .detect import find
from .detect_choice import choose
from .environment import Asked as Services, Started, proxies
from .follow_ask import Asker, Way
from .follow_files import Files, Settings
from .follow_tls import read_tls
from .host import Host
from .live import Live, inspect
from .proxies import Proxies
from .roots import Contexts
from .service import manager

_PROC = Path("/proc")
_FORKS = ("k3s", "rke2")
_DEFAULT_PATH = "/etc/containerd/certs.d:/etc/docker/certs.d"  # since 2.2 (plugins/cri/images/plugin.go)
_CRIO_FILES = ("/etc/containers/registries.conf", "/etc/containers/registries.conf.d")
_CRIO_CERTS = ("/etc/containers/certs.d", "/etc/docker/certs.d")  # containers-certs.d(5)


class Node(Struct, frozen=True, kw_only=True):
    """The node's runtime: its facts as far as they could be told, its socket, its own version, and its proxies."""

    facts: RuntimeFacts
    live: Live | None
    version: str
    proxies: Proxies
    notes: tuple[str, ...] = ()

    @property
    def rules(self) -> Rules:
        """How it reads certs.d."""
        known = versions.parse(self.version)
        plain = known is not None and (known < (1, 6, 25) or (1, 7) <= known < (1, 7, 7))
        return Rules(
            old=versions.known_below(self.version, 2),
            fork=self.facts.name in _FORKS,
            dial_timeout=not versions.known_below(self.version, 2, 0, 7),
            default_directory=not versions.known_below(self.version, 1, 6, 17),
            https_first=not plain,
            override_path=not versions.known_below(self.version, 1, 6),
        )

    @property
    def text(self) -> str:
        """The runtime, as it is shown."""
        version = f" {self.version}" if self.version else ""
        name = SHOWN_NAMES.get(self.facts.name, self.facts.name)
        inner = ", containerd" if self.facts.name not in ("containerd", "crio") else ""
        return f"{name}{inner}{version}"


class Follower:
    """One image on one node."""

    def __init__(self, root: Path, wanted: RuntimeName | None, image: Image, timeout: float) -> None:
        """Take where the node's file system is, its runtime (None: find it), the image, and how long it may all take.

        Raises ProblemError if there is no telling which runtime the node has.
        """
        self._root = root
        self._image = image
        self._until = time.monotonic() + timeout
        self._files = Files(root)
        self._contexts = Contexts(root)
        self._node = _node(root, wanted)

    def follow(self, *, everyone: bool, pull: bool) -> Followed:
        """Ask the hosts, with ``everyone`` also those that the runtime would not ask any more; with ``pull`` have the
        runtime pull, and ask again. Raises ProblemError where the files cannot be read.
        """
        route = self._route()
        tls, route = read_tls(route, self._image.registry, self._files, self._contexts)
        found = Followed(
            image=name_of(self._image),
            node=socket.gethostname() if self._root == Path("/") else "",
            runtime=self._node.text,
            files=route.files,
            warnings=(*self._node.notes, *route.warnings),
        )
        if route.failure:
            found = replace(found, failure=route.failure)
        else:
            seen = self._walk(route, tls, everyone=everyone)
            found = replace(
                found, walk=seen, failure=failure_of(seen, route), warnings=(*found.warnings, *warnings(seen))
            )
        return self._pulled(found, route, tls) if pull else found

    def _walk(self, route: Route, tls: Mapping[str, ResolvedTLS], *, everyone: bool) -> Walk:
        # Before, only a header for the registry's own requests was sent (runtimes.md, Credentials).
        forward = not versions.known_below(self._node.version, 2, 1)
        way = Way(contexts=self._contexts, proxies=self._node.proxies, tls=tls, until=self._until, forward=forward)
        ask = Asker(self._image, way, len(route.hosts))
        return walk(self._image, route.hosts, ask, everyone=everyone, again=self._node.facts.name != "crio")

    def _pulled(self, before: Followed, route: Route, tls: Mapping[str, ResolvedTLS]) -> Followed:
        """Have the runtime pull. Raises RuntimeAnswerError if it does not answer at all."""
        if self._node.live is None:
            raise RuntimeAnswerError("RuntimeNotAnswering", "no runtime runs here that could pull: start it")
        runtime = Runtime(self._root / self._node.live.socket.lstrip("/"))
        present = runtime.has(before.image)
        began = time.monotonic()
        error = ""
        try:
            runtime.pull(before.image, max(1.0, self._until - began))
        except RuntimeAnswerError as problem:
            error = problem.message
        took = round(time.monotonic() - began, 3)
        self._until = max(self._until, time.monotonic() + len(route.hosts) * 2.0)
        after = self._walk(route, tls, everyone=False) if not route.failure else Walk()
        told = concluded(before.walk, after, done=not error, present=present, seconds=took, error=error)
        return replace(before, pull=told, after=after)

    # ---- files -----------------------------------------------------------------------------------------------------

    def _route(self) -> Route:
        """Give the hosts that the files name. Raises ProblemError."""
        if self._node.facts.name == "crio":
            return self._crio()
        file, settings = self._settings()
        registry = settings.registry if settings is not None else {}
        found = self._by_path(settings, file)
        if found is None:
            found = mirrors(file, registry, self._image.registry)
        with_credentials = (
            item if item.credentials is not None else replace(item, credentials=credentials_of(registry, item.host))
            for item in found.hosts
        )
        return replace(found, hosts=tuple(with_credentials))

    def _settings(self) -> tuple[str, Settings | None]:
        """Give the file that the runtime has its settings from, as its arguments or its layout tell, and what it says.
        Raises ProblemError.
        """
        facts, live = self._node.facts, self._node.live
        files = [facts.config_file]
        if live is not None and live.config_file:
            files = [live.config_file]
        elif facts.name in _FORKS:
            files = [f"{posixpath.dirname(facts.config_path)}/config.toml"]
        elif facts.name == "microk8s":
            # The first is rendered from the second at each start.
            files.insert(0, f"{posixpath.dirname(facts.config_path or facts.config_file)}/containerd.toml")
        for file in filter(None, files):
            found = self._files.settings(file, old=self._node.rules.old)
            if found is not None:
                return file, found
        return files[0], None

    def _by_path(self, settings: Settings | None, file: str) -> Route | None:
        """Give what config_path leads to; None where there is none, and mirrors of the file count."""
        registry = settings.registry if settings is not None else {}
        path = str(registry.get("config_path") or "")
        if "$" in path:
            path = self._node.facts.config_path  # a template of MicroK8s
        elif not path and not registry.get("mirrors"):
            path = self._otherwise(settings, file)
        if not path:
            return None
        roots, told = self._roots(path, settings, file)
        found = self._directory(roots)
        return replace(found, warnings=(*told, *found.warnings))

    def _otherwise(self, settings: Settings | None, file: str) -> str:
        """Give the config_path where the file does not say one: as it was found elsewhere, or the default."""
        facts = self._node.facts
        # k0s has it in a file of its own making, which cannot be seen from a Pod.
        elsewhere = facts.name == "k0s" or (
            settings is None and (facts.name != "containerd" or not self._files.seen(file))
        )
        path = ""
        if elsewhere:
            ours = facts.name != "k0s" or self._files.kind(K0S_DROP_IN) == "file"
            path = facts.config_path or (layout(facts).certs if ours else "")
        return path or ("" if versions.known_below(self._node.version, 2, 2) else _DEFAULT_PATH)

    def _roots(self, path: str, settings: Settings | None, file: str) -> tuple[list[str], tuple[str, ...]]:
        """Give the directories that a config_path names. Since 2.1, a list is taken for one where pulls are those of
        the transfer service (containerd #12415, #12808); what forces the others is in plugins/cri/images.
        """
        if ":" not in path:
            return [path], ()
        plugin = settings.plugin if settings is not None else {}
        registry = settings.registry if settings is not None else {}
        local = plugin.get("use_local_image_pull") is True or any(
            registry.get(key) for key in ("configs", "mirrors", "auths")
        )
        if local or versions.known_below(self._node.version, 2, 1):
            return path.split(":"), ()
        text = "config_path has" if registry.get("config_path") else "config_path is not set there, and by default has"
        what = "several directories, which containerd takes for one and does not find (containerd #12415)"
        return [], (f"{file}: {text} {what}: set it to one directory",)

    def _directory(self, roots: Sequence[str]) -> Route:
        """Give what the first directory for the registry says."""
        registry = self._image.registry
        for root in roots:
            for name in directories(registry, self._node.rules):
                folder = f"{root.rstrip('/')}/{name}"
                kind = self._files.kind(folder)
                if kind == "file":
                    return Route(
                        files=(folder,), failure=f"{folder}: it is no directory, and every pull fails: remove it"
                    )
                if kind:
                    return self._hosts(folder, registry)
        return Route(hosts=(plain_with_tls(itself(registry), self._node.rules),), files=tuple(roots))

    def _hosts(self, folder: str, registry: str) -> Route:
        names = self._files.names(folder)
        file = f"{folder}/hosts.toml"
        text = self._files.text(file)
        if text:
            return hosts_toml(file, text, names, registry, self._node.rules)
        found = certificates(folder, names, registry, self._node.rules)
        warning = (
            f"{folder}: there is no hosts.toml in it, and _default does not count either: remove it if it is left over"
        )
        return found if found.hosts[0].ca or found.hosts[0].client else replace(found, warnings=(warning,))

    def _crio(self) -> Route:
        main, folder = _CRIO_FILES
        names = [f"{folder}/{name}" for name in self._files.names(folder) if name.endswith(".conf")]
        texts = [(path, text) for path in (main, *names) if (text := self._files.text(path)) is not None]
        found = route_crio.registries(texts, self._image)
        return replace(found, hosts=tuple(self._crio_tls(item) for item in found.hosts))

    def _crio_tls(self, host: RegistryHost) -> RegistryHost:
        for root in _CRIO_CERTS:
            folder = f"{root}/{host.host}"
            if names := self._files.names(folder):
                used = certificates(folder, names, host.host, Rules()).hosts[0]
                return replace(host, ca=used.ca, client=used.client)
        return host


def _node(root: Path, wanted: RuntimeName | None) -> Node:
    """Find out what runs on the node. Raises ProblemError."""
    files = Host(root)
    service = manager(root)
    services = Services(service.unit if service is not None else _no_service)
    seen = inspect(root, _PROC, wanted)
    notes: list[str] = []
    try:
        facts, live = find(files, seen, wanted, service=services)
    except ProblemError as error:
        # A configuration that the operator would not touch can be followed all the same.
        name, live = choose(files, seen, wanted)
        facts = default_facts(name)
        notes.append(error.message)
    version = ""
    if live is not None:
        with contextlib.suppress(RuntimeAnswerError):
            version = Runtime(root / live.socket.lstrip("/")).health().version
    if not version:
        notes.append("the runtime does not say its version: it is taken for a recent one")
    used = Proxies({})
    with contextlib.suppress(ProblemError):
        used = Proxies(proxies(services(live.unit) if live is not None and live.unit else None, files, facts))
    return Node(facts=facts, live=live, version=version.removeprefix("v"), proxies=used, notes=tuple(notes))


def _no_service(name: str) -> Started | None:
    return None
