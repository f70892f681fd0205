"""The whole import: which format a file has, the drafts of all files together, and a check of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...api.errors import InvalidError
from . import containers, cri, docker, hosts, k3s, k3s_check
from .documents import Document, Objects
from .draft import Drafts, Options, Read, wrong
from .reading import read_toml, text_of

MAX_REGISTRIES = 1000
RUNTIMES = ("k3s", "rke2", "microk8s", "containerd", "crio", "docker", "auto")


@dataclass(frozen=True, slots=True)
class Given:
    """One path of the command line: the bytes of a file, or the directories of a certs.d tree with their files."""

    path: str
    content: bytes | Mapping[str, Mapping[str, bytes]]

    def __repr__(self) -> str:
        return f"Given({self.path})"


@dataclass(frozen=True, slots=True)
class Imported:
    """The objects, materials first, and what belongs to none of them."""

    documents: tuple[Document, ...]
    notes: tuple[str, ...]

    def all_notes(self) -> list[str]:
        """Every note, each with the object that it is about."""
        about = [
            f"RegistryMirror {item.body['metadata']['name']}: {note}" for item in self.documents for note in item.notes
        ]
        return [*self.notes, *about]


def convert(given: Sequence[Given], read: Read, options: Options, namespace: str) -> Imported:
    """Give the objects for all files together.

    Takes the files, a callable for the files that they name, what the command line says about the node, and the
    namespace for Secrets and ConfigMaps. Raises InvalidError that names file and field; then there is no result.
    """
    whole = Drafts()
    originals = []
    for item in given:
        found = _drafts(item, read, options)
        size = max(len(found.items), len(found.hosts))
        if size > MAX_REGISTRIES:
            raise wrong(item.path, "", f"{size} registries", f"write at most {MAX_REGISTRIES}")
        whole.items += found.items
        whole.notes += found.notes
        whole.hosts.update(found.hosts)
        if found.original is not None:
            originals.append(found)
    if whole.hosts or not originals:
        # What K3s says is complete as it is, and an entry without endpoints has a meaning there.
        kept = [draft for draft in whole.items if any(draft in item.items for item in originals)]
        whole.items = [draft for draft in whole.items if draft not in kept]
        cri.apply_hosts(whole, given[0].path)
        whole.items = kept + whole.items
    _once_each(whole)
    objects = Objects(namespace)
    for draft in sorted(whole.items, key=lambda item: item.registry):
        objects.mirror(draft)
    notes = list(dict.fromkeys(whole.notes))
    if len(originals) == 1 and len(given) == 1 and not objects.missing:
        notes += k3s_check.differences(objects.resolved(), originals[0], options)
    if not objects.mirrors:
        notes.append("nothing to import: no object is needed for what the files say")
    return Imported((*objects.materials, *objects.mirrors), tuple(notes))


def _once_each(whole: Drafts) -> None:
    seen: dict[str, str] = {}
    for draft in whole.items:
        if draft.registry in seen:
            expected = f"it is in {seen[draft.registry]} too: import one of them, or make them agree first"
            raise wrong(draft.origin, "", draft.registry, expected)
        seen[draft.registry] = draft.origin


def _drafts(item: Given, read: Read, options: Options) -> Drafts:
    if not isinstance(item.content, bytes):
        return hosts.certs_d(item.path, item.content, read)
    text = text_of(item.path, item.content)
    formats: dict[str, Callable[[], Drafts]] = {
        "k3s": lambda: k3s.registries_yaml(item.path, text, read, options),
        "rke2": lambda: k3s.registries_yaml(item.path, text, read, options),
        "containerd": lambda: cri.config_toml(item.path, text, read),
        "microk8s": lambda: cri.config_toml(item.path, text, read),
        "crio": lambda: containers.registries_conf(item.path, text),
        "docker": lambda: docker.daemon_json(item.path, text),
    }
    return formats[options.runtime if options.runtime != "auto" else recognise(item.path, text)]()


def recognise(path: str, text: str) -> str:
    """Give the runtime whose file this is, by its name, else by its content; raises InvalidError if neither says."""
    end = path.rpartition("/")[2].rpartition(".")[2].lower()
    by_name = {"yaml": "k3s", "yml": "k3s", "json": "docker", "conf": "crio"}
    if end in by_name:
        return by_name[end]
    if text.lstrip().startswith("{"):
        return "docker"
    try:
        table = read_toml(path, text)
    except InvalidError:
        if end == "toml":
            raise
        table = None
    if table is not None and ("plugins" in table or "version" in table):
        return "containerd"
    if table is not None and any("registr" in key for key in table):
        return "crio"
    if table is None and any(line.startswith(("mirrors:", "configs:")) for line in text.splitlines()):
        return "k3s"
    raise wrong(path, "", "a file of no known format", "say with --runtime whose file it is")
