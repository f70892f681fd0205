"""`registry-mirror seed` as far as no registry is needed: command line, output, archives, errors."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from registry_mirror.api.errors import ProblemError
from registry_mirror.cli import seed
from registry_mirror.cli.seed_sources import given
from registry_mirror.cli.seed_view import Progress, Report, Resolved, Unresolved, planned, size_text, summary
from registry_mirror.core.resolve import Credentials, ResolvedEndpoint, ResolvedTLS
from registry_mirror.core.seeding import Manifest, Reference, manifest, reference
from registry_mirror.seed import skopeo
from registry_mirror.seed.access import Side, target_access
from registry_mirror.seed.archive import Reader, Writer, chosen
from registry_mirror.seed.skopeo import Access, Failed, Skopeo
from registry_mirror.seed.work import Outcome

ROOT = Path(__file__).resolve().parents[2]
HASH = "sha256:" + "ab" * 32
MIB = 1024 * 1024


def run(*words: str, text: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(seed.command, [*words], input=text)
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "name where to"),
        (("busybox",), "name where to"),
        (("--to", "private.test"), "name the images"),
        (("--archive", "x.tar"), "name the images"),
        (("--archive", "x.tar", "--to", "private.test", "--platform", "linux/arm64"), "when the archive is written"),
        (("busybox", "--archive", "x.tar", "-f", "m.yaml"), "add --to"),
        (("busybox", "--to", "a.test", "-f", "m.yaml", "--mirrors-from-cluster"), "not both"),
        (("--from-file", "-", "--from-manifest", "-", "--to", "a.test"), "standard input can be read once"),
        (("busybox", "--to", "a.test", "--platform", "arm64"), "write OS/ARCH"),
        (("busybox", "--to", "a.test", "--jobs", "0"), "0 is not in the range"),
        (("busybox", "--to", "a.test", "--timeout", "soon"), "write a duration"),
    ],
)
def test_what_does_not_belong_together_is_refused(words: tuple[str, ...], problem: str) -> None:
    code, said = run(*words)
    assert (code, problem in said) == (2, True), said


def test_a_destination_that_is_none_is_refused(path_with_skopeo: None) -> None:
    code, said = run("busybox", "--to", "https://private.test")
    assert (code, "write it without http:// or https://" in said) == (2, True), said


def test_without_skopeo_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProblemError, match="apt install skopeo"):
        CliRunner().invoke(seed.command, ["busybox", "--to", "private.test"], catch_exceptions=False)


@pytest.fixture
def path_with_skopeo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program of that name which says what it was given, and fails."""
    program = tmp_path / "bin/skopeo"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "time=now level=fatal msg=\\"got $*\\"" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


# ---- sources ---------------------------------------------------------------------------------------------------------


def test_several_sources_are_one_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("# K3s\nrancher/pause:3.6\nbusybox\n"))
    template = "kind: Deployment\nspec: {template: {spec: {containers: [{image: quay.io/a/b:1}]}}}\n---\n---\n"
    (tmp_path / "chart").write_text(f"# from helm template\n{template}a: !custom 2026-01-01\n")
    found = given(("busybox:latest", "redis:7"), ("-",), (str(tmp_path / "chart"),))
    assert sorted(image.name for image in found) == [
        "docker.io/library/busybox:latest",
        "docker.io/library/redis:7",
        "docker.io/rancher/pause:3.6",
        "quay.io/a/b:1",
    ]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("list", "busybox\nNot An Image\n", "line 2: found 'Not An Image'; write a name such as"),
        ("chart", "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{image: A b}]}", "Pod p: found 'A b'"),
        ("chart", "a: [", "write valid YAML"),
    ],
)
def test_what_is_wrong_in_a_source_is_named(tmp_path: Path, name: str, content: str, problem: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ProblemError, match=re.escape(problem)) as caught:
        given((), (str(path),) if name == "list" else (), (str(path),) if name == "chart" else ())
    assert str(path) in caught.value.message
    with pytest.raises(ProblemError, match="give a readable file"):
        given((), (str(tmp_path / "none"),), ())


# ---- what is shown ---------------------------------------------------------------------------------------------------

