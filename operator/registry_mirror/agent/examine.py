"""Looking at a node for ``doctor``: what the rules of core/diagnosis need, and nothing that changes anything.

It takes no lock and keeps no key; an agent may be at work on the node at the same time.
"""

from __future__ import annotations

import contextlib
import posixpath
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from ..api.errors import InvalidError, ProblemError
from ..api.models import RuntimeFacts, RuntimeName
from ..core.diagnosis.containerd import settings
from ..core.diagnosis.evidence import Asked, Certs, File, Node, Runs
from ..core.diagnosis.text import NotReadableError, toml
from ..core.layout import CONTAINERD_CERTS, K0S_CERTS, K0S_DROP_INS, MICROK8S, MICROK8S_TEMPLATE, default_facts
from ..core.material import checked_pem
from ..core.probing import Target
from ..kube.rest import load_client
from . import examine_record as records
from .cri import Runtime, RuntimeAnswerError
from .detect import find
from .detect_choice import choose
from .environment import Asked as Services, Started, proxies
from .examine_files import Files
from .host import Host
from .live import Live, inspect
from .probe import Probe
from .proxies import Proxies
from .restart import in_flight
from .roots import Contexts
from .service import manager
from .state import State

_PROC = Path("/proc")
_TIMEOUT = 5.0
_THREADS = 32
_DROP_INS = "/etc/containerd/conf.d"
_TEMPLATES = ("config-v3.toml.tmpl", "config.toml.tmpl")


@dataclass(slots=True)
class _Found:
    """What is known of the runtime after it was looked for."""

    name: RuntimeName | None = None
    facts: RuntimeFacts | None = None
    live: Live | None = None
    problem: tuple[str, str] | None = None


