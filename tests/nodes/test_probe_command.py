"""`registry-mirror probe` on real nodes: what it says that containerd would do is what containerd then does.

The registries' access logs are the witnesses: a pull makes the same requests for the name of the image as the probe
made before it, and the content comes from the host that the probe has named.
"""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from registry_mirror.agent.follow import Follower
from registry_mirror.core.following import Followed
from registry_mirror.core.route import image_of
from tests.harness.cri import CRI, CRIError
from tests.harness.images import Image, make_image
from tests.harness.node import Node
from tests.harness.registries import Registries, Registry
from tests.nodes.hosts import UPSTREAM

REPOSITORY = "team/app"
BASIC = base64.b64encode(b"robot:right").decode()
WRONG = base64.b64encode(b"robot:wrong").decode()


@dataclass
class World:
    """The registries, an image that some of them have, and the CA of the one with TLS."""

    registries: Registries
    one: Registry
    two: Registry
    basic: Registry
    token: Registry
    tls: Registry
    gone: Registry
    image: Image
    ca: str


@pytest.fixture(scope="module")
def world(registries: Registries) -> World:
    made = World(
        registries=registries,
        one=registries.plain("one"),
        two=registries.plain("two"),
        basic=registries.basic("basic", {"robot": "right"}),
        token=registries.token("token", {"robot": {"right"}})[0],
        tls=registries.tls("tls"),
        gone=registries.plain("gone"),
        image=make_image(),
        ca=registries.authority.certificate.read_text(),
    )
    for registry in (made.two, made.basic, made.token, made.tls):
        registry.push(REPOSITORY, "1", made.image)
    made.two.push("proxy/team/app", "1", made.image)
    made.gone.stop()
    return made


@dataclass(frozen=True)
class Case:
    """A file, who is asked for its name (in order), and who serves the image; ``old`` where containerd 1.6 differs."""

    text: Callable[[World], str]
    asked: str
    served: str
    old: str | None = None
    name: str = f"{UPSTREAM}/{REPOSITORY}:1"
    folder: str = UPSTREAM
    files: dict[str, Callable[[World], str]] = field(default_factory=dict)


def host(registry: Registry, *lines: str, path: str = "", header: str = "") -> str:
    url = f"{registry.url}{path}"
    more = f'[host."{url}".header]\nAuthorization = "Basic {header}"\n' if header else ""
    return "\n".join([f'[host."{url}"]', *lines, more])


HEAD = f'server = "https://{UPSTREAM}"\n[host]\n'
CASES = {
    "the second has it": Case(lambda w: HEAD + host(w.one) + host(w.two), "one two", "two"),
    "the first is down": Case(lambda w: HEAD + host(w.gone) + host(w.two), "gone two", "two"),
    "the right password": Case(lambda w: HEAD + host(w.basic, header=BASIC), "basic", "basic"),
    "a wrong password": Case(lambda w: HEAD + host(w.basic, header=WRONG) + host(w.two), "basic two", "two"),
    "a token": Case(
        lambda w: HEAD + host(w.token, header=BASIC) + host(w.two), "token", "token", old="two"
    ),
    "a wrong token": Case(lambda w: HEAD + host(w.token, header=WRONG) + host(w.two), "token two", "two"),
    "a CA beside the file": Case(
        lambda w: HEAD + host(w.tls, 'ca = "own.crt"'), "tls", "tls", files={"own.crt": lambda w: w.ca}
    ),
    "no CA": Case(lambda w: HEAD + host(w.tls) + host(w.two), "tls two", "two"),
    "not verified": Case(lambda w: HEAD + host(w.tls, "skip_verify = true"), "tls", "tls"),
    "only digests from the first": Case(
        lambda w: HEAD + host(w.basic, 'capabilities = ["pull"]', header=BASIC) + host(w.two), "two", "basic"
    ),
    "a path": Case(lambda w: HEAD + host(w.two, "override_path = true", path="/v2/proxy"), "two", "two"),
    "the last is the server": Case(lambda w: f'server = "{w.two.url}"\n[host]\n{host(w.one)}', "one two", "two"),
    "not TOML": Case(lambda w: host(w.two) + "[host", "", ""),
    "no such CA": Case(lambda w: HEAD + host(w.two) + host(w.tls, 'ca = "none.crt"'), "", ""),
    "for all registries": Case(lambda w: host(w.two), "two", "two", folder="_default"),
    "the escaped port": Case(
        lambda w: HEAD + host(w.two), "two", "two", name=f"{UPSTREAM}:5000/{REPOSITORY}:1", folder=f"{UPSTREAM}_5000_"
    ),
    "a digest": Case(
        lambda w: HEAD + host(w.two, 'capabilities = ["pull"]'), "two", "two", name=f"{UPSTREAM}/{REPOSITORY}@"
    ),
}  # fmt: skip
OLD = ("a token", "only digests from the first", "no such CA", "for all registries")