PLANNED = Report(
    (
        Outcome("docker.io/library/busybox:1", "Missing", HASH, "private.test/hub/library/busybox:1", 2 * MIB),
        Outcome("quay.io/a/b:1", "There", HASH, "private.test/a/b:1", 1536),
        Outcome("quay.io/a/c:1", "Differs", HASH, "private.test/a/c:1"),
        Outcome("quay.io/a/d:1", "Failed", message="reading manifest 1 in quay.io/a/d: manifest unknown"),
    ),
    2 * MIB + 1536,
)
DRY = """\
IMAGE                        DIGEST               DESTINATION                         STATE          SIZE
docker.io/library/busybox:1  sha256:abababababab  private.test/hub/library/busybox:1  to copy        2.0 MiB
quay.io/a/b:1                sha256:abababababab  private.test/a/b:1                  there already  1.5 KiB
quay.io/a/c:1                sha256:abababababab  private.test/a/c:1                  to replace     -
quay.io/a/d:1                -                    -                                   failed         -

4 images (2.0 MiB): 1 there already, 1 to copy, 1 to replace, 1 failed
  failed: quay.io/a/d:1: reading manifest 1 in quay.io/a/d: manifest unknown"""
DONE = """\
3 images (4.0 GiB): 2 copied, 1 failed
  failed: quay.io/a/c:1: writing blob: no\\x1b[31m space left
1 of 2 images resolve through https://private.test/v2/hub
  not resolved: quay.io/a/b:1: it answers 401 without credentials"""


def text(lines: Iterator[str]) -> str:
    return click.unstyle("\n".join(lines))


def test_a_dry_run_is_a_table() -> None:
    assert text(planned(PLANNED)) == DRY


def test_the_summary_names_what_failed() -> None:
    done = Report(
        (
            Outcome("quay.io/a/a:1", "Copied", HASH, "private.test/a/a:1"),
            Outcome("quay.io/a/b:1", "Copied", HASH, "private.test/a/b:1"),
            Outcome("quay.io/a/c:1", "Failed", HASH, message="writing blob: no\x1b[31m space left"),
        ),
        4 * MIB * 1024,
        endpoints=(Resolved("https://private.test/v2/hub", 2),),
        unresolved=(Unresolved("quay.io/a/b:1", "https://private.test/v2/hub", "it answers 401 without credentials"),),
    )
    assert text(summary(done)) == DONE
    assert done.failed
    assert text(summary(Report(()))) == "nothing to copy"


def test_sizes_are_for_people() -> None:
    assert [size_text(size) for size in (0, 1023, 1024, 5 * 1024**4)] == ["-", "1023 B", "1.0 KiB", "5.0 TiB"]


def test_without_a_terminal_progress_is_a_line_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.begin("copying", 2)
    progress.active["a"] = None
    progress.tick()
    progress.done(Outcome("quay.io/a/a:1", "Copied"))
    progress.done(None)
    progress.end()
    assert capsys.readouterr().err == "copying 2 images\ncopied: quay.io/a/a:1\n"


