"""`registry-mirror seed` with the real skopeo: fifty images from one registry with TLS and passwords to another, over a
run that is killed; through an archive; and a real node that then pulls all of them while the first one is down.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry_mirror.seed.archive import Reader
from tests.harness.cluster import mirror
from tests.harness.cri import CRI
from tests.harness.images import Image, make_image, make_index, make_layer
from tests.harness.node import Node
from tests.harness.pytest_support import require_skopeo
from tests.harness.registries import Registries, Registry

COUNT = 50
PASSWORD = "no-word-of-a-command-line"
TIMEOUT = 120.0
BASE = make_layer({"base": (os.urandom(50_000), 0o644)})
KINDS: tuple[Callable[[], Image], ...] = (
    lambda: make_image(base=BASE),
    lambda: make_image(base=BASE, docker=True),
    lambda: make_index(base=BASE),
    lambda: make_index(docker=True),
    make_image,
)
# Where the objects have nodes look: a path of the endpoint, and a rewrite.
PLACE = "mirrors/k3s"


@dataclass(frozen=True)
class Scene:
    """The registries, the images by the name that a node asks for, and how to call the program."""

    upstream: Registry
    private: Registry
    far: Registry
    images: Mapping[str, Image]
    work: Path
    environment: Mapping[str, str]
    ca: str

    def path(self, name: str, content: str) -> str:
        """Write a file, and give its path."""
        (self.work / name).write_text(content)
        return str(self.work / name)

    def words(self, *words: str) -> list[str]:
        """Give the program's command line; sources are the upstream registry with its password."""
        source = ("--from-authfile", str(self.work / "from.json"), "--from-ca", self.ca)
        return [sys.executable, "-m", "registry_mirror.cli.main", "seed", *words, *source]

    def seed(self, *words: str, code: int = 0) -> str:
        """Run it to its end, and give what it prints."""
        done = subprocess.run(
            self.words(*words), capture_output=True, text=True, env=dict(self.environment), timeout=TIMEOUT
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + (done.stderr if code else "")

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start it in a process group of its own."""
        return subprocess.Popen(
            self.words(*words), stderr=subprocess.PIPE, text=True, env=dict(self.environment), start_new_session=True
        )

    def shown(self, text: str) -> str:
        """What is printed, with names for addresses, and without what is another one each time."""
        for registry in (self.upstream, self.private, self.far):
            text = text.replace(registry.address, f"{registry.name}.test")
        text = re.sub(r"sha256:[0-9a-f]{12}\b", "sha256:…", text)
        return re.sub(r"[0-9.]+ KiB", "… KiB", re.sub(r" +", " ", text))


def auth(registry: Registry, pair: str) -> str:
    return json.dumps({"auths": {registry.address: {"auth": base64.b64encode(pair.encode()).decode()}}})


@pytest.fixture(scope="module")
def scene(
    registries: Registries, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Scene]:
    work = tmp_path_factory.mktemp("seed")
    path = require_skopeo(pytestconfig, work / "bin")
    upstream = registries.tls("upstream", passwords={"reader": "r"})
    private = registries.tls("private", passwords={"robot": PASSWORD})
    far = registries.tls("far", passwords={"robot": PASSWORD})
    images = {}
    for number in range(COUNT):
        image = upstream.push(f"team/app{number:02}", "1", KINDS[number % len(KINDS)]())
        digest = {5: f":1@{image.digest}", 6: f"@{image.digest}", 7: f"@{image.digest}"}.get(number, ":1")
        images[f"{upstream.address}/team/app{number:02}{digest}"] = image
    for name in ("home", "tmp"):
        (work / name).mkdir()
    # Nothing of the machine's own: neither its credentials nor its proxies.
    environment = {
        **{"PATH": f"{path}:{os.environ['PATH']}", "HOME": str(work / "home"), "TMPDIR": str(work / "tmp")},
        **{"PYTHONPATH": os.pathsep.join(sys.path)},
    }
    found = Scene(upstream, private, far, images, work, environment, str(registries.authority.certificate))
    found.path("from.json", auth(upstream, "reader:r"))
    found.path("images.txt", "# what k3s-images.txt looks like\n\n" + "\n".join(images) + "\n")
    found.path("mirrors.yaml", json.dumps({"kind": "List", "items": objects(found)}))
    far_objects = objects(found)
    far_objects[0]["spec"]["endpoints"][0]["url"] = f"{far.url}/v2/copy"
    del far_objects[0]["spec"]["rewrites"]
    found.path("far.yaml", json.dumps({"kind": "List", "items": far_objects}))
    yield found
    assert list((work / "tmp").glob("registry-mirror-seed-*")) == []


def objects(scene: Scene) -> list[dict[str, Any]]:
    tls = {"caRef": {"kind": "ConfigMap", "name": "private-ca"}}
    body = mirror("upstream", scene.upstream.address, f"{scene.private.url}/v2/mirrors")
    body["spec"]["endpoints"][0] |= {"tls": tls, "credentialsRef": {"name": "robot"}}
    body["spec"] |= {"rewrites": [{"pattern": "^(.*)$", "replacement": "k3s/$1"}], "upstream": {"fallback": "Deny"}}
    secret = {
        "kind": "Secret",
        "metadata": {"name": "robot"},
        "stringData": {"username": "robot", "password": PASSWORD},
    }
    config = {"metadata": {"name": "private-ca"}, "data": {"ca.crt": Path(scene.ca).read_text()}}
    return [body, {"apiVersion": "v1", **secret}, {"apiVersion": "v1", "kind": "ConfigMap", **config}]


def tags(registry: Registry, place: str) -> dict[str, str]:
    """The digest of each repository's tag in a registry's storage, below a path."""
    repositories = registry.storage / "docker/registry/v2/repositories" / place
    links = repositories.glob("team/*/_manifests/tags/1/current/link")
    return {str(link.relative_to(repositories).parents[4]): link.read_text() for link in links}


def revisions(registry: Registry, place: str) -> set[str]:
    """The digests of all manifests that a registry has below a path."""
    repositories = registry.storage / "docker/registry/v2/repositories" / place
    return {f"sha256:{link.parent.name}" for link in repositories.glob("team/*/_manifests/revisions/sha256/*/link")}


def tagged(scene: Scene) -> dict[str, str]:
    """What `tags` gives when everything is there; two images have no tag."""
    named = ((name.partition("/")[2], image) for name, image in scene.images.items())
    return {name.partition(":1")[0]: image.digest for name, image in named if ":1" in name.partition("@")[0]}


def wait(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def lines(group: int) -> list[str]:
    """The command lines of all processes of a group."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(process.name)) == group:
                found.append((process / "cmdline").read_text().replace("\0", " ").strip())
    return [line for line in found if line]


def kill(scene: Scene, words: tuple[str, ...], when: Callable[[], object]) -> None:
    """Start the program, and end it and all that it runs as a loss of power would."""
    process = scene.start(*words)
    try:
        wait(when, "it has done some of its work")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    for left in (scene.work / "tmp").iterdir():
        assert left.stat().st_mode & 0o077 == 0
        shutil.rmtree(left)


def writes(registry: Registry) -> set[str]:
    """The repositories into which something was written, as the access log has it."""
    found = (item.path for item in registry.requests() if item.method in ("POST", "PUT", "PATCH"))
    return {re.sub(r"^/v2/|/(?:blobs|manifests)/.*$", "", path) for path in found}


DRY = """\
IMAGE DIGEST DESTINATION STATE SIZE
upstream.test/team/app01:1 sha256:… private.test/mirrors/k3s/team/app01:1 to copy … KiB
upstream.test/team/app02:1 sha256:… private.test/mirrors/k3s/team/app02:1 to copy … KiB
upstream.test/team/app04:1 sha256:… private.test/mirrors/k3s/team/app04:1 to copy … KiB

3 images (… KiB): 3 to copy
"""
DONE = """\
50 images (… KiB): {copied} copied, {there} there already
50 of 50 images resolve through https://private.test/v2/mirrors
"""


def test_a_dry_run_says_what_would_go_where(scene: Scene) -> None:
    chosen = [name for name in scene.images if re.search(r"app0[124]:1$", name)]
    words = (*chosen, "--to", scene.private.address, "-f", str(scene.work / "mirrors.yaml"))
    assert scene.shown(scene.seed(*words, "--dry-run")) == DRY
    assert not writes(scene.private)


def test_fifty_images_are_copied_over_a_run_that_is_killed(scene: Scene) -> None:
    to = ("--to", scene.private.address, "-f", str(scene.work / "mirrors.yaml"))
    words = ("--from-file", str(scene.work / "images.txt"), *to)
    kill(scene, words, lambda: len(tags(scene.private, PLACE)) >= 12)
    before = tags(scene.private, PLACE)
    assert 12 <= len(before) < len(tagged(scene))
    # What was in the making has no tag; what has one is whole.
    assert before.items() <= tagged(scene).items()
    present = revisions(scene.private, PLACE)
    there = sum(image.digest in present for image in scene.images.values())
    scene.private.forget()
    said = scene.shown(scene.seed(*words))
    copied = int(re.findall(r"(\d+) copied", said)[0])
    assert said == DONE.format(copied=copied, there=COUNT - copied)
    assert there >= COUNT - copied >= len(before)
    # Nothing is written that was there.
    assert writes(scene.private).isdisjoint(f"{PLACE}/{name}" for name in before)
    assert tags(scene.private, PLACE) == tagged(scene)
    assert {image.digest for image in scene.images.values()} <= revisions(scene.private, PLACE)
    scene.private.forget()
    assert scene.shown(scene.seed(*list(scene.images)[:5], *to)).startswith("5 images (… KiB): 5 there already")
    assert not writes(scene.private)


def test_through_an_archive(scene: Scene) -> None:
    file = scene.work / "images.tar"
    words = ("--from-file", str(scene.work / "images.txt"), "--archive", str(file))
    blobs = scene.work / "images.tar.partial/blobs/sha256"
    kill(scene, words, lambda: blobs.is_dir() and len(list(blobs.iterdir())) >= 40)
    assert not file.exists()
    said = scene.seed(*words)
    assert re.fullmatch(r"50 images \(.*\): \d+ copied, [1-9]\d* there already\nwritten to .*/images.tar\n", said)
    assert not blobs.parents[1].exists()
    target = ("--archive", str(file), "--to", scene.far.address, "-f", str(scene.work / "far.yaml"))
    said = scene.shown(scene.seed(*target))
    assert said == "50 images (… KiB): 50 copied\n50 of 50 images resolve through https://far.test/v2/copy\n"
    assert tags(scene.far, "copy") == tagged(scene)
    scene.far.forget()
    said = scene.shown(scene.seed(*target, *list(scene.images)[:2]))
    assert said.startswith("2 images (… KiB): 2 there already\n")
    assert not writes(scene.far)


def test_chosen_platforms_make_an_index_of_their_own(scene: Scene) -> None:
    image = next(name for name in scene.images if "app03" in name)
    target = ("--to", f"{scene.far.address}/arm", *access(scene), "--platform", "linux/arm64", "-o", "json")
    for state in ("Copied", "There"):
        (found,) = json.loads(scene.seed(image, *target))["images"]
        assert found["state"] == state
    assert found["digest"] != scene.images[image].digest
    (arm,) = [item.digest for item in scene.images[image].platforms if b"arm64" in b"".join(item.blobs.values())]
    assert revisions(scene.far, "arm") == {found["digest"], arm}
    pinned = next(name for name in scene.images if "app07" in name)
    said = scene.seed(image, pinned, *target, "--platform", "linux/s390x", code=1)
    assert "it has no linux/s390x: it has linux/amd64, linux/arm64" in said
    said = scene.seed(pinned, *target, code=1)
    assert "it is named by its digest, which --platform would change" in said


def access(scene: Scene) -> tuple[str, ...]:
    """How the far registry is spoken to without objects."""
    return "--to-ca", scene.ca, "--to-authfile", scene.path("far.json", auth(scene.far, f"robot:{PASSWORD}"))


def test_what_nodes_would_not_get_is_said_and_what_fails_keeps_nothing_else_back(scene: Scene) -> None:
    body, _, ca = objects(scene)
    endpoint = {"url": f"{scene.far.url}/v2/copy", "tls": {"caRef": {"kind": "ConfigMap", "name": "private-ca"}}}
    body["spec"] = {"registry": scene.upstream.address, "endpoints": [endpoint]}
    path = scene.path("open.yaml", json.dumps({"kind": "List", "items": [body, ca]}))
    image, missing = next(iter(scene.images)), f"{scene.upstream.address}/team/none:1"
    words = ("--to", scene.far.address, *access(scene), "-f", path)
    said = scene.shown(scene.seed(image, *words, code=4))
    assert said.startswith("1 image (… KiB): 1 ")
    assert "\n0 of 1 image resolve through https://far.test/v2/copy\n" in said
    assert " not resolved: upstream.test/team/app00:1: it answers 401 without credentials" in said
    said = scene.shown(scene.seed(image, missing, *words, code=1))
    assert "failed: upstream.test/team/none:1: " in said
    assert "manifest unknown" in said
    assert "1 there already, 1 failed" in said


def test_what_is_secret_is_gone_when_it_is_told_to_end(scene: Scene) -> None:
    scene.private.hang()
    try:
        image = next(iter(scene.images))
        words = (image, "--to", scene.private.address, "-f", str(scene.work / "mirrors.yaml"))
        process = scene.start(*words)
        private = scene.work / "tmp"
        wait(lambda: any("--cert-dir=" in line and "mirrors/k3s" in line for line in lines(process.pid)), "it asks")
        assert len(list(private.glob("*/auth.json"))) == len(list(private.glob("*/to-certificates/ca.crt"))) == 1
        assert {path.stat().st_mode & 0o077 for path in private.rglob("*")} == {0}
        assert not any(PASSWORD in line for line in lines(process.pid))
        process.terminate()
        _, said = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 1
        assert "error: stopped: what has been copied stays" in said
        assert list(private.iterdir()) == []
        assert lines(process.pid) == []
    finally:
        scene.private.resume()


def test_a_node_pulls_all_of_them_while_the_first_registry_is_down(scene: Scene, new_node: Node) -> None:
    scene.upstream.stop()
    new_node.write("/root/mirrors.yaml", (scene.work / "mirrors.yaml").read_text(), 0o600)
    words = ("apply", "--local", "-f", "/root/mirrors.yaml")
    done = new_node.run(sys.executable, "-m", "registry_mirror.cli.main", *words, timeout=90.0)
    assert done.returncode == 0, done.stdout + done.stderr
    scene.private.forget()
    cri = CRI(new_node)
    for name in scene.images:
        cri.pull(name)
    asked = {item.path for item in scene.private.requests() if item.status == 200}
    for number in range(COUNT):
        assert any(path.startswith(f"/v2/{PLACE}/team/app{number:02}/manifests/") for path in asked)


def test_ctr_takes_the_archive_and_its_own_is_taken(scene: Scene, new_node: Node) -> None:
    ctr = ("ctr", "--address", new_node.flavour.socket, "--namespace", "imported", "images")
    copy = new_node.path("/var/tmp/images.tar")
    copy.write_bytes((scene.work / "images.tar").read_bytes())
    try:
        new_node.run(*ctr, "import", "/var/tmp/images.tar", timeout=90.0, check=True)
    finally:
        copy.unlink()
    listed = new_node.run(*ctr, "list", "--quiet", check=True).stdout.split()
    assert set(scene.images) <= set(listed)
    names = list(scene.images)[:3]
    exported = new_node.path("/var/tmp/exported.tar")
    # Without --local, ctr may end before all of the file is written (seen with 2.4.2).
    options = ("--local", "--all-platforms")
    try:
        new_node.run(*ctr, "export", *options, "/var/tmp/exported.tar", *names, timeout=90.0, check=True)
        found = Reader(exported)
        sizes = [sum(found.blobs(digest).values()) for digest in found.images.values()]
    finally:
        exported.unlink(missing_ok=True)
    assert {name.name: digest for name, digest in found.images.items()} == {
        name: scene.images[name].digest for name in names
    }
    assert all(sizes)