def _clean(node: Node) -> None:
    root = node.path(node.flavour.certs)
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _lay(node: Node, world: World, case: Case) -> None:
    _clean(node)
    folder = f"{node.flavour.certs}/{case.folder}"
    for name, text in {"hosts.toml": case.text, **case.files}.items():
        node.write(f"{folder}/{name}", text(world), mode=0o600)


def _probe(node: Node, name: str, **options: bool) -> Followed:
    wanted = image_of(name)
    assert wanted is not None
    follower = Follower(node.root, "containerd", wanted, 20.0)
    return follower.follow(everyone=options.get("everyone", False), pull=options.get("pull", False))


Questions = dict[str, list[tuple[str, str, int]]]


def _questions(registries: dict[str, Registry], before: Questions | None = None) -> Questions:
    """What each registry was asked, as method, path and status, behind what it had been asked before."""
    found: Questions = {}
    for word, registry in registries.items():
        items = [(item.method, item.path, item.status) for item in registry.requests()]
        found[word] = items[len(before[word]) :] if before is not None else items
    return found


def _about_the_name(asked: Questions, digest: str) -> Questions:
    """The questions that turn the name into a digest: for a tag, those that do not have the digest in them."""
    return {
        word: [item for item in items if item[0] == "HEAD" and digest not in item[1]] for word, items in asked.items()
    }


def _check(node: Node, world: World, case: Case, served: str) -> None:
    digest = world.image.digest
    name = f"{case.name}{digest}" if case.name.endswith("@") else case.name
    words = [word for word in ("one", "two", "basic", "token", "tls") if getattr(world, word).url in case.text(world)]
    registries: dict[str, Registry] = {word: getattr(world, word) for word in words}
    _lay(node, world, case)
    for registry in registries.values():
        registry.forget()
    found = _probe(node, name)
    probed = _questions(registries)
    pulled = True
    try:
        CRI(node).pull(name)
    except CRIError:
        pulled = False
    finally:
        CRI(node).remove(name)
    real = _questions(registries, probed)
    urls = {registry.url: word for word, registry in registries.items()}
    by = urls.get(re.sub("/v2.*", "", found.walk.served_by), "")
    assert (by, pulled) == (served, bool(served)), found
    if case.asked and served == case.served:
        rows = [row for row in found.walk.asked if row.purpose == "resolve" and row.state == "Asked"]
        assert [re.sub("/v2.*", "", row.host) for row in rows] == [
            getattr(world, word).url for word in case.asked.split()
        ]
    unnamed = "" if name.endswith(digest) else digest
    assert _about_the_name(probed, unnamed or "none") == _about_the_name(real, unnamed or "none")
    content = {
        word for word, items in real.items() if any("/blobs/" in path and code == 200 for _, path, code in items)
    }
    assert content == ({served} if served else set())
    fetched = {urls[re.sub("/v2.*", "", row.host)] for row in found.walk.asked if row.purpose == "fetch"}
    asked = {
        word for word, items in real.items() if any(method == "GET" and digest in path for method, path, _ in items)
    }
    assert fetched <= asked


@pytest.mark.parametrize("name", CASES)
def test_containerd_does_what_the_probe_says(world: World, new_node: Node, name: str) -> None:
    _check(new_node, world, CASES[name], CASES[name].served)


@pytest.mark.parametrize("name", OLD)
def test_the_old_containerd_does_what_the_probe_says(world: World, old_node: Node, name: str) -> None:
    case = CASES[name]
    _check(old_node, world, case, case.served if case.old is None else case.old)


def test_a_stale_mirror_is_said(world: World, new_node: Node) -> None:
    world.one.push("team/stale", "1")
    world.two.push("team/stale", "1")
    _lay(new_node, world, Case(lambda w: HEAD + host(w.one) + host(w.two), "", ""))
    found = _probe(new_node, f"{UPSTREAM}/team/stale:1", everyone=True)
    assert found.walk.served_by == f"{world.one.url}/v2"
    assert any("do not agree" in warning for warning in found.warnings)
    assert not _probe(new_node, f"{UPSTREAM}/team/stale:1").warnings