def test_on_a_terminal_progress_is_one_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with open(slave, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        progress = Progress()
        progress.begin("copying", 3)
        progress.done(Outcome("quay.io/a/a:1", "Copied", size=2 * MIB))
        progress.active |= {"quay.io/a/b\x1b[31m:1": None, "quay.io/a/c:1": None}
        progress.tick()
        progress.end()
        terminal.flush()
        said = os.read(master, 4096).decode()
    os.close(master)
    assert said == "\r\x1b[Kcopying 1 of 3, 2.0 MiB: quay.io/a/b\\x1b[31m:1 and 1 more\r\x1b[K"


# ---- skopeo ----------------------------------------------------------------------------------------------------------


def test_what_skopeo_says_is_shown_in_one_line_without_signatures(path_with_skopeo: None) -> None:
    with pytest.raises(Failed) as caught:
        Skopeo(60).manifest("quay.io/a?X-Amz-Signature=abc", Access(verify=False))
    assert caught.value.message.startswith("got ")
    assert "--command-timeout=120s inspect --raw --retry-times=3 --tls-verify=false docker://" in caught.value.message
    assert "X-Amz" not in caught.value.message
    assert skopeo._said('time="x" level=fatal msg="a \\"b\\"\\n c"\nusage\n', 1) == 'a "b" c'
    assert skopeo._said("", 125) == "skopeo ends with status 125"


@pytest.mark.parametrize(
    ("message", "missing", "out_of_reach"),
    [
        ("reading manifest 1 in a.test/x: manifest unknown: manifest unknown", True, False),
        ("pinging container registry a.test: Get: x509: certificate signed by unknown authority", False, True),
        ("pinging container registry a.test: dial tcp: connect: connection refused", False, True),
        ("reading manifest 1 in a.test/x: unauthorized: authentication required", False, False),
    ],
)
def test_a_registry_that_lacks_an_image_is_told_from_none(message: str, missing: bool, out_of_reach: bool) -> None:
    found = Failed(message)
    assert (found.missing, found.out_of_reach) == (missing, out_of_reach)


def test_what_is_secret_goes_into_private_files_and_not_into_arguments(path_with_skopeo: None, tmp_path: Path) -> None:
    endpoint = ResolvedEndpoint(
        url="https://private.test/v2/hub",
        tls=ResolvedTLS(ca="CA", certificate="CERT", key="KEY"),
        credentials=Credentials(username="robot", password="hunter2"),
    )
    private = tmp_path / "private"
    private.mkdir(0o700)
    # This skopeo knows no credentials, so the endpoint's are taken.
    other = ResolvedEndpoint(url="https://private.test", credentials=Credentials(identity_token="token"))
    endpoints = {"private.test/hub": endpoint, "private.test/quay": other}
    found = target_access(Side("to"), "private.test", endpoints, private, Skopeo(60))
    assert found.options("dest-") == [
        f"--dest-authfile={private}/auth.json",
        f"--dest-cert-dir={private}/to-certificates",
    ]
    files = {str(path.relative_to(private)): path for path in private.rglob("*")}
    assert {name: path.stat().st_mode & 0o777 for name, path in files.items()} == {
        "auth.json": 0o600,
        "to-certificates": 0o700,
        "to-certificates/ca.crt": 0o600,
        "to-certificates/client.cert": 0o600,
        "to-certificates/client.key": 0o600,
    }
    assert json.loads(files["auth.json"].read_text()) == {
        "auths": {
            "private.test/hub": {"auth": "cm9ib3Q6aHVudGVyMg=="},
            "private.test/quay": {"auth": "PHRva2VuPjo=", "identitytoken": "token"},
        }
    }


def test_a_file_of_the_command_line_comes_before_the_secret(path_with_skopeo: None, tmp_path: Path) -> None:
    (tmp_path / "auth").write_text(json.dumps({"auths": {"private.test": {"auth": "dXNlcjpwYXNz"}}}))
    endpoint = ResolvedEndpoint(url="http://private.test", credentials=Credentials(username="a", password="b"))
    side = Side("to", authfile=tmp_path / "auth")
    found = target_access(side, "private.test", {"private.test": endpoint}, tmp_path, Skopeo(60))
    assert found == Access(tmp_path / "auth", None, verify=False)
    assert side.credentials("private.test") == Credentials(username="user", password="pass")
    assert side.credentials("other.test") is None


def test_the_usual_places_count_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(json.dumps({"auths": {"a.test": {"auth": "dTpw"}}}))
    assert Side("to").credentials("a.test") == Credentials(username="u", password="p")
    assert skopeo.usual_authfile() is None
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / ".docker"))
    # skopeo 1.9 does not look there, so it is told.
    assert skopeo.usual_authfile() == tmp_path / ".docker/config.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "none"))
    assert skopeo.usual_authfile() is None
    assert Side("to").credentials("a.test") is None


# ---- archives --------------------------------------------------------------------------------------------------------


def a(name: str) -> Reference:
    found = reference(name)
    assert found is not None
    return found


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def image(*layers: bytes) -> tuple[Manifest, dict[str, bytes]]:
    blobs = {digest(layer): layer for layer in (b"{}", *layers)}
    parts = [{"digest": name, "size": len(content)} for name, content in blobs.items()]
    raw = json.dumps({"schemaVersion": 2, "config": parts[0], "layers": parts[1:]}).encode()
    return manifest(raw), {**blobs, digest(raw): raw}


SHARED = b"shared" * 1000
ONE, TWO = image(SHARED, b"one"), image(SHARED, b"two")
IMAGES = {a("quay.io/a/one:1"): ONE[0], a("quay.io/a/two:1"): TWO[0]}


def fill(path: Path) -> Path:
    """Have all blobs where a run that was ended has left them."""
    blobs = path.with_name(f"{path.name}.partial") / "blobs/sha256"
    blobs.mkdir(parents=True)
    for name, content in {**ONE[1], **TWO[1]}.items():
        (blobs / name.partition(":")[2]).write_bytes(content)
    return blobs


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "images.tar"
    fill(path)
    with Writer(path) as writer:
        assert all(writer.has(found) for found in IMAGES.values())
        writer.finish(IMAGES)
    return path


def test_an_archive_is_an_oci_layout_with_every_blob_once(archive: Path) -> None:
    assert os.listdir(archive.parent) == [archive.name]
    with tarfile.open(archive) as file:
        names = file.getnames()
        content = file.extractfile("index.json")
        assert content is not None
        index = json.load(content)
    assert names[:2] == ["oci-layout", "index.json"]
    assert len(names) == len(set(names)) == 2 + len({**ONE[1], **TWO[1]})
    annotations = [item["annotations"] for item in index["manifests"]]
    keys = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
    assert annotations == [dict.fromkeys(keys, name) for name in ("quay.io/a/one:1", "quay.io/a/two:1")]


