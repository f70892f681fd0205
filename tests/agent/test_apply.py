"""Applying a bundle: what was there is kept, what is no longer wanted goes, and nothing is touched for nothing."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from registry_mirror.agent import state as memory
from registry_mirror.agent.apply import Outcome, apply, check
from registry_mirror.agent.files import SUFFIX
from registry_mirror.agent.host import Host, HostError
from registry_mirror.agent.state import State
from registry_mirror.api.errors import InvalidError
from registry_mirror.core.bundle import Bundle, File
from registry_mirror.core.layout import default_facts
from tests.agent import trees
from tests.agent.trees import DROP_IN, EMPTY, REGISTRIES, TLS, bundle, hosts

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
ONE = bundle("one", {f"{TLS}/ca-1.crt": "ca 1", hosts("docker.io"): "names ca-1", REGISTRIES: "mirrors: {}"})


def _apply(root: Path, wanted: Bundle) -> Outcome:
    host = Host(root)
    return apply(host, memory.load(host), wanted, trees.K3S)[1]


def _state(root: Path) -> State:
    return memory.load(Host(root))


def test_files_are_written_with_their_modes(tmp_path: Path) -> None:
    outcome = _apply(tmp_path, ONE)
    assert outcome == Outcome(written=tuple(file.path for file in ONE.files))
    found = trees.snapshot(tmp_path)
    for file in ONE.files:
        assert found[file.path][1] == file.mode
        assert found[file.path][4] == file.content.encode()
    assert _state(tmp_path).revision == "one"
    assert trees.leftovers(tmp_path) == []


def test_nothing_at_all_is_written_when_nothing_differs(tmp_path: Path) -> None:
    trees.put(tmp_path, REGISTRIES, "theirs")
    _apply(tmp_path, ONE)
    before = trees.inodes(tmp_path)
    assert _apply(tmp_path, ONE) == Outcome()
    assert trees.inodes(tmp_path) == before


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    _apply(tmp_path, ONE)
    before = trees.inodes(tmp_path)
    files = {file.path: file.content for file in ONE.files} | {REGISTRIES: "mirrors: {a: {}}"}
    assert _apply(tmp_path, bundle("two", files)).written == (REGISTRIES,)
    after = trees.inodes(tmp_path)
    assert before[REGISTRIES] != after[REGISTRIES]
    assert before[hosts("docker.io")] == after[hosts("docker.io")]


@AS_ROOT
def test_originals_come_back_with_mode_and_owner(tmp_path: Path) -> None:
    trees.put(tmp_path, REGISTRIES, "theirs", 0o640, (42, 43))
    trees.put(tmp_path, hosts("docker.io"), "also theirs", 0o604)
    before = trees.snapshot(tmp_path)
    _apply(tmp_path, ONE)
    assert trees.snapshot(tmp_path)[REGISTRIES] == ("file", 0o600, 0, 0, b"mirrors: {}")
    outcome = _apply(tmp_path, EMPTY)
    assert set(outcome.restored) == {file.path for file in ONE.files}
    assert trees.snapshot(tmp_path) == before
    assert _state(tmp_path).originals == {}
    assert Host(tmp_path).names(f"{memory.DIRECTORY}/originals", unfinished=True) == []


def test_directories_that_were_not_there_go_again_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "etc/rancher/k3s").mkdir(parents=True)
    (tmp_path / trees.CERTS[1:] / "docker.io").mkdir(parents=True)
    before = trees.snapshot(tmp_path)
    later = {file.path: file.content for file in ONE.files} | {f"{TLS}/ca-2.crt": "ca 2", DROP_IN: "x: true"}
    _apply(tmp_path, ONE)
    _apply(tmp_path, bundle("two", later))
    _apply(tmp_path, bundle("three", {f"{TLS}/ca-2.crt": "ca 2", DROP_IN: "x: true", hosts("quay.io"): "q"}))
    assert _apply(tmp_path, EMPTY).restored
    assert trees.snapshot(tmp_path) == before


def test_a_bare_node_is_bare_again(tmp_path: Path) -> None:
    _apply(tmp_path, ONE)
    _apply(tmp_path, EMPTY)
    assert trees.snapshot(tmp_path) == {}


def test_a_directory_of_ours_stays_while_others_use_it(tmp_path: Path) -> None:
    _apply(tmp_path, bundle("one", {DROP_IN: "x: true"}))
    theirs = trees.put(tmp_path, f"{os.path.dirname(DROP_IN)}/50-theirs.yaml", "theirs")
    _apply(tmp_path, EMPTY)
    assert theirs.read_text() == "theirs"
    assert _state(tmp_path).directories == ()


def test_what_names_a_file_goes_before_it_over_several_revisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {f"{TLS}/ca-1.crt": "1", f"{TLS}/ca-2.crt": "2", hosts("docker.io"): "names ca-2", hosts("quay.io"): "ca-1"}
    _apply(tmp_path, ONE)
    _apply(tmp_path, bundle("two", two))
    gone: list[str] = []
    remove = Host.remove

    def removes(host: Host, path: str, *, with_directory: bool) -> None:
        gone.append(path)
        remove(host, path, with_directory=with_directory)

    monkeypatch.setattr(Host, "remove", removes)
    _apply(tmp_path, EMPTY)
    for path in (hosts("docker.io"), hosts("quay.io")):
        assert gone.index(path) < min(gone.index(f"{TLS}/ca-1.crt"), gone.index(f"{TLS}/ca-2.crt"))


@pytest.mark.parametrize("change", ["content", "mode", "gone", "owner"])
def test_what_others_change_is_repaired_and_said(tmp_path: Path, change: str) -> None:
    _apply(tmp_path, ONE)
    before = trees.snapshot(tmp_path)
    where = tmp_path / REGISTRIES[1:]
    match change:
        case "content":
            where.write_text("drift")
        case "mode":
            where.chmod(0o644)
        case "gone":
            where.unlink()
        case _:
            if os.geteuid() != 0:
                pytest.skip("only root can give files away")
            os.chown(where, 4242, 0)
    assert _apply(tmp_path, ONE) == Outcome(written=(REGISTRIES,), repaired=(REGISTRIES,))
    assert trees.snapshot(tmp_path) == before


def test_a_lost_copy_is_said_with_what_to_do_and_mended_by_that(tmp_path: Path) -> None:
    trees.put(tmp_path, REGISTRIES, "theirs")
    before = trees.snapshot(tmp_path)
    _apply(tmp_path, bundle("one", {REGISTRIES: "ours"}))
    copy = _state(tmp_path).originals[REGISTRIES].copy
    (tmp_path / copy[1:]).unlink()
    with pytest.raises(HostError, match=f"write the file that is to be there to {copy}") as error:
        _apply(tmp_path, EMPTY)
    assert error.value.reason == "OriginalLost"
    assert (tmp_path / REGISTRIES[1:]).read_text() == "ours"
    trees.put(tmp_path, copy, "theirs", 0o600)
    _apply(tmp_path, EMPTY)
    assert trees.snapshot(tmp_path) == before


@pytest.mark.parametrize("content", ["", "{", '{"originals": []}'])
def test_a_damaged_record_stops_everything(tmp_path: Path, content: str) -> None:
    _apply(tmp_path, ONE)
    trees.put(tmp_path, trees.STATE, content, 0o600)
    before = trees.snapshot(tmp_path, state=True)
    with pytest.raises(HostError, match="it is damaged") as error:
        _apply(tmp_path, EMPTY)
    assert error.value.reason == "StateDamaged"
    assert trees.snapshot(tmp_path, state=True) == before


def test_the_record_and_copies_are_for_root_alone(tmp_path: Path) -> None:
    trees.put(tmp_path, REGISTRIES, "password")
    _apply(tmp_path, ONE)
    for path, entry in trees.snapshot(tmp_path, state=True).items():
        if path.startswith(f"{memory.DIRECTORY}/") and entry[0] == "file":
            assert entry[1] == 0o600, path


def _bad(path: str, **changes: object) -> Bundle:
    file = File(path=path, content=str(changes.get("content", "x")), mode=int(str(changes.get("mode", 0o644))))
    return Bundle(revision="bad", runtime="k3s", files=(file,))


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (Bundle(revision="bad", runtime="containerd", files=()), "this node runs k3s"),
        (_bad("/etc/shadow"), "is not a file of k3s"),
        (_bad("etc/rancher/k3s/registries.yaml"), "is not a file of k3s"),
        (_bad(f"{TLS}/../../../shadow"), "is not a file of k3s"),
        (_bad(f"{TLS}/a/b"), "is not a file of k3s"),
        (_bad(f"{TLS}/"), "is not a file of k3s"),
        (_bad(TLS), "is not a file of k3s"),
        (_bad(f"{TLS}/.."), "is not a file of k3s"),
        (_bad(f"{TLS}/a\0b"), "is not a file of k3s"),
        (_bad(f"{trees.CERTS}/hosts.toml"), "is not a file of k3s"),
        (_bad(f"{trees.CERTS}/../hosts.toml"), "is not a file of k3s"),
        (_bad(f"{trees.CERTS}/docker.io/other.toml"), "is not a file of k3s"),
        (_bad(f"{TLS}/.x{SUFFIX}"), "files in the making"),
        (_bad(hosts(f".docker.io{SUFFIX}")), "files in the making"),
        (_bad(REGISTRIES, mode=0o4755), "mode 4755"),
        (_bad(REGISTRIES, mode=0o666), "mode 666"),
        (_bad(REGISTRIES, content="x" * (1024 * 1024 + 1)), "at most 1048576"),
        (Bundle(revision="bad", runtime="k3s", files=(File(path=REGISTRIES, content=""),) * 2), "it is there twice"),
        (Bundle(revision="bad", runtime="k3s", files=tuple(ONE.files[0] for _ in range(2049))), "at most 2048"),
    ],
)
def test_a_bundle_that_must_not_be_applied_changes_nothing(tmp_path: Path, wanted: Bundle, text: str) -> None:
    with pytest.raises(InvalidError, match=text) as error:
        _apply(tmp_path, wanted)
    assert error.value.reason == "BundleRefused"
    assert trees.snapshot(tmp_path, state=True) == {}


def test_a_containerd_without_config_path_gets_no_hosts_toml() -> None:
    facts = default_facts("containerd")
    wanted = Bundle(revision="r", runtime="containerd", files=(File(path="/docker.io/hosts.toml", content=""),))
    for path in ("", "/etc/containerd/certs.d"):
        with pytest.raises(InvalidError):
            check(wanted, type(facts)(name="containerd", config_path=path))


def test_any_sequence_of_bundles_ends_where_it_began(tmp_path: Path) -> None:
    rng = random.Random(20240607)
    paths = [REGISTRIES, DROP_IN, *(f"{TLS}/ca-{n}.crt" for n in range(3))]
    paths += [hosts(name) for name in ("docker.io", "quay.io", "_default", "registry.example.com:5000")]
    folders = sorted({os.path.dirname(path) for path in paths} | {f"{trees.CERTS}/other.io"})
    for round_ in range(25):
        root = tmp_path / str(round_)
        root.mkdir()
        for folder in rng.sample(folders, rng.randint(0, len(folders))):
            (root / folder[1:]).mkdir(parents=True, exist_ok=True)
            (root / folder[1:]).chmod(rng.choice([0o700, 0o755, 0o750]))
        for path in rng.sample(paths, rng.randint(0, len(paths))):
            owner = (rng.randint(0, 2), rng.randint(0, 2)) if os.geteuid() == 0 else None
            trees.put(root, path, f"theirs {path}", rng.choice([0o600, 0o644, 0o755]), owner)
        trees.put(root, f"{trees.CERTS}/other.io/hosts.toml", "not ours")
        before = trees.snapshot(root)
        for step in range(rng.randint(1, 6)):
            chosen = rng.sample(paths, rng.randint(0, len(paths)))
            wanted = bundle(f"{step}", {path: f"{rng.randint(0, 2)}" for path in chosen})
            _apply(root, wanted)
            after = trees.snapshot(root)
            assert {path: after[path][4] for path in chosen} == {f.path: f.content.encode() for f in wanted.files}
            for path in set(paths).difference(chosen):
                assert after.get(path) == before.get(path)
        _apply(root, EMPTY)
        assert trees.snapshot(root) == before
        assert trees.leftovers(root) == []
        assert Host(root).names(f"{memory.DIRECTORY}/originals") == []