# ---- the command -------------------------------------------------------------------------------------------------


def _command(node: Node, world: World, *words: str) -> tuple[int, str]:
    """The command in the node; addresses, times and digests in what it says are replaced, and widths with them."""
    argv = [sys.executable, "-m", "registry_mirror.cli.main", "probe", *words, "--local"]
    answer = node.run(*argv, timeout=60.0)
    text = answer.stdout + answer.stderr
    for word in ("one", "two", "basic", "token", "tls", "gone"):
        text = text.replace(getattr(world, word).address, f"{word}.test")
    text = re.sub(r"\b[0-9.]+(?:ms|s)\b", "1ms", text).replace(world.image.digest[:19], "sha256:…")
    text = re.sub(r"on port \d+", "on port 5000", text)
    return answer.returncode, "\n".join(re.sub(r"(?<=\S) {2,}", "  ", line) for line in text.splitlines())


GOLDEN = """\
registry.test/team/app:1 on NODE (containerd 2.4.2)
  read /etc/containerd/certs.d/registry.test/hosts.toml

ORDER  ASKED FOR  FROM  ANSWER  LATENCY  DIGEST
1  http://gone.test/v2/team/app  hosts.toml [host]  ConnectionRefused  1ms  -
2  http://one.test/v2/team/app  hosts.toml [host]  404 Missing  1ms  -
3  http://two.test/v2/team/app  hosts.toml [host]  200 Served  1ms  sha256:…
4  https://registry.test/v2/team/app  hosts.toml server  not asked  -  -
  1: it refuses connections on port 5000: is it running there?
  2: it does not have it

served by http://two.test/v2"""


def test_the_text_for_a_person(world: World, new_node: Node) -> None:
    _lay(new_node, world, Case(lambda w: HEAD + host(w.gone) + host(w.one) + host(w.two), "", ""))
    name = f"{UPSTREAM}/{REPOSITORY}:1"
    code, text = _command(new_node, world, name)
    assert text == GOLDEN.replace("NODE", new_node.name)
    assert code == 0


def test_a_pull_says_by_whom_it_was_served_as_far_as_that_is_known(world: World, new_node: Node) -> None:
    _lay(new_node, world, Case(lambda w: HEAD + host(w.two), "", ""))
    name = f"{UPSTREAM}/{REPOSITORY}:1"
    CRI(new_node).remove(name)
    world.two.forget()
    code, text = _command(new_node, world, name, "--pull")
    assert text.splitlines()[-2:] == [
        "pulled in 1ms from http://two.test/v2",
        "  the runtime does not say by whom; this is what the hosts answered just before and after",
    ]
    assert code == 0
    assert world.two.requests("/blobs/")
    again = _probe(new_node, name, pull=True).pull
    assert again is not None
    assert (again.done, again.present, again.served_by) == (True, True, "")
    CRI(new_node).remove(name)


def test_a_mirror_that_hangs_and_nobody_behind_it(world: World, new_node: Node) -> None:
    _lay(new_node, world, Case(lambda w: HEAD + host(w.one, header=BASIC), "", ""))
    world.one.hang()
    try:
        code, text = _command(new_node, world, f"{UPSTREAM}/{REPOSITORY}:1", "--timeout", "2s")
    finally:
        world.one.resume()
    assert "TimedOut" in text
    assert "served by nobody" in text
    assert BASIC not in text
    assert code == 4


def test_without_config_path_its_default_leads_nowhere(world: World, new_node: Node) -> None:
    """containerd 2.2 and later take two directories, and its transfer service these for one (containerd #12415)."""
    before = new_node.read(new_node.flavour.config_path)
    _lay(new_node, world, Case(lambda w: HEAD + host(w.two), "", ""))
    without = re.sub(r"\[plugins[^\n]*\.registry\]\n[^\n]*\n", "", before)
    assert "config_path" not in without
    new_node.write(new_node.flavour.config_path, without)
    try:
        new_node.systemctl("restart", new_node.flavour.unit)
        CRI(new_node).wait()
        found = _probe(new_node, f"{UPSTREAM}/{REPOSITORY}:1")
        world.two.forget()
        with pytest.raises(CRIError):
            CRI(new_node).pull(f"{UPSTREAM}/{REPOSITORY}:1")
        assert not world.two.requests()
    finally:
        new_node.write(new_node.flavour.config_path, before)
        new_node.systemctl("restart", new_node.flavour.unit)
        CRI(new_node).wait()
    assert found.walk.served_by == ""
    assert any("12415" in warning for warning in found.warnings)