class Examiner:
    """Looks at the node whose file system is at ``root``."""

    def __init__(
        self,
        root: Path,
        runtime: RuntimeName | None,
        proc: Path = _PROC,
        timeout: float = _TIMEOUT,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take the root, the runtime (None: find it), where processes are, how long the runtime and each endpoint may
        take to answer, in seconds, and a clock.
        """
        self._now = now
        self._root, self._runtime, self._proc, self._timeout = root, runtime, proc, timeout
        self._host, self._files = Host(root), Files(root)
        self._services = Services(self._service)
        self._notes: list[str] = []
        self._proxies = Proxies({})

    def look(self) -> Node:
        """Give what is on the node, but for the files that TLS settings name."""
        state, problem = records.load(self._host)
        found = self._find(state)
        if found.name is None:
            return Node(host=self._hostname(), problem=found.problem, record=records.Record(problem=problem))
        facts = found.facts or default_facts(found.name)
        if in_flight(state):
            self._notes.append("the runtime is being restarted for a change: look again when that is over")
        self._proxies = self._proxies_of(found, facts)
        node = Node(
            host=self._hostname(),
            name=found.name,
            facts=facts,
            problem=found.problem,
            runs=self._runs(found),
            now=self._now(),
        )
        node = self._certs(self._config(node, facts), facts)
        record = records.read(self._host, self._files, state, node, problem)
        return replace(node, record=record, notes=tuple(self._notes))

    # ---- what runs ---------------------------------------------------------------------------------------------

    def _find(self, state: State) -> _Found:
        live = inspect(self._root, self._proc, self._runtime)
        try:
            name, chosen = choose(self._host, live, self._runtime)
        except ProblemError as error:
            return _Found(problem=_said(error))
        try:
            facts, chosen = find(self._host, live, self._runtime, state, self._services)
        except ProblemError as error:
            known = default_facts(name)
            if name == "containerd" and chosen is not None and chosen.config_file:
                known = replace(known, config_file=chosen.config_file)
            if name in ("k3s", "rke2") and chosen is not None and chosen.data_dir:
                known = replace(known, config_path=f"{chosen.data_dir}/agent/etc/containerd/certs.d")
            if name == "microk8s" and (revision := self._revision()):
                known = replace(known, config_path=f"{MICROK8S}/{revision}/args/certs.d")
            return _Found(name=name, facts=known, live=chosen, problem=_said(error))
        return _Found(name=name, facts=facts, live=chosen)

    def _revision(self) -> str:
        """Give the revision of MicroK8s that is in use, empty if there is none."""
        with contextlib.suppress(ProblemError):
            return posixpath.basename(self._host.link(f"{MICROK8S}/current") or "")
        return ""

    def _service(self, name: str) -> Started | None:
        try:
            service = manager(self._root)
            return service.unit(name) if service is not None else None
        except ProblemError as error:
            self._notes.append(f"the service manager cannot be asked: {error.message}")
            return None

    def _runs(self, found: _Found) -> Runs:
        live = found.live
        if live is None:
            # Of a disk that is only mounted somewhere, nothing runs.
            return Runs(state="Missing" if self._root == Path("/") else "Unknown")
        runs = Runs(state=live.state, socket=live.socket, unit=live.unit)
        with contextlib.suppress(ProblemError):
            runs = replace(runs, started=self._host.modified(live.socket) or 0)
        if live.state == "Hidden":
            self._notes.append(f"the process at {live.socket} cannot be seen from here")
        if live.state not in ("Listening", "Hidden"):
            return replace(runs, started=0)
        try:
            health = Runtime(self._root / live.socket.lstrip("/"), self._timeout).health()
        except RuntimeAnswerError as error:
            return replace(runs, refused=error.message)
        return replace(runs, version=health.version, ready=health.ready, message=health.message)

    def _proxies_of(self, found: _Found, facts: RuntimeFacts) -> Proxies:
        started = self._services(found.live.unit) if found.live is not None and found.live.unit else None
        try:
            return Proxies(proxies(started, self._host, facts))
        except ProblemError as error:
            self._notes.append(f"the environment of the runtime cannot be read: {error.message}")
            return Proxies({})

    def _hostname(self) -> str:
        words = (self._files.read("/etc/hostname").text or "").split()
        return words[0] if words else ""

    # ---- files -------------------------------------------------------------------------------------------------

    def _config(self, node: Node, facts: RuntimeFacts) -> Node:
        """Add the configuration of containerd, and what else the runtime reads."""
        read = self._files.read
        others: list[File] = []
        path = ""
        if facts.name == "containerd":
            path = facts.config_file
        elif facts.name in ("k3s", "rke2"):
            folder = posixpath.dirname(facts.config_path)
            path = f"{folder}/config.toml"
            others = [read(facts.registries_file), *self._settings_of(facts)]
            others += [read(f"{folder}/{name}") for name in _TEMPLATES]
        elif facts.name == "microk8s":
            args = posixpath.dirname(facts.config_path or facts.config_file)
            path = f"{args}/containerd.toml"
            others = [read(f"{args}/{MICROK8S_TEMPLATE}")]
            path = path if read(path).text is not None else others[0].path
        elif facts.name == "k0s":
            path = facts.config_file
        else:
            others = [read("/etc/containers/registries.conf")]
            others += self._files.matching("/etc/containers/registries.conf.d/*.conf")
        config = read(path) if path else None
        drop_ins: tuple[File, ...] = ()
        if facts.name == "k0s":
            drop_ins = tuple(self._files.matching(f"{K0S_DROP_INS}/*.toml"))
        elif config is not None and config.text is not None:
            drop_ins = tuple(self._imported(config))
        beside = self._files.matching(f"{_DROP_INS}/*.toml") if facts.name == "containerd" else ()
        known = {file.path for file in drop_ins}
        return replace(
            node,
            config=config,
            drop_ins=drop_ins,
            beside=tuple(file for file in beside if file.path not in known),
            others={file.path: file for file in others},
        )

    def _settings_of(self, facts: RuntimeFacts) -> list[File]:
        """Give config.yaml with its drop-ins."""
        main = facts.config_file or f"/etc/rancher/{facts.name}/config.yaml"
        return [
            self._files.read(main),
            *self._files.matching(f"{main}.d/*.yaml"),
            *self._files.matching(f"{main}.d/*.yml"),
        ]

    def _imported(self, config: File) -> Iterable[File]:
        """Give what a configuration imports, once each; a relative path starts from its directory."""
        try:
            imports = toml(config.text or "").get("imports")
        except NotReadableError:
            return
        seen = {config.path}
        for pattern in imports if isinstance(imports, list) else ():
            for file in self._files.matching(posixpath.join(posixpath.dirname(config.path), str(pattern))):
                if file.path not in seen:
                    seen.add(file.path)
                    yield file

    def _certs(self, node: Node, facts: RuntimeFacts) -> Node:
        """Add the directories that containerd reads, or would if it were told to."""
        if facts.name in ("k3s", "rke2", "microk8s"):
            paths: tuple[str, ...] = (facts.config_path,) if facts.config_path else ()
        elif facts.name == "crio":
            paths = ()
        else:
            files = [file for file in (node.config, *node.drop_ins) if file is not None and file.text is not None]
            found = settings(files, node.runs.version)
            usual = CONTAINERD_CERTS if facts.name == "containerd" else K0S_CERTS
            paths = found.paths or found.unset or (usual,)
        absolute = tuple(dict.fromkeys(path.rstrip("/") for path in paths if path.startswith("/")))
        certs = tuple(self._files.certs(path) for path in absolute)
        return replace(node, certs=certs, old_certs=tuple(self._old(facts)) if facts.name == "microk8s" else ())

    def _old(self, facts: RuntimeFacts) -> Iterable[Certs]:
        """Give, of the revisions of MicroK8s that are not in use, what was written after they went out of use."""
        try:
            since = self._host.modified(f"{MICROK8S}/current") or 0
            names = self._host.names(MICROK8S)
        except ProblemError:
            return
        for name in names:
            path = f"{MICROK8S}/{name}/args/certs.d"
            if name not in ("current", "common") and path != facts.config_path:
                found = self._files.certs(path)
                new = (item for item in found.folders if item.hosts is not None and item.hosts.modified > since)
                yield replace(found, folders=tuple(new))

    # ---- what the files name -----------------------------------------------------------------------------------

    def tls_files(self, node: Node, paths: Iterable[str], pairs: Iterable[tuple[str, str]]) -> Node:
        """Give the node with those files, and with the pairs of certificate and key that do not belong together."""
        files = {path: self._files.read(path) for path in paths}
        wrong = tuple(pair for pair in pairs if _mismatched(*(files[path].text or "" for path in pair)))
        return replace(node, tls=files, mismatched=wrong)

    def ask(self, node: Node, targets: Iterable[Target]) -> Mapping[str, Asked]:
        """Ask endpoints as the runtime would, by their URLs, many at a time."""
        probe = Probe(Contexts(self._root), self._timeout)

        def one(target: Target) -> Asked:
            proxy = self._proxies.for_url(target.url)
            shown = str(proxy) if proxy is not None else ""
            result = probe(target, self._proxies)
            if result is None:
                return Asked(url=target.url, proxy=shown, known=False)
            return Asked(
                url=target.url, reachable=result.reachable, reason=result.reason, message=result.message, proxy=shown
            )

        wanted = list(targets)
        if not wanted:
            return {}
        with ThreadPoolExecutor(min(_THREADS, len(wanted))) as pool:
            return {found.url: found for found in pool.map(one, wanted)}


def _mismatched(certificate: str, key: str) -> bool:
    """Tell whether two texts that can be read are not of one pair."""
    try:
        pair = checked_pem(certificate.encode(), "CERTIFICATE"), checked_pem(key.encode(), "PRIVATE KEY")
    except ValueError:
        return False
    try:
        load_client(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), *pair)
    except (ssl.SSLError, OSError):
        return True
    return False


def _said(error: ProblemError) -> tuple[str, str]:
    """Give reason and message, without the word that says that it is about the node."""
    if isinstance(error, InvalidError):
        return error.reason, error.detail
    return error.reason, error.message
