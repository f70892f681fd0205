"""`registry-mirror probe` on trees of every runtime, with servers on loopback that answer as registries do, or not.

Real nodes, and what containerd makes of the same files, are in tests/nodes/test_probe_command.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from registry_mirror.api.errors import ProblemError
from registry_mirror.cli.probe import code, command, lines, told_by
from registry_mirror.core.following import Asked as Row, Followed, Found, Pulled, Walk
from registry_mirror.kube.exec import Answer
from tests.agent.probed import USER_HEADER, Asked, Authority, Peer, Reply
from tests.agent.trees import put

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = 'version = 3\n[plugins."io.containerd.cri.v1.images".registry]\n'
IMAGE = "registry.example.com/team/app:1"
CERTS = "/etc/containerd/certs.d/registry.example.com/hosts.toml"
Start = Callable[..., Peer]


def served(asked: Asked) -> Reply:
    return Reply(headers={"Docker-Content-Digest": DIGEST, "Content-Type": MANIFEST})


def missing(asked: Asked) -> Reply:
    return Reply(404)


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(reply: Callable[[Asked], Reply], *arguments: object) -> Peer:
            peer = Peer(reply, *arguments)  # type: ignore[arg-type]
            stack.callback(peer.close)
            return peer

        yield begin


def probe(root: Path, *words: str, runtime: str = "containerd") -> Result:
    return CliRunner().invoke(command, [IMAGE, "--local", "--root", str(root), "--runtime", runtime, *words])


def found(root: Path, *words: str, runtime: str = "containerd") -> Followed:
    answer = probe(root, "-o", "json", *words, runtime=runtime)
    assert answer.exit_code in (0, 4), answer.output
    return told_by(Answer(code=answer.exit_code, stdout=answer.stdout, stderr=""), "")


def containerd(root: Path, hosts: str) -> None:
    put(root, "/etc/containerd/config.toml", f'{CONFIG}config_path = "/etc/containerd/certs.d"\n')
    put(root, CERTS, f'server = "http://127.0.0.1:1"\n[host]\n{hosts}')


def answers(walk: Walk) -> list[str]:
    return [row.answer.reason if row.answer is not None else row.state for row in walk.asked]


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([IMAGE], "say "),
        ([IMAGE, "--local", "--node", "a"], "--local is about this node"),
        ([IMAGE, "--node", "a", "--root", "/"], "--root and --runtime go with --local"),
        (["UPPER:case", "--local"], "write an image such as"),
        (["https://registry.example.com/app", "--node", "a"], "write an image such as"),
        ([IMAGE, "--local", "--timeout", "soon"], "write a duration"),
    ],
)
def test_a_wrong_command_line_is_said_before_anything_is_done(words: list[str], text: str) -> None:
    answer = CliRunner().invoke(command, words)
    assert answer.exit_code == 2
    assert text in " ".join(re.sub(r"[│╭╮╰╯─]", " ", answer.output).split())


def test_a_node_without_a_runtime_is_an_error(tmp_path: Path) -> None:
    answer = CliRunner().invoke(command, [IMAGE, "--local", "--root", str(tmp_path)])
    assert isinstance(answer.exception, ProblemError)
    assert answer.exception.reason == "RuntimeNotFound"


# ---- files of every runtime ------------------------------------------------------------------------------------------


def test_k3s_asks_its_hosts_alone_and_rewrites_names(tmp_path: Path, start: Start) -> None:
    mirror = start(served)
    data = "/var/lib/rancher/k3s/agent/etc/containerd"
    put(tmp_path, f"{data}/config.toml", f'{CONFIG}config_path = "{data}/certs.d"\n')
    hosts = f'[host]\n[host."{mirror.url}"]\n[host."{mirror.url}".rewrite]\n"^team/(.*)" = "cache/$1"\n'
    put(tmp_path, f"{data}/certs.d/registry.example.com/hosts.toml", hosts)
    seen = found(tmp_path, runtime="k3s")
    assert seen.walk.served_by == f"{mirror.url}/v2"
    assert [row.url for row in seen.walk.asked] == [f"{mirror.url}/v2/cache/app/manifests/1?ns=registry.example.com"]
    assert [item.path for item in mirror.asked] == ["/v2/cache/app/manifests/1?ns=registry.example.com"]


def test_mirrors_of_config_toml_with_credentials_for_one_host(tmp_path: Path, start: Start) -> None:
    def wants(asked: Asked) -> Reply:
        if asked.headers.get("Authorization") == USER_HEADER:
            return served(asked)
        return Reply(401, {"WWW-Authenticate": "Basic realm=x"})

    first, second = start(missing), start(wants)
    text = f'{CONFIG}[plugins."io.containerd.cri.v1.images".registry.mirrors."*"]\n'
    text += f'endpoint = ["{first.url}", "{second.url}"]\n'
    text += f'[plugins."io.containerd.cri.v1.images".registry.configs."{urlsplit(second.url).netloc}".auth]\n'
    put(tmp_path, "/etc/containerd/config.toml", f'{text}username = "robot"\npassword = "swordfish"\n')
    answer = probe(tmp_path, "-o", "json")
    assert "swordfish" not in answer.output
    assert USER_HEADER.removeprefix("Basic ") not in answer.output
    seen = found(tmp_path)
    assert seen.walk.served_by == f"{second.url}/v2"
    assert answers(seen.walk)[:2] == ["Missing", "Served"]
    assert not any("Authorization" in item.headers for item in first.asked)


def test_credentials_of_config_toml_beside_a_directory(tmp_path: Path, start: Start) -> None:
    """As K3s has them: hosts.toml says where, config.toml as whom."""
    mirror = start(served)
    containerd(tmp_path, f'[host."{mirror.url}"]\n')
    table = f'registry.configs."{urlsplit(mirror.url).netloc}".auth'
    text = f'{CONFIG}config_path = "/etc/containerd/certs.d"\n[plugins."io.containerd.cri.v1.images".{table}]\n'
    put(tmp_path, "/etc/containerd/config.toml", f'{text}username = "robot"\npassword = "swordfish"\n')
    assert found(tmp_path).walk.served_by == f"{mirror.url}/v2"
    assert [item.headers.get("Authorization") for item in mirror.asked] == [USER_HEADER]


def test_a_drop_in_says_the_directory(tmp_path: Path, start: Start) -> None:
    mirror = start(served)
    containerd(tmp_path, f'[host."{mirror.url}"]\n')
    put(tmp_path, "/etc/containerd/config.toml", 'version = 3\nimports = ["conf.d/*.toml"]\n')
    put(tmp_path, "/etc/containerd/conf.d/a.toml", f'{CONFIG}config_path = "/elsewhere"\n')
    put(tmp_path, "/etc/containerd/conf.d/b.toml", f'{CONFIG}config_path = "/etc/containerd/certs.d"\n')
    assert found(tmp_path).walk.served_by == f"{mirror.url}/v2"


def test_a_list_of_directories_counts_only_for_local_pulls(tmp_path: Path, start: Start) -> None:
    mirror = start(served)
    containerd(tmp_path, f'[host."{mirror.url}"]\n')
    several = 'config_path = "/none:/etc/containerd/certs.d"\n'
    put(tmp_path, "/etc/containerd/config.toml", CONFIG + several)
    seen = found(tmp_path, "--timeout", "2s")
    assert seen.walk.served_by == ""
    assert any("containerd #12415" in text for text in seen.warnings)
    local = 'version = 3\n[plugins."io.containerd.cri.v1.images"]\nuse_local_image_pull = true\n'
    put(tmp_path, "/etc/containerd/config.toml", local + CONFIG.partition("\n")[2] + several)
    assert found(tmp_path).walk.served_by == f"{mirror.url}/v2"


def test_a_linked_directory_is_read_below_the_root(tmp_path: Path, start: Start) -> None:
    mirror = start(served)
    containerd(tmp_path, f'[host."{mirror.url}"]\n')
    (tmp_path / "etc/containerd/certs.d").rename(tmp_path / "etc/real")
    (tmp_path / "etc/containerd/certs.d").symlink_to("/etc/real")
    assert found(tmp_path).walk.served_by == f"{mirror.url}/v2"


def test_an_empty_directory_hides_the_default(tmp_path: Path, start: Start) -> None:
    mirror = start(served)
    containerd(tmp_path, "")
    put(tmp_path, "/etc/containerd/certs.d/_default/hosts.toml", f'[host]\n[host."{mirror.url}"]\n')
    (tmp_path / CERTS[1:]).unlink()
    seen = found(tmp_path, "--timeout", "2s")
    assert seen.walk.served_by == ""
    assert any("no hosts.toml" in text for text in seen.warnings)
    (tmp_path / CERTS[1:]).parent.rmdir()
    assert found(tmp_path).walk.served_by == f"{mirror.url}/v2"


def test_microk8s_with_the_proxy_of_its_environment(tmp_path: Path, start: Start) -> None:
    proxy = start(served)
    args = "/var/snap/microk8s/1234/args"
    put(
        tmp_path,
        f"{args}/containerd-template.toml",
        CONFIG.replace("3", "2", 1).replace("cri.v1.images", "grpc.v1.cri")
        + 'config_path = "${SNAP_DATA}/args/certs.d"\n',
    )
    put(tmp_path, f"{args}/certs.d/registry.example.com/hosts.toml", '[host]\n[host."http://mirror.test"]\n')
    put(tmp_path, f"{args}/containerd-env", f"HTTP_PROXY={proxy.url}\n")
    (tmp_path / "var/snap/microk8s/current").symlink_to("1234")
    assert found(tmp_path, runtime="microk8s").walk.served_by == "http://mirror.test/v2"
    assert [item.path for item in proxy.asked] == ["http://mirror.test/v2/team/app/manifests/1?ns=registry.example.com"]


def test_crio_asks_without_the_namespace(
    tmp_path: Path, start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = Authority(tmp_path_factory.mktemp("ca"), "ca")
    first, second = start(missing), start(served, authority.server("127.0.0.1"))
    hosts = [urlsplit(peer.url).netloc for peer in (first, second)]
    mirrors = "".join(
        f'[[registry.mirror]]\nlocation = "{host}/hub"\ninsecure = {str(host == hosts[0]).lower()}\n' for host in hosts
    )
    put(
        tmp_path,
        "/etc/containers/registries.conf.d/1.conf",
        f'[[registry]]\nprefix = "registry.example.com/team"\n{mirrors}',
    )
    put(tmp_path, f"/etc/containers/certs.d/{hosts[1]}/ca.crt", authority.certificate.read_text())
    put(tmp_path, "/etc/crio/crio.conf", "")
    seen = found(tmp_path, runtime="crio")
    assert seen.walk.served_by == f"{second.url}/v2"
    assert [item.path for item in first.asked + second.asked] == ["/v2/hub/app/manifests/1"] * 2


# ---- answers ---------------------------------------------------------------------------------------------------------

PAGE = Reply(headers={"Content-Type": "text/html"}, body=b"<html>")
BODY = b'{"schemaVersion": 2}'


@pytest.mark.parametrize(
    ("reply", "reason", "last"),
    [
        (lambda _: Reply(404), "Missing", True),
        (lambda _: Reply(401, {"WWW-Authenticate": "Basic realm=x"}), "Unauthorized", True),
        (lambda _: Reply(403), "Unauthorized", True),
        (lambda _: Reply(429), "Limited", True),
        (lambda _: Reply(503), "ServerError", True),
        (lambda _: Reply(400), "Refused", True),
        (lambda _: PAGE, "NotARegistry", False),
        (lambda _: Reply(304), "Refused", False),
        (lambda _: Reply(headers={"Docker-Content-Digest": "none", "Content-Type": MANIFEST}), "Refused", False),
        (lambda asked: Reply(500) if asked.method == "GET" else Reply(), "ServerError", False),
        (lambda _: Reply(302, {"Location": "/again"}), "Refused", True),
        (lambda _: Reply(302, {"Location": "ftp://elsewhere/"}), "Refused", False),
    ],
)  # fmt: skip
def test_what_the_runtime_makes_of_an_answer(
    tmp_path: Path, start: Start, reply: Callable[[Asked], Reply], reason: str, last: bool
) -> None:
    first, second = start(reply), start(served)
    containerd(tmp_path, f'[host."{first.url}"]\n[host."{second.url}"]\n')
    seen = found(tmp_path)
    assert answers(seen.walk)[:2] == [reason, "Served" if last else "Later"]
    assert bool(seen.failure) is not last


def test_what_cannot_be_asked_is_left_for_the_next(tmp_path: Path, start: Start) -> None:
    mirror = start(served)
    hosts = f'[host."httpx://a"]\n[host."{mirror.url}/a"]\n[host."{mirror.url}/a".header]\nX = "a\\r\\nY: b"\n'
    containerd(tmp_path, f'{hosts}[host."{mirror.url}"]\n')
    assert answers(found(tmp_path).walk)[:3] == ["Refused", "Refused", "Served"]
    assert len(mirror.asked) == 1


def test_a_registry_without_head_or_digest_is_asked_for_the_manifest(tmp_path: Path, start: Start) -> None:
    def without(asked: Asked) -> Reply:
        return Reply(405) if asked.method == "HEAD" else Reply(headers={"Content-Type": MANIFEST}, body=BODY)

    mirror = start(without)
    containerd(tmp_path, f'[host."{mirror.url}"]\n')
    assert found(tmp_path).walk.digest == f"sha256:{hashlib.sha256(BODY).hexdigest()}"


def test_redirects_are_followed_and_credentials_are_not_taken_along(tmp_path: Path, start: Start) -> None:
    other = start(served)
    first = start(lambda asked: Reply(307, {"Location": f"{other.url}/elsewhere"}))
    containerd(tmp_path, f'[host."{first.url}"]\n[host."{first.url}".header]\nAuthorization = "{USER_HEADER}"\n')
    assert found(tmp_path).walk.served_by == f"{first.url}/v2"
    assert first.asked[0].headers["Authorization"] == USER_HEADER
    assert [(item.method, item.path) for item in other.asked] == [("HEAD", "/elsewhere")]
    assert "Authorization" not in other.asked[0].headers


def test_plain_http_with_tls_settings_is_asked_in_the_end(tmp_path: Path, start: Start) -> None:
    mirror = start(served)
    containerd(tmp_path, f'[host."{mirror.url}"]\nskip_verify = true\n')
    assert answers(found(tmp_path).walk)[0] == "Served"


def test_a_client_certificate_that_is_none_fails_every_pull(tmp_path: Path, start: Start) -> None:
    mirror = start(served)
    containerd(tmp_path, f'[host."{mirror.url}"]\nca = "ca.crt"\n')
    put(tmp_path, f"{CERTS.rpartition('/')[0]}/ca.crt", "not PEM")
    seen = found(tmp_path)
    assert "every pull of registry.example.com fails" in seen.failure
    assert not mirror.asked
    assert code(seen) == 4


def test_time_is_shared_between_hosts(tmp_path: Path, start: Start) -> None:
    release = threading.Event()

    def late(asked: Asked) -> Reply:
        release.wait(20.0)
        return served(asked)

    hanging, mirror = start(late), start(served)
    containerd(tmp_path, f'[host."{hanging.url}"]\n[host."{mirror.url}"]\n')
    seen = found(tmp_path, "--timeout", "1500ms")
    release.set()
    assert answers(seen.walk)[:2] == ["TimedOut", "Served"]


# ---- what is shown ---------------------------------------------------------------------------------------------------


def row(order: int, name: str, **fields: object) -> Row:
    url = f"https://{name}/v2"
    base = {"order": order, "host": url, "url": f"{url}/team/app/manifests/1?ns=r.test", "state": "Asked"}
    return Row(**{**base, "origin": f'/c/hosts.toml: [host."https://{name}"]', **fields})  # type: ignore[arg-type]


DOWN = Found(reason="ConnectionRefused", message="it refuses connections", latency=0.0004)
HAS = Found(reason="Served", status=200, digest=DIGEST, content_type=MANIFEST, latency=0.0123)
SLOW = Found(reason="TimedOut", message="it hangs", latency=10.01)
WALK = Walk(
    asked=(
        row(1, "a.test", answer=DOWN),
        row(2, "b.test", state="Skipped", note="only digests are pulled from there"),
        row(3, "c.test", answer=HAS),
        row(4, "d.test", state="Later", answer=SLOW),
        row(5, "r.test", state="Later", origin="/c/hosts.toml: server"),
        row(2, "b.test", purpose="fetch", answer=HAS),
        row(1, "a.test", purpose="fetch", answer=DOWN),
    ),
    resolved_by="https://c.test/v2",
    served_by="https://b.test/v2",
    digest=DIGEST,
)
FOLLOWED = Followed(
    image=IMAGE,
    node="node-1",
    runtime="containerd 2.4.2",
    files=("/c/hosts.toml",),
    warnings=("careful\x1b[2J",),
    walk=WALK,
)
GOLDEN = """\
registry.example.com/team/app:1 on node-1 (containerd 2.4.2)
  read /c/hosts.toml
  warning: careful\\x1b[2J

ORDER  ASKED FOR                   FROM               ANSWER                                           LATENCY  DIGEST
1      https://a.test/v2/team/app  hosts.toml [host]  ConnectionRefused                                1ms      -
2      https://b.test/v2/team/app  hosts.toml [host]  never asked: only digests are pulled from there  -        -
3      https://c.test/v2/team/app  hosts.toml [host]  200 Served                                       12ms     sha256:0123456789ab
4      https://d.test/v2/team/app  hosts.toml [host]  TimedOut (by --all)                              10.0s    -
5      https://r.test/v2/team/app  hosts.toml server  not asked                                        -        -
2      https://b.test/v2/team/app  hosts.toml [host]  200 Served (by digest)                           12ms     sha256:0123456789ab
  1: it refuses connections
  4: it hangs

resolved by https://c.test/v2, served by https://b.test/v2
"""  # noqa: E501


def test_the_text() -> None:
    assert click.unstyle("\n".join(lines(FOLLOWED))) + "\n" == GOLDEN


def test_the_end_with_nobody_and_after_a_pull() -> None:
    nobody = Followed(image=IMAGE, runtime="CRI-O", failure="no host has it")
    assert [click.unstyle(line) for line in lines(nobody)][-2:] == ["served by nobody", "  no host has it"]
    pull = Pulled(done=True, present=False, seconds=0.42, served_by="https://b.test/v2", message="so it is")
    pulled = Followed(image=IMAGE, runtime="CRI-O", pull=pull)
    assert list(lines(pulled))[-2:] == ["pulled in 0.4s from https://b.test/v2", "  so it is"]
    assert (code(nobody), code(pulled), code(FOLLOWED)) == (4, 0, 0)


def test_what_a_node_says_is_read_and_what_it_does_not_say_is_an_error() -> None:
    text = msgspec.json.encode(FOLLOWED).decode()
    assert told_by(Answer(code=0, stdout=text, stderr=""), "node-1") == FOLLOWED
    with pytest.raises(ProblemError, match=r"on node-1: no runtime") as raised:
        told_by(Answer(code=1, stdout="", stderr="error: no runtime\n"), "node-1")
    assert "error" not in raised.value.message
    with pytest.raises(ProblemError, match="update the agent"):
        told_by(Answer(code=0, stdout='{"image": 1}', stderr=""), "node-1")


def test_json_has_all(tmp_path: Path, start: Start) -> None:
    mirror = start(served)
    containerd(tmp_path, f'[host."{mirror.url}"]\n')
    answer = json.loads(probe(tmp_path, "-o", "json").stdout)
    first = answer["walk"]["asked"][0]
    assert set(first["answer"]) == {"reason", "status", "digest", "content_type", "latency"}
    assert (first["origin"], first["answer"]["content_type"]) == (f'{CERTS}: [host."{mirror.url}"]', MANIFEST)