def test_an_archive_is_read_back(archive: Path, tmp_path: Path) -> None:
    found = Reader(archive)
    assert found.images == {name: item.digest for name, item in IMAGES.items()}
    assert found.blobs(ONE[0].digest)[digest(SHARED)] == len(SHARED)
    (tmp_path / "one").mkdir()
    found.lay(ONE[0].digest, tmp_path / "one")
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == {
        "version": b"Directory Transport Version: 1.1\n",
        "manifest.json": ONE[0].raw,
        **{name[7:]: content for name, content in ONE[1].items() if name != ONE[0].digest},
    }
    assert chosen(found, [a("quay.io/a/two:1")]) == {a("quay.io/a/two:1"): TWO[0].digest}
    assert chosen(found, []) == found.images
    with pytest.raises(ProblemError, match=r"quay.io/a/three:1 is not in the archive"):
        chosen(found, [a("quay.io/a/three:1")])


def test_what_is_cut_short_is_got_again(tmp_path: Path) -> None:
    blobs = fill(tmp_path / "images.tar")
    (blobs / digest(b"one")[7:]).write_bytes(b"on")
    with Writer(tmp_path / "images.tar") as writer:
        assert [writer.has(found) for found in IMAGES.values()] == [False, True]


def test_two_runs_do_not_write_one_archive(tmp_path: Path) -> None:
    with Writer(tmp_path / "images.tar"), pytest.raises(ProblemError, match="another run works on it"):
        Writer(tmp_path / "images.tar").__enter__()


def test_a_full_disk_leaves_no_archive_and_what_came(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    blobs = fill(path)
    path.write_text("an older archive")
    (blobs.parents[1] / "archive.tar").symlink_to("/dev/full")
    with Writer(path) as writer, pytest.raises(ProblemError, match=r"images.tar: No space left on device: make room"):
        writer.finish(IMAGES)
    assert path.read_text() == "an older archive"
    assert len(list(blobs.iterdir())) == len({**ONE[1], **TWO[1]})


def tar(**files: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in files.items():
            item = tarfile.TarInfo(name.replace("_", "-").replace("--", "."))
            item.size = len(content)
            file.addfile(item, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is no tar file"),
        (b"\x1f\x8b\x08" + b"x" * 2000, "or a compressed one: unpack it first"),
        (tar(manifest__json=b"[]"), "it is no OCI image layout"),
        (tar(oci_layout=b"{}", index__json=b"["), "its index.json cannot be read"),
        (tar(oci_layout=b"{}", index__json=b'{"manifests": [7]}'), "its index.json cannot be read"),
        (tar(oci_layout=b"{}", index__json=b'{"manifests": []}'), "no image in it has a full name"),
        (tar(oci_layout=b"{}", index__json=b"[" * 100_000), "its index.json cannot be read"),
    ],
)
def test_a_foreign_archive_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ProblemError, match=re.escape(problem)) as caught:
        Reader(tmp_path / "x.tar")
    assert str(tmp_path / "x.tar") in caught.value.message


def test_an_archive_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"x.tar: No such file"):
        Reader(tmp_path / "x.tar")


@pytest.mark.parametrize("share", [0.999, 0.6, 0.3])
def test_a_truncated_archive_is_refused(archive: Path, share: float, tmp_path: Path) -> None:
    content = archive.read_bytes()
    # Without the padding at the end of a tar file, which means nothing.
    end = len(content.rstrip(b"\0"))
    archive.write_bytes(content[: int(end * share)])

    def use() -> None:
        for number, name in enumerate(Reader(archive).images.values()):
            (tmp_path / str(number)).mkdir()
            Reader(archive).lay(name, tmp_path / str(number))

    with pytest.raises(ProblemError, match=r"end is missing"):
        use()


def test_a_damaged_manifest_is_refused(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content.replace(ONE[0].raw, ONE[0].raw.replace(b"2", b"3", 1)))
    with pytest.raises(ProblemError, match="is damaged: copy it again"):
        Reader(archive).manifest(ONE[0].digest)


# ---- the image of the Job --------------------------------------------------------------------------------------------


def test_the_image_of_the_job_has_the_base_of_the_operators_own_build_and_takes_what_a_build_may_take() -> None:
    lines = (ROOT / "build/seed/Dockerfile").read_text()
    (base,) = re.findall(r"^ARG BASE=(.*)$", lines, re.MULTILINE)
    assert f"ARG BUILD_BASE={base}\n" in (ROOT / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.*)$", lines, re.MULTILINE) for word in line.split()[:-1]}
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{word}" for word in copied} <= set(allowed)
