"""Whether a change takes a restart must follow from what differs, and from nothing else."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from registry_mirror.core.bundle import Rendered
from registry_mirror.core.compare import Comparison, compare
from registry_mirror.core.layout import layout
from registry_mirror.core.render import render
from registry_mirror.core.resolve import ResolvedMirror
from tests.pure.builders import CONTAINERD, EMBEDDED, K3S_CERTS, TOKEN, USER, endpoint, k3s, mirror, pem, tls

NEW = k3s(containerd_version="2.1.4-k3s1")
OLD = k3s("v1.30.10+k3s1", containerd_version="1.7.23-k3s2")
REGISTRIES = "/etc/rancher/k3s/registries.yaml"
HOSTS = f"{K3S_CERTS}/quay.io/hosts.toml"
ONE = mirror("quay.io", "https://one.example.com")
TWO = mirror("quay.io", "https://two.example.com")
SECRET = mirror("quay.io", endpoint("https://one.example.com", credentials=USER))


def effects(found: Comparison) -> dict[str, tuple[str, str]]:
    """What happens to each path."""
    return {item.path: (item.change, item.effect) for item in found.differences}


def test_nothing_differs_between_equal_renders() -> None:
    assert compare(render(NEW, [ONE]), render(NEW, [ONE]), layout(NEW)) == Comparison((), ())


def test_an_endpoint_is_live_and_what_the_next_start_reads_repeats_it() -> None:
    found = compare(render(NEW, [ONE]), render(NEW, [TWO]), layout(NEW))
    assert effects(found) == {HOSTS: ("changed", "live"), REGISTRIES: ("changed", "repeats")}
    assert found.waiting == ()


def test_the_first_object_adds_files_and_the_last_removes_them() -> None:
    nothing = Rendered(())
    added = compare(nothing, render(NEW, [ONE]), layout(NEW))
    assert effects(added) == {HOSTS: ("added", "live"), REGISTRIES: ("added", "repeats")}
    removed = compare(render(NEW, [ONE]), nothing, layout(NEW))
    assert effects(removed) == {HOSTS: ("removed", "live"), REGISTRIES: ("removed", "repeats")}


def test_a_password_is_live_where_the_header_carries_it_and_takes_a_restart_before_containerd_2_1() -> None:
    live = compare(render(NEW, [ONE]), render(NEW, [SECRET]), layout(NEW))
    assert live.waiting == ()
    assert effects(live)[REGISTRIES] == ("changed", "repeats")
    late = compare(render(OLD, [ONE]), render(OLD, [SECRET]), layout(OLD))
    assert late.waiting == ("credentials for one.example.com",)
    assert effects(late)[HOSTS] == ("changed", "live")
    assert effects(late)[REGISTRIES] == ("changed", "restart")


def test_taking_a_setting_away_waits_for_a_start_as_well() -> None:
    found = compare(render(OLD, [SECRET]), render(OLD, [ONE]), layout(OLD))
    assert found.waiting == ("credentials for one.example.com",)
    assert effects(found)[REGISTRIES] == ("changed", "restart")


def test_a_setting_that_waits_already_does_not_make_the_next_change_wait() -> None:
    more = [SECRET, mirror("ghcr.io", "https://three.example.com")]
    found = compare(render(OLD, [SECRET]), render(OLD, more), layout(OLD))
    assert found.waiting == ()
    assert effects(found)[REGISTRIES] == ("changed", "repeats")


@pytest.mark.parametrize(
    ("wanted", "waiting"),
    [
        (mirror("quay.io", endpoint("https://one.example.com", credentials=TOKEN)), "credentials for one.example.com"),
        (mirror("ghcr.io"), "sharing of ghcr.io through the embedded registry"),
    ],
)
def test_what_only_a_start_brings_into_force_is_named(wanted: ResolvedMirror, waiting: str) -> None:
    node = k3s(containerd_version="2.1.4-k3s1", embedded_registry=EMBEDDED)
    before = render(node, [ONE])
    after = render(node, [wanted] if wanted.registry == "quay.io" else [ONE, wanted])
    assert waiting in compare(before, after, layout(node)).waiting


def test_on_containerd_every_file_of_certs_d_is_live() -> None:
    wanted = mirror("quay.io", endpoint("https://one.example.com", credentials=USER, tls=tls(ca=pem("ca-one.crt"))))
    found = compare(render(CONTAINERD, [TWO]), render(CONTAINERD, [wanted]), layout(CONTAINERD))
    assert found.waiting == ()
    assert {effect for _, effect in effects(found).values()} == {"live"}
    assert {change for change, _ in effects(found).values()} == {"added", "changed"}


def test_the_first_mirror_on_a_containerd_without_config_path_takes_a_restart_and_the_second_none() -> None:
    node = replace(CONTAINERD, config_path="", config_schema=3)
    first = compare(Rendered(()), render(node, [ONE]), layout(node))
    assert first.waiting == ("config_path of containerd",)
    assert effects(first)["/etc/containerd/config.toml"] == ("added", "restart")
    second = compare(render(node, [ONE]), render(node, [TWO]), layout(node))
    assert second.waiting == ()
    assert set(effects(second).values()) == {("changed", "live")}


def test_a_change_of_mode_alone_is_a_change() -> None:
    one = render(CONTAINERD, [ONE])
    other = Rendered(tuple(type(file)(path=file.path, content=file.content, mode=0o600) for file in one.files))
    assert [item.change for item in compare(one, other, layout(CONTAINERD)).differences] == ["changed"]
