"""Files on the host: what is written is whole; what is not a plain file in directories of root is refused."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry_mirror.agent.files import SUFFIX
from registry_mirror.agent.host import Host, HostError, write_all
from registry_mirror.core.bundle import File
from tests.agent import trees

PATH = "/etc/rancher/k3s/registries.yaml"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host below tmp_path; whatever a test does to it, no descriptor stays open."""
    before = trees.descriptors()
    yield Host(tmp_path)
    assert trees.descriptors() == before


def _write(host: Host, path: str = PATH, content: str = "new", mode: int = 0o600) -> None:
    host.stage(path, content.encode(), mode).commit()


def _all(host: Host) -> list[Callable[[], object]]:
    return [
        lambda: host.read(PATH),
        lambda: _write(host),
        lambda: host.remove(PATH, with_directory=False),
        lambda: host.remove(PATH, with_directory=True),
    ]


def test_a_file_is_written_with_its_mode_whatever_the_umask_is(host: Host, tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        (tmp_path / "etc").mkdir(mode=0o755)
        (tmp_path / "etc").chmod(0o755)
        _write(host, "/etc/file", "text", 0o644)
    finally:
        os.umask(old)
    assert trees.snapshot(tmp_path)["/etc/file"] == ("file", 0o644, os.geteuid(), os.getegid(), b"text")


def test_what_is_written_reads_back(host: Host, tmp_path: Path) -> None:
    assert host.read(PATH) is None
    _write(host)
    found = host.read(PATH)
    assert found is not None
    assert (found.content, found.mode) == (b"new", 0o600)
    assert host.names("/etc/rancher/k3s") == ["registries.yaml"]
    assert host.names("/etc/rancher/none") == []
    assert trees.leftovers(tmp_path) == []


def test_what_is_staged_is_not_in_place_and_goes_when_discarded(host: Host, tmp_path: Path) -> None:
    trees.put(tmp_path, PATH, "old")
    before = trees.snapshot(tmp_path)
    staged = host.stage(PATH, b"new", 0o644)
    assert (tmp_path / PATH[1:]).read_text() == "old"
    assert host.names("/etc/rancher/k3s") == ["registries.yaml"]
    assert len(trees.leftovers(tmp_path)) == 1
    staged.discard()
    assert trees.snapshot(tmp_path) == before


def test_the_directory_of_a_hosts_toml_appears_with_it(host: Host, tmp_path: Path) -> None:
    path = trees.hosts("docker.io")
    staged = host.stage(path, b"server = 1", 0o644)
    assert host.names(trees.CERTS) == []
    staged.commit()
    assert host.names(trees.CERTS) == ["docker.io"]
    assert stat.S_IMODE((tmp_path / trees.CERTS[1:] / "docker.io").stat().st_mode) == 0o700


def test_a_link_at_any_component_is_refused(host: Host, tmp_path: Path) -> None:
    for depth in range(1, 5):
        root = tmp_path / str(depth)
        parts = PATH.strip("/").split("/")
        link, target = root.joinpath(*parts[:depth]), root / "elsewhere"
        trees.put(root, f"/elsewhere/{'/'.join(parts[depth:])}" if depth < 4 else "/elsewhere", "theirs")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        before = trees.snapshot(root)
        for action in _all(Host(root)):
            with pytest.raises(HostError, match="symbolic link") as error:
                action()
            assert error.value.reason == "UnsafePath"
        assert trees.snapshot(root) == before


@pytest.mark.parametrize("kind", ["fifo", "device", "socket", "directory", "dangling link"])
def test_what_is_no_regular_file_is_refused_and_left(host: Host, tmp_path: Path, kind: str) -> None:
    where = tmp_path / PATH[1:]
    where.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        match kind:
            case "fifo":
                os.mkfifo(where)
            case "device":
                if os.geteuid() != 0:
                    pytest.skip("only root makes devices")
                os.mknod(where, stat.S_IFCHR | 0o600, os.makedev(1, 3))
            case "socket":
                old = os.getcwd()
                os.chdir(where.parent)
                listener.bind(where.name)
                os.chdir(old)
            case "directory":
                where.mkdir()
            case _:
                where.symlink_to("nowhere")
        before, open_files = trees.snapshot(tmp_path), trees.descriptors()
        for action in _all(host):
            with pytest.raises(HostError) as error:
                action()
            assert error.value.reason == "UnsafePath"
        assert trees.descriptors() == open_files
    assert trees.snapshot(tmp_path) == before


def test_a_directory_that_everyone_may_write_to_is_refused(host: Host, tmp_path: Path) -> None:
    where = trees.put(tmp_path, PATH, "old")
    where.parent.chmod(0o777)
    for action in _all(host):
        with pytest.raises(HostError, match="writable by everyone"):
            action()
    where.parent.chmod(0o1777)
    _write(host)
    assert where.read_text() == "new"


@AS_ROOT
@pytest.mark.parametrize("depth", [0, 1])
def test_a_directory_of_another_user_is_refused(host: Host, tmp_path: Path, depth: int) -> None:
    where = trees.put(tmp_path, PATH, "old")
    os.chown(where.parents[depth], 4242, 4242)
    for action in _all(host):
        with pytest.raises(HostError, match="belongs to user 4242"):
            action()
    assert where.read_text() == "old"


@pytest.mark.parametrize("path", ["/etc/../secret", "/etc/./x/y", "/etc/a\0b/c", "/etc/\ud800/x", "/etc/a\0"])
def test_names_that_are_none_are_refused(host: Host, tmp_path: Path, path: str) -> None:
    (tmp_path / "etc").mkdir()
    for action in (lambda: host.read(path), lambda: _write(host, path), lambda: host.exists(path)):
        with pytest.raises(HostError) as error:
            action()
        assert error.value.reason == "UnsafePath"
        error.value.message.encode()


def test_the_longest_registry_name_fits(host: Host, tmp_path: Path) -> None:
    path = trees.hosts("r" * 255)
    _write(host, path)
    host.remove(path, with_directory=True)
    assert host.names(trees.CERTS) == []
    assert trees.leftovers(tmp_path) == []


def test_a_file_that_is_too_large_is_not_read(host: Host, tmp_path: Path) -> None:
    os.truncate(trees.put(tmp_path, PATH), 5 * 1024 * 1024)
    with pytest.raises(HostError, match="larger than 4 MiB"):
        host.read(PATH)


def test_remove_takes_the_directory_only_if_nothing_else_is_in_it(host: Host, tmp_path: Path) -> None:
    path = trees.hosts("docker.io")
    _write(host, path)
    other = trees.put(tmp_path, f"{trees.CERTS}/docker.io/client.cert", "theirs")
    host.remove(path, with_directory=True)
    assert other.read_text() == "theirs"
    assert host.names(f"{trees.CERTS}/docker.io") == ["client.cert"]
    other.unlink()
    host.remove(path, with_directory=True)
    assert host.names(trees.CERTS) == []
    host.remove(path, with_directory=True)


def test_a_file_that_comes_into_the_directory_as_it_goes_is_kept(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trees.hosts("docker.io")
    _write(host, path)
    rename = os.rename
    late: list[Path] = []

    def renames(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if source == "docker.io" and not late:
            late.append(trees.put(tmp_path, f"{trees.CERTS}/docker.io/client.cert", "theirs"))
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", renames)
    host.remove(path, with_directory=True)
    assert late[0].read_text() == "theirs"
    assert host.names(trees.CERTS) == ["docker.io"]
    assert host.names(f"{trees.CERTS}/docker.io") == ["client.cert"]


def test_leftovers_of_a_killed_run_are_replaced_and_cleaned(host: Host, tmp_path: Path) -> None:
    path = trees.hosts("docker.io")
    for name in (f"{trees.CERTS}/.docker.io{SUFFIX}/hosts.toml", f"/etc/rancher/k3s/.registries.yaml{SUFFIX}"):
        trees.put(tmp_path, name, "torn")
    assert host.names(trees.CERTS) == []
    assert host.read(path) is None
    _write(host)
    _write(host, path)
    assert trees.leftovers(tmp_path) == []
    for name in (f"{trees.CERTS}/.docker.io{SUFFIX}/hosts.toml", f"{trees.CERTS}/docker.io/.hosts.toml{SUFFIX}"):
        trees.put(tmp_path, name, "torn")
    host.clean(path)
    assert trees.leftovers(tmp_path) == []
    assert (tmp_path / path[1:]).read_text() == "new"


def test_an_empty_directory_is_removed_and_a_used_one_is_not(host: Host, tmp_path: Path) -> None:
    where = trees.put(tmp_path, "/etc/a/b/file")
    host.remove_empty("/etc/a/b")
    where.unlink()
    host.remove_empty("/etc/a/b")
    host.remove_empty("/etc/a/b")
    assert sorted(trees.snapshot(tmp_path)) == ["/etc", "/etc/a"]


def test_nothing_is_in_place_if_one_file_cannot_be_staged(host: Host, tmp_path: Path) -> None:
    trees.put(tmp_path, "/etc/one", "old")
    (tmp_path / "etc/two").mkdir()
    before = trees.snapshot(tmp_path)
    with pytest.raises(HostError):
        write_all(host, [File(path="/etc/one", content="new"), File(path="/etc/two", content="new")])
    assert trees.snapshot(tmp_path) == before


def test_a_root_that_is_not_there_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        Host(tmp_path / "none").read("/etc/file")
