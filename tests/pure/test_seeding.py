"""Names of images, lists, manifests, places and collisions: what `registry-mirror seed` works out before it copies."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest

from registry_mirror.api.models import RegistryMirror, Rewrite
from registry_mirror.core.seeding import Reference, images_of, listed, manifest, reduced, reference
from registry_mirror.core.seeding_places import (
    Destination,
    Misplaced,
    destination,
    mirrored,
    plain,
    rewritten,
    settled,
)

HASH = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
TO = Destination("private.test:5000")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.37", "docker.io/library/busybox:1.37"),
        ("rancher/pause:3.6", "docker.io/rancher/pause:3.6"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("registry:5000/app:1", "registry:5000/app:1"),
        ("10.0.0.1:5000/a/b@" + HASH, "10.0.0.1:5000/a/b@" + HASH),
        (f"quay.io/a/b:1@{HASH}", f"quay.io/a/b:1@{HASH}"),
    ],
)
def test_names_are_read_as_kubernetes_reads_them(text: str, name: str) -> None:
    found = reference(text)
    assert found is not None
    assert found.name == name
    assert reference(found.name) == found


@pytest.mark.parametrize(
    "text", ["", "a b", "UPPER/app", "app:", "app@sha256:12", "quay.io/", "-rm", "a/../b", "x" * 600]
)
def test_what_is_no_name_is_none(text: str) -> None:
    assert reference(text) is None


def test_a_list_has_one_image_a_line() -> None:
    text = "# for K3s\n\n docker.io/rancher/pause:3.6 \r\nbusybox # small\n"
    assert list(listed(text)) == [(3, "docker.io/rancher/pause:3.6"), (4, "busybox")]


def test_images_are_found_wherever_pods_are_described() -> None:
    pod = {
        "containers": [{"name": "a", "image": "a"}, {"name": "none"}],
        "initContainers": [{"image": "b"}],
        "ephemeralContainers": [{"image": "c"}],
        "volumes": [{"image": {"reference": "d"}}, {"emptyDir": {}}, {"image": "no image volume"}],
    }
    assert sorted(images_of(pod)) == ["a", "b", "c", "d"]
    job = {"spec": {"jobTemplate": {"spec": {"template": {"spec": pod}}}}}
    unknown = {"kind": "Rollout", "spec": {"strategy": [{"template": {"spec": pod}}]}}
    assert sorted(images_of({"kind": "List", "items": [job, unknown]})) == sorted("abcdabcd")
    assert list(images_of({"spec": {"image": "not of a container"}, "containers": "text"})) == []


def test_hostile_depth_ends() -> None:
    deep: Any = {"containers": [{"image": "a"}]}
    for _ in range(5000):
        deep = {"x": deep}
    assert list(images_of(deep)) == []


def encoded(**body: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, **body}, indent=1).encode()


def index(*platforms: str, kind: str = "application/vnd.oci.image.index.v1+json", child: str = "") -> bytes:
    child = child or "application/vnd.oci.image.manifest.v1+json"
    entries = []
    for platform in platforms:
        os, architecture, variant = (*platform.split("/"), "")[:3]
        names = {"os": os, "architecture": architecture, **({"variant": variant} if variant else {})}
        digest = f"sha256:{hashlib.sha256(platform.encode()).hexdigest()}"
        entries.append({"mediaType": child, "digest": digest, "size": 7, "platform": names})
    return encoded(mediaType=kind, manifests=entries)


def test_a_manifest_is_known_by_the_digest_of_its_bytes() -> None:
    raw = encoded(
        config={"digest": HASH, "size": 10},
        layers=[{"digest": OTHER, "size": 5}, {"digest": HASH, "size": 9, "urls": ["x"]}],
    )
    found = manifest(raw)
    assert found.digest == f"sha256:{hashlib.sha256(raw).hexdigest()}"
    assert [blob.size for blob in found.blobs] == [10, 5]
    assert found.is_oci


def test_dockers_kinds_are_told_from_ocis() -> None:
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    listing = "application/vnd.docker.distribution.manifest.list.v2+json"
    assert not manifest(index("linux/amd64", kind=listing, child=docker)).is_oci
    assert not manifest(index("linux/amd64", child=docker)).is_oci
    assert manifest(index("linux/amd64")).is_oci


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schemaVersion": 1}',
        encoded(mediaType="text/html"),
        encoded(config={"digest": "sha256:../../../etc/passwd", "size": 1}, layers=[]),
        encoded(config={"digest": HASH, "size": -1}, layers=[]),
        encoded(config={"digest": HASH, "size": "x"}, layers=[]),
        encoded(config={"digest": 7, "size": 1}, layers=[]),
        encoded(manifests=[{"digest": f"{HASH}/..", "size": 1}]),
        encoded(manifests=[{}]),
        b"\xff",
    ],
)
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="manifest"):
        manifest(raw)


def test_an_index_of_chosen_platforms_has_them_alone() -> None:
    whole = manifest(index("linux/amd64", "linux/arm/v6", "linux/arm/v7", "unknown/unknown"))
    arm = reduced(whole, ["linux/arm"])
    assert [item.platform for item in arm.instances] == ["linux/arm/v6", "linux/arm/v7"]
    assert manifest(arm.raw) == arm
    assert arm.digest != whole.digest
    assert [item.platform for item in reduced(whole, ["linux/arm/v7", "linux/amd64"]).instances] == [
        "linux/amd64",
        "linux/arm/v7",
    ]
    assert reduced(whole, []) is whole
    only = manifest(index("linux/amd64"))
    assert reduced(only, ["linux/amd64"]) is only
    with pytest.raises(ValueError, match=r"it has no linux/s390x: it has linux/amd64, linux/arm/v6, linux/arm/v7$"):
        reduced(whole, ["linux/amd64", "linux/s390x"])


def a(text: str) -> Reference:
    found = reference(text)
    assert found is not None
    return found


def mirror(name: str, registry: str, *urls: str, created: str = "", priority: int = 0, **spec: Any) -> RegistryMirror:
    body = {
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"registry": registry, "endpoints": [{"url": url} for url in urls], "priority": priority, **spec},
    }
    return msgspec.convert(body, RegistryMirror)


PRIVATE = "https://private.test:5000"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("private.test", ("private.test", "")),
        ("private.test:5000/a/b/", ("private.test:5000", "a/b")),
        ("localhost", ("localhost", "")),
    ],
)
def test_a_destination_is_a_host_and_a_path(text: str, expected: tuple[str, str]) -> None:
    assert destination(text) == Destination(*expected)


@pytest.mark.parametrize(
    "text", ["", "private", "https://private.test", "private.test/UP", "private.test/a:1", "*", "a.test/../b"]
)
def test_what_is_no_destination_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write "):
        destination(text)


def test_without_objects_the_name_of_the_registry_is_left_out() -> None:
    assert plain(a("quay.io/x/y:1"), TO).target == "private.test:5000/x/y:1"
    assert plain(a("busybox"), Destination("private.test", "k3s")).target == "private.test/k3s/library/busybox:latest"
    assert plain(a(f"quay.io/x@{HASH}"), TO).target == f"private.test:5000/x@{HASH}"


@pytest.mark.parametrize(
    ("url", "rewrites", "target"),
    [
        (PRIVATE, [], "private.test:5000/library/busybox:1"),
        (f"{PRIVATE}/v2", [], "private.test:5000/library/busybox:1"),
        (f"{PRIVATE}/v2/proxy/", [], "private.test:5000/proxy/library/busybox:1"),
        (PRIVATE, [{"pattern": "^(.*)$", "replacement": "hub/$1"}], "private.test:5000/hub/library/busybox:1"),
        (f"{PRIVATE}/v2/p", [{"pattern": "^library/", "replacement": ""}], "private.test:5000/p/busybox:1"),
    ],
)
def test_objects_say_where_nodes_look(url: str, rewrites: list[Any], target: str) -> None:
    found = mirrored(a("busybox:1"), TO, [mirror("hub", "docker.io", "https://other.test", url, rewrites=rewrites)])
    assert found.target == target
    assert (found.mirror, found.endpoint) == ("hub", url)


def test_the_object_that_takes_precedence_counts() -> None:
    every = mirror("every", "*", f"{PRIVATE}/v2/every")
    old = mirror("old", "docker.io", f"{PRIVATE}/v2/old", created="2026-01-01T00:00:00Z")
    new = mirror("new", "docker.io", f"{PRIVATE}/v2/new", created="2026-02-01T00:00:00Z")
    high = mirror("high", "docker.io", f"{PRIVATE}/v2/high", created="2026-03-01T00:00:00Z", priority=1)
    elsewhere = mirror("elsewhere", "docker.io", "https://other.test", priority=2)
    image = a("busybox")
    assert mirrored(image, TO, [new, old, every]).mirror == "old"
    assert mirrored(image, TO, [new, old, high, elsewhere, every]).mirror == "high"
    assert mirrored(a("quay.io/x"), TO, [old, every]).mirror == "every"


@pytest.mark.parametrize(
    ("to", "mirrors", "words"),
    [
        (TO, [mirror("quay", "quay.io", PRIVATE)], 'no RegistryMirror of docker.io, and none of "\\*"'),
        (TO, [mirror("hub", "docker.io", "https://other.test")], "nodes look elsewhere"),
        (TO, [mirror("hub", "docker.io", f"{PRIVATE}/proxy/v2")], "does not begin with /v2"),
        (Destination("private.test:5000", "k3s"), [mirror("hub", "docker.io", PRIVATE)], "leave the path out of --to"),
        (
            TO,
            [mirror("hub", "docker.io", PRIVATE, rewrites=[{"pattern": "busybox", "replacement": "Busy Box"}])],
            "which is no name",
        ),
    ],
)
def test_an_image_that_nodes_do_not_look_for_there_is_refused(
    to: Destination, mirrors: list[RegistryMirror], words: str
) -> None:
    with pytest.raises(Misplaced, match=words):
        mirrored(a("busybox"), to, mirrors)


@pytest.mark.parametrize(
    ("pattern", "replacement", "expected"),
    [
        ("(.*)", "p/$1", "p/a/b"),  # Go takes no empty match behind another one
        ("^", "p/", "p/a/b"),
        ("^(?P<first>[a-z]+)/(.*)$", "${first}-$2", "a-b"),
        ("/", "$$", "a$b"),
        ("x", "y", "a/b"),
        ("(z)?a", "q$1", "q/b"),
    ],
)
def test_names_are_rewritten_as_go_would(pattern: str, replacement: str, expected: str) -> None:
    assert rewritten("a/b", [Rewrite(pattern=pattern, replacement=replacement)]) == expected


def test_the_first_rewrite_that_changes_a_name_counts() -> None:
    rules = [Rewrite(pattern=one, replacement=two) for one, two in (("x", "y"), ("a", "c"), ("c", "d"))]
    assert rewritten("a", rules) == "c"


def test_images_that_would_be_one_are_refused_together() -> None:
    images = [a("quay.io/x/app:1"), a("ghcr.io/x/app:1"), a("quay.io/y:1"), a("ghcr.io/y:1"), a("quay.io/z:1")]
    places = [plain(image, TO) for image in images]
    digests = dict(zip(images, (HASH, OTHER, HASH, OTHER, HASH), strict=True))
    with pytest.raises(Misplaced) as caught:
        settled(places, digests)
    assert str(caught.value) == (
        "ghcr.io/x/app:1 and quay.io/x/app:1 are different images, and both would be private.test:5000/x/app:1\n"
        "ghcr.io/y:1 and quay.io/y:1 are different images, and both would be private.test:5000/y:1"
    )
    same = settled(places, dict.fromkeys(images, HASH))
    assert [place.image for place in same] == sorted(images)
    # One whose registry gave nothing is in nobody's way.
    assert settled(places[:2], {images[0]: HASH})[0].image == images[0]


def test_one_that_is_named_by_its_digest_makes_way_for_another_with_the_same_tag() -> None:
    moved, pinned = a("quay.io/app:1"), a(f"quay.io/app:1@{OTHER}")
    found = settled([plain(moved, TO), plain(pinned, TO)], {moved: HASH, pinned: OTHER})
    assert [place.target for place in found] == ["private.test:5000/app:1", f"private.test:5000/app@{OTHER}"]
    (alone,) = settled([plain(pinned, TO)], {pinned: OTHER})
    assert alone.target == "private.test:5000/app:1"
