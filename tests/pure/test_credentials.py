"""Credentials come in three forms and from many tools: each is read for its one host, or refused with a remedy, and no
error ever quotes what it read.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from registry_mirror.core.material import Credentials, credentials

HOST = "mirror.example.com:5000"
CANARY = "canary-5d1f"
USER = Credentials(username="robot", password="sword:fish")
AUTH = base64.b64encode(b"robot:sword:fish").decode()


def docker(auths: Any) -> dict[str, bytes]:
    return {".dockerconfigjson": json.dumps({"auths": auths}).encode()}


def remedy(data: dict[str, bytes], host: str = HOST) -> str:
    with pytest.raises(ValueError, match=r"\w") as caught:
        credentials(data, host)
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"username": b"robot", "password": b"sword:fish"}, USER),
        ({"username": "rob\u00f6t".encode(), "password": b"x y"}, Credentials(username="rob\u00f6t", password="x y")),
        ({"token": b"abc"}, Credentials(identity_token="abc")),
        ({"username": b"robot", "token": b"abc"}, Credentials(identity_token="abc")),
        (docker({HOST: {"auth": AUTH}}), USER),
        (docker({HOST: {"username": "robot", "password": "sword:fish"}}), USER),
        (docker({HOST: {"username": "", "password": "", "auth": AUTH}}), USER),
        (docker({HOST: {"auth": AUTH, "identitytoken": "abc"}}), Credentials(identity_token="abc")),
        (docker({HOST: {"auth": AUTH, "identitytoken": ""}}), USER),
        (docker({"mirror.example.com": {"auth": "eDp5"}, HOST: {"auth": AUTH}}), USER),
        *(
            (docker({key: {"auth": AUTH}}), USER)
            for key in (f"https://{HOST}", f"http://{HOST}", f"{HOST}/", f"https://{HOST}/v1/", f"https://{HOST}/v2")
        ),
    ],
)
def test_credentials_are_read(data: dict[str, bytes], expected: Credentials) -> None:
    assert credentials(data, HOST) == expected


@pytest.mark.parametrize("host", ["docker.io", "registry-1.docker.io"])
@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "https://docker.io", "registry-1.docker.io"]
)
def test_docker_hub_is_found_under_all_its_names(host: str, key: str) -> None:
    assert credentials(docker({key: {"auth": AUTH}}), host) == USER


@pytest.mark.parametrize(
    "key", ["other.example.com", "mirror.example.com", f"x{HOST}", f"{HOST}0", f"{HOST}/project", "*.example.com:5000"]
)
def test_the_entry_of_another_host_is_never_sent(key: str) -> None:
    assert remedy(docker({key: {"auth": AUTH}})) == f"auths has no entry for {HOST}"


def test_an_entry_for_docker_hub_is_not_sent_to_a_mirror() -> None:
    assert "no entry" in remedy(docker({"https://index.docker.io/v1/": {"auth": AUTH}}))


@pytest.mark.parametrize(
    "raw",
    [
        f"{CANARY}",
        f'{{"auths": "{CANARY}"}}',
        f'{{"{CANARY}": {{}}}}',
        f'["{CANARY}"]',
        f'{{"auths": {{"x": "{CANARY}',
        "[" * 100_000,
        "",
    ],
    ids=range(7),
)
def test_a_docker_config_that_is_none_is_refused(raw: str) -> None:
    assert remedy({".dockerconfigjson": raw.encode()}) == "the key .dockerconfigjson is not JSON with an object auths"


def test_a_docker_config_that_is_not_text_is_refused() -> None:
    assert "is not JSON" in remedy({".dockerconfigjson": b"\xff\xfe" + CANARY.encode()})


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"auth": CANARY},
        {"auth": f"{CANARY}ü"},
        {"auth": base64.b64encode(CANARY.encode()).decode()},
        {"auth": 5},
        {"auth": [CANARY]},
        {"username": CANARY},
    ],
)
def test_a_docker_entry_without_user_and_password_is_refused(entry: dict[str, Any]) -> None:
    assert remedy(docker({HOST: entry})) == "auth is not base64 of user:password"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "write a Secret of type kubernetes.io/basic-auth"),
        ({"username": CANARY.encode()}, "write a Secret of type"),
        ({"user": b"x", "password": CANARY.encode()}, "write a Secret of type"),
        ({"username": b"", "password": CANARY.encode()}, "the key username is empty"),
        ({"username": b"x", "password": b""}, "the key password is empty"),
        ({"username": b"x", "password": f"{CANARY}\n".encode()}, "with --from-literal, or with printf instead of echo"),
        ({"username": b"x", "password": f"{CANARY}\x7f".encode()}, "the key password holds a line break or another"),
        ({"username": f"{CANARY}\r\n".encode(), "password": b"x"}, "the key username holds a line break"),
        ({"username": f"{CANARY}:x".encode(), "password": b"x"}, "the user name has a colon"),
        ({"token": f"{CANARY}\n".encode()}, "the key token holds a line break"),
        ({"username": b"x", "password": b"\xff" + CANARY.encode()}, "the key password is not UTF-8 text"),
        (docker({HOST: {"username": f"{CANARY}:x", "password": "y"}}), "the user name has a colon"),
        (docker({HOST: {"username": "x", "password": f"{CANARY}\n"}}), "the key password holds a line break"),
        (docker({HOST: {"identitytoken": f"{CANARY}\n"}}), "the key identitytoken holds a line break"),
        (docker({HOST: {"auth": base64.b64encode(b"x:\xff").decode()}}), "the key password is not UTF-8 text"),
    ],
)
def test_credentials_that_would_not_work_are_refused_with_a_remedy(data: dict[str, bytes], expected: str) -> None:
    assert expected in remedy(data)


def test_the_header_is_basic_authentication_in_utf_8() -> None:
    assert Credentials(username="robot", password="swordfish").basic() == "Basic cm9ib3Q6c3dvcmRmaXNo"
    assert Credentials(username="ü", password="ß").basic() == "Basic w7w6w58="
